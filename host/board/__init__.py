"""The PYNQ driver: from a bitstream to a checked device that runs programs. The only package, with `emulated_board`, that imports pynq."""
