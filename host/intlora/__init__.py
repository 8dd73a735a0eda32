"""IntLoRA, the method: integer weights, quantizers, adaptation by MUL and SHIFT, merge, export, integer inference."""
