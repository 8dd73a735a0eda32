"""Pictures of a folder and what they show in words: found in the folder or named by `metadata.jsonl`, none left out silently."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from systolora.errors import UserError
from systolora.files import read_utf8

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
METADATA = "metadata.jsonl"


@dataclass(frozen=True)
class CaptionedPicture:
    """One picture file and what it shows in words; `source` is where the words come from."""

    path: Path
    caption: str
    source: Literal["metadata", "text", "prompt"] = "prompt"


def find_pictures(folder: Path, prompt: str = "") -> list[CaptionedPicture]:
    """All pictures of a folder, and those that its `metadata.jsonl` names, in the order of their names.

    A caption comes from `metadata.jsonl` (lines of `{"file_name": ..., "text": ...}`, names relative to the folder), else from
    NAME.txt beside the picture, else from `prompt`. Files are UTF-8.

    Raises:
        UserError: for a missing or empty folder, a metadata line that is wrong, or pictures without a caption.
    """
    if not os.path.isdir(folder):
        raise UserError(f"--data {folder}: there is no such folder; give one with pictures and captions")
    captions = _metadata(folder) if os.path.lexists(folder / METADATA) else {}
    listed = {path for path in _visible(folder) if path.suffix.lower() in SUFFIXES}
    paths = sorted(listed | captions.keys())
    if not paths:
        raise UserError(f"--data {folder}: no pictures in it; expected files ending in {', '.join(sorted(SUFFIXES))}")
    pictures = [_captioned(path, captions.get(path, ""), prompt) for path in paths]
    missing = [picture.path for picture in pictures if not picture.caption]
    if missing:
        raise UserError(
            f"--data {folder}: no caption for {names_of(missing, folder)}; "
            f"write {METADATA} or {os.path.relpath(missing[0].with_suffix('.txt'), folder)}, or give --prompt for all"
        )
    return pictures


def folder_notes(folder: Path, pictures: Sequence[CaptionedPicture]) -> list[str]:
    """What a user may not expect of a folder, a line each: files that are not taken, pictures that the metadata does not name."""
    notes = []
    used = {picture.path for picture in pictures} | {picture.path.with_suffix(".txt") for picture in pictures}
    # The folder and those inside it that lead to a picture.
    opened = {folder} | {above for path in used for above in path.parents if folder in above.parents}
    used |= opened | {folder / METADATA}
    left = [path for place in sorted(opened) for path in _visible(place) if path not in used]
    if left:
        notes.append(f"{folder}: not taken as pictures or captions: {names_of(left, folder)}")
    prompted = [picture.path for picture in pictures if picture.source == "prompt"]
    if prompted and any(picture.source == "metadata" for picture in pictures):
        notes.append(f"{folder / METADATA}: it has no caption for {names_of(prompted, folder)}; they take --prompt")
    return notes


def names_of(paths: Sequence[Path], folder: Path | None = None) -> str:
    """The names of the first three files, relative to `folder` where it is given, and how many more there are."""
    shown = ", ".join(os.path.relpath(path, folder) if folder else path.name for path in paths[:3])
    return f"{shown} and {len(paths) - 3} more" if len(paths) > 3 else shown


def _visible(folder: Path) -> list[Path]:
    """What lies in a folder, sorted, without hidden files (macOS puts `._a.png` beside a.png)."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"--data {folder}: cannot be read: {error.strerror}") from None


def _captioned(path: Path, own: str, prompt: str) -> CaptionedPicture:
    if own:
        return CaptionedPicture(path, own, "metadata")
    beside = path.with_suffix(".txt")
    text = read_utf8(beside).strip() if os.path.isfile(beside) else ""
    return CaptionedPicture(path, text, "text") if text else CaptionedPicture(path, prompt)


def _metadata(folder: Path) -> dict[Path, str]:
    """Caption by picture. Only a line feed ends a line: U+2028 and U+0085 may stand inside a JSON text."""
    file = folder / METADATA
    captions: dict[Path, str] = {}
    for number, line in enumerate(read_utf8(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, text = row["file_name"], row["text"].strip()
            path = folder / os.path.normpath(name)
            text.encode()  # JSON can spell half a surrogate pair, which is no text
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise UserError(
                f'{file} line {number}: expected {{"file_name": "a.png", "text": "caption"}}, found {line[:60]!r}'
            ) from None
        if not os.path.isfile(path):  # False, not an error, for a name that is too long
            raise UserError(f"{file} line {number}: it names {_short(name)}, which is not in the folder")
        if path in captions:
            raise UserError(f"{file} line {number}: it names {_short(name)} a second time; keep one line of it")
        captions[path] = text
    return captions


def _short(name: str) -> str:
    return repr(name[:80])[1:-1] + (f"... ({len(name)} letters)" if len(name) > 80 else "")
