"""What instructions cost: clocks, traffic, stalls, energy; formulas, and models that count one by one."""
