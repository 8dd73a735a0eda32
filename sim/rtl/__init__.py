"""The array's clock-step text as Verilog, checked in lock-step with C-simulation."""
