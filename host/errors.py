"""The one exception that the command line turns into one line instead of a traceback."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in what the user gave; the text says what was given, what is allowed and what to do."""
