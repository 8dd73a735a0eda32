"""Notebooks: training in emulation, a look inside the hardware, on a board. `pynq get-notebooks systolora_notebooks` copies them to a board's Jupyter (entry point `pynq.notebooks`)."""
