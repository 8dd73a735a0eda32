"""The libraries below: how a missing one is installed, and how they are kept from talking."""

from __future__ import annotations

import shlex
import sys
import warnings
from pathlib import Path


def install_advice(extra: str, root: Path | None = None) -> str:
    """The command that brings what `systolora[extra]` asks for. No package of this name is published: it is installed from a clone.

    Args:
        extra: "train", "board" or "lint".
        root: the clone; None takes the folder that this package runs from, if it is one.
    """
    root = root or Path(__file__).resolve().parents[1]
    pins = "constraints.txt"
    if extra == "board":
        # The versions that the boards' images have: pynq 3.0.1 on Python 3.10, pynq 4.0 from 3.12 on.
        pins = "constraints-pynq4.txt" if sys.version_info >= (3, 11) else "constraints-pynq3.txt"
    if (root / pins).is_file() and (root / "pyproject.toml").is_file():
        return f"pip install -c {shlex.quote(str(root / pins))} -e {shlex.quote(f'{root}[{extra}]')}"
    return f"pip install -c {pins} -e '.[{extra}]' (in a clone of systolora)"


def quiet_libraries() -> None:
    """Stop diffusers and transformers from printing progress bars and advice; errors still come.

    Called before they are imported it also keeps their advice at import away.
    """
    # In a notebook without ipywidgets tqdm says so on import; its bars are off anyway.
    warnings.filterwarnings("ignore", "IProgress not found")
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
