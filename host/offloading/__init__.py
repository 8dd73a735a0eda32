"""`systolora.offload`: a torch model's layers, forward and backward, as programs of the device."""
