"""Keeps the libraries below from talking: what they print is seldom what a user asked for."""

from __future__ import annotations


def quiet_libraries() -> None:
    """Stop diffusers and transformers from printing progress bars and advice; errors still come."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
