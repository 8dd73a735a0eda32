"""Fields of settings dataclasses that become options of the command line."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def setting(default: Any, help_text: str) -> Any:
    """A dataclass field that `cli_options.options_from` makes an option of; the text is its help."""
    return field(default=default, metadata={"help": help_text})
