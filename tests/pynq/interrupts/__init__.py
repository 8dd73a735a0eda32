"""What an interrupt (Ctrl-C, the stop button of Jupyter) leaves behind."""
