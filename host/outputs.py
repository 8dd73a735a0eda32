"""What commands write: folders that carry our mark and files that we recognise; nothing of the user's is ever overwritten."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path

from systolora.errors import UserError
from systolora.files import write_atomically

MARK = ".systolora.json"
"""A file in each output folder that says which command made it."""

PROJECT_MAKER = "systolora generate"
"""In the mark of a generated HLS project: `generate` and `bitstream build` both write one."""

_HEAD = 1 << 16
"""Bytes of a file in which its mark must stand."""


def claim_folder(folder: Path, maker: str, option: str = "--out") -> Path:
    """Makes an output folder, or takes one over that is empty or that the same command made before; returns it.

    Args:
        maker: the command, such as "systolora demo"; it stands in the folder's mark. option: that named the folder.

    Raises:
        UserError: if it cannot be written, is no folder, or holds anything that the command did not make.
    """
    check_folder(folder, maker, option)
    try:
        write_atomically(folder / MARK, (json.dumps({"made_by": maker}) + "\n").encode())
    except OSError as error:
        raise UserError(f"{option} {folder}: it cannot be written: {error.strerror or error}") from None
    return folder


def check_folder(folder: Path, maker: str, option: str = "--out") -> None:
    """What `claim_folder` refuses, before long work; leaves nothing behind.

    Raises:
        UserError: as `claim_folder`.
    """
    try:
        _require_name(folder)
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{option} {folder}: it is a file; give a folder")
        if folder.is_dir() and any(folder.iterdir()) and _maker(folder) != maker:
            raise UserError(
                f"{option} {folder}: the folder is not empty: it holds files that '{maker}' did not make, and they are not touched; "
                "give a new or an empty folder"
            )
        try_writing(folder)
    except OSError as error:
        raise UserError(f"{option} {folder}: it cannot be written: {error.strerror or error}") from None


def check_file(path: Path, option: str, mark: bytes) -> None:
    """Whether a file can be written there: it is new, or one that we wrote; leaves nothing behind.

    Args:
        mark: what stands in the first 64 KB of each of our files of that kind.

    Raises:
        UserError: if not; the text says why.
    """
    try:
        _require_name(path)
        if path.is_dir():
            raise UserError(f"{option} {path}: it is a folder; give a file")
        if path.exists() and not path.is_file():
            raise UserError(f"{option} {path}: it is no ordinary file; give the name of a new one")
        if path.is_file() and path.stat().st_size and mark not in _head(path):
            raise UserError(
                f"{option} {path}: systolora did not write that file, and it is not overwritten; give another name"
            )
        try_writing(path.parent)
    except OSError as error:
        raise UserError(f"{option} {path}: it cannot be written: {error.strerror or error}") from None


def write_output(path: Path, data: bytes, option: str, mark: bytes) -> None:
    """Writes a file whole or not at all, if `check_file` allows it. The folders above it are made.

    Raises:
        UserError: as `check_file`, and if the disk is full.
    """
    check_file(path, option, mark)
    try:
        write_atomically(path.resolve(), data)
    except OSError as error:
        raise UserError(f"{option} {path}: it cannot be written: {error.strerror or error}") from None


def try_writing(folder: Path) -> None:
    """Writes a byte where the folder is or would be made; leaves nothing behind.

    Raises:
        OSError: if that fails.
    """
    place = folder
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise NotADirectoryError(20, f"{place} is a file")
    with tempfile.TemporaryFile(dir=place) as file:
        file.write(b"\0")
        file.flush()


def _require_name(path: Path) -> None:
    """Raises OSError for a name that no file can have: newer Pythons say that it does not exist."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.lstat(path)


def _maker(folder: Path) -> str:
    try:
        content = json.loads((folder / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(content.get("made_by", "")) if isinstance(content, dict) else ""


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)
