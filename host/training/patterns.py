"""The patterns of `--adapt`, checked before a model is loaded; no torch is loaded for it."""

from __future__ import annotations

import re

from systolora.errors import UserError
from systolora.offloading.target_names import TARGETS

REGEX = "re:"
"""Begins a pattern that is a regular expression."""


def split_patterns(adapt: str) -> list[str]:
    """The patterns between commas; those of a regular expression are its own.

    Raises:
        UserError: for a regular expression that is none, an empty pattern, or a bare word, which is rather a name that is misspelt.
    """
    patterns = [adapt] if adapt.startswith(REGEX) else [part.strip() for part in adapt.split(",")]
    for pattern in patterns:
        if not pattern:
            raise UserError(f"--adapt {adapt!r}: an empty pattern; leave the comma out")
        if pattern.isalpha():
            raise UserError(
                f"--adapt {pattern!r}: allowed are {', '.join(TARGETS)}, or patterns of layers' names, such as to_k,*.ff.net.2"
            )
        if pattern.startswith(REGEX):
            try:
                re.compile(pattern.removeprefix(REGEX))
            except re.error as error:
                raise UserError(f"--adapt {pattern}: it is no regular expression: {error}") from None
    return patterns
