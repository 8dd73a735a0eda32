"""Notebooks for a PYNQ board; `pynq get-notebooks systolora_notebooks` copies them to where Jupyter runs (entry point `pynq.notebooks`)."""
