"""The built-in model that draws sprites, its judge, how both were trained, and `systolora demo`."""
