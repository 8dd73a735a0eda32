"""What becomes one line on the command line instead of a traceback."""

from __future__ import annotations

import os


class UserError(ValueError):
    """A mistake in what the user gave; the text says what was given, what is allowed and what to do."""


def describe_error(error: BaseException) -> str | None:
    """One line for an error that the input or the machine caused; None for one that is a fault of the program.

    The project's own errors say it themselves. Files that cannot be read or written, text of another encoding, and input that is
    too large or too deep come from wherever Python met them; the line names the file where Python knows it.
    """
    if type(error).__module__.startswith("systolora."):
        return printable(str(error))
    if isinstance(error, OSError):
        names = " -> ".join(_text(name) for name in (error.filename, error.filename2) if name is not None)
        reason = error.strerror or str(error) or type(error).__name__
        return printable(f"{names}: {reason}" if names else reason)
    if isinstance(error, UnicodeDecodeError):
        part = bytes(error.object[max(0, error.start - 20) : error.end + 20])
        return printable(f"text that is not {error.encoding} near {part!r}: save the file as UTF-8")
    if isinstance(error, UnicodeError):
        return printable(f"text that cannot be written in this encoding: {error}")
    if isinstance(error, MemoryError) or _out_of_memory(error):
        return printable(f"not enough memory ({error}): give smaller sizes" if str(error) else "not enough memory")
    if isinstance(error, RecursionError):
        return "the input is nested too deeply"
    if isinstance(error, OverflowError):
        return printable(f"a number in the input is too large ({error})")
    return None


def printable(text: str) -> str:
    """The text on one line, with what a terminal cannot show, or would obey, written as an escape."""
    flat = " ".join(part.strip() for part in text.splitlines() if part.strip())
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in flat)


def _out_of_memory(error: BaseException) -> bool:
    """What torch raises where Python raises MemoryError."""
    kind, text = type(error).__name__, str(error)
    return isinstance(error, RuntimeError) and (kind == "OutOfMemoryError" or "can't allocate memory" in text)


def _text(name: object) -> str:
    return os.fsdecode(name) if isinstance(name, (str, bytes, os.PathLike)) else str(name)
