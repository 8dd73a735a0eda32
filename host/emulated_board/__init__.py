"""A PYNQ board made of software, below the real driver and the real pynq package, with faults to order."""
