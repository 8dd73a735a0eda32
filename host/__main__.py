"""`python -m systolora`: the command line, for launchers that start a module (torchrun, accelerate)."""

from systolora.cli.app import main

main()
