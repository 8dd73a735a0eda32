"""What computes bits: numeric reference, device memory, controller, and the emulator with its fast paths."""
