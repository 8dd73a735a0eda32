"""Files that are written whole or not at all, and text that is read with one clear line for what is not text."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from .errors import UserError


def write_atomically(path: Path, data: bytes) -> None:
    """Puts a file in place in one step: readers see the old content or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def read_utf8(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark; CR LF and LF both end a line.

    Raises:
        UserError: naming the file, if it cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: it is not UTF-8 (byte 0x{error.object[error.start]:02x} at position {error.start}); save it as UTF-8"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def _sync_folder(folder: Path) -> None:
    """The new name survives a power cut too; file systems that cannot promise that are left as they are."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
