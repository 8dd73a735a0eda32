"""Software models of the accelerator: reference, emulator, C-simulation, performance."""
