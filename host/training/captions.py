"""Pictures of a folder and what they show in words: found in the folder or named by its metadata, none left out silently."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal

from systolora.errors import UserError
from systolora.files import read_utf8

from .formats import picture_suffixes
from .metadata import METADATA, MetadataFile, read_metadata

TEXT_SUFFIXES = (".txt", ".caption")
"""Of the file beside a picture that holds its caption; the first that is there counts."""


@dataclass(frozen=True)
class CaptionedPicture:
    """One picture file and what it shows in words.

    Attributes:
        source: where the words come from. content: gives the file's bytes, where it lies in a data set and `path` only names it.
    """

    path: Path
    caption: str
    source: Literal["metadata", "text", "prompt"] = "prompt"
    content: Callable[[], bytes] | None = field(default=None, compare=False, repr=False)

    def open(self) -> BinaryIO:
        """The file's bytes.

        Raises:
            OSError: if it cannot be read.
        """
        return BytesIO(self.content()) if self.content else self.path.open("rb")


def find_pictures(folder: Path, prompt: str = "", subfolders: bool = False) -> list[CaptionedPicture]:
    """All pictures of a folder, and those that its metadata names, in the order of their names.

    A caption comes from `metadata.jsonl` or `metadata.csv`, else from NAME.txt or NAME.caption beside the picture, else from
    `prompt`. Files are UTF-8.

    Args:
        subfolders: whether the pictures of the folders inside it are taken too.

    Raises:
        UserError: for a missing or empty folder, a metadata line that is wrong, or pictures without a caption.
    """
    if not os.path.isdir(folder):
        raise UserError(f"--data {folder}: there is no such folder; give one with pictures and captions")
    captions = read_metadata(folder).captions
    suffixes = picture_suffixes()
    places = _folders(folder) if subfolders else [folder]
    listed = {path for place in places for path in _visible(place) if path.suffix.lower() in suffixes}
    paths = sorted({path for path in listed if not path.is_dir()} | captions.keys())
    if not paths:
        raise UserError(f"--data {folder}: {_nothing_in(folder, suffixes, subfolders)}")
    pictures = [_captioned(path, captions.get(path, ""), prompt) for path in paths]
    missing = [picture.path for picture in pictures if not picture.caption]
    if missing:
        raise UserError(
            f"--data {folder}: no caption for {names_of(missing, folder)}; "
            f"write {METADATA} or {os.path.relpath(missing[0].with_suffix('.txt'), folder)}, or give --prompt for all"
        )
    return pictures


def _nothing_in(folder: Path, suffixes: frozenset[str], subfolders: bool) -> str:
    inside = () if subfolders else _folders(folder)[1:]
    if any(path.suffix.lower() in suffixes for place in inside for path in _visible(place)):
        return "no pictures in it, only in folders inside it; give --subfolders to take those"
    return f"no pictures in it; expected files ending in {', '.join(sorted(suffixes))}"


def folder_notes(folder: Path, pictures: Sequence[CaptionedPicture]) -> list[str]:
    """What a user may not expect of a folder, a line each: files that are not taken, pictures that the metadata does not name."""
    notes = []
    metadata: MetadataFile = read_metadata(folder)
    used = {picture.path for picture in pictures}
    used |= {beside for picture in pictures if (beside := _text_beside(picture.path))}
    # The folder and those inside it that lead to a picture.
    opened = {folder} | {above for path in used for above in path.parents if folder in above.parents}
    used |= opened | {metadata.path}
    left = [path for place in sorted(opened) for path in _visible(place) if path not in used]
    if left:
        notes.append(f"{folder}: not taken as pictures or captions: {names_of(left, folder)}")
    prompted = [picture.path for picture in pictures if picture.source == "prompt"]
    if prompted and any(picture.source == "metadata" for picture in pictures):
        notes.append(f"{metadata.path}: it has no caption for {names_of(prompted, folder)}; they take --prompt")
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


def _folders(folder: Path) -> list[Path]:
    """A folder and all inside it that are not hidden. One that a link leads to is not entered: links may go round."""
    inside = [path for path in _visible(folder) if path.is_dir() and not path.is_symlink()]
    return [folder, *(deeper for place in inside for deeper in _folders(place))]


def _captioned(path: Path, own: str, prompt: str) -> CaptionedPicture:
    if own:
        return CaptionedPicture(path, own, "metadata")
    beside = _text_beside(path)
    text = read_utf8(beside).strip() if beside else ""
    return CaptionedPicture(path, text, "text") if text else CaptionedPicture(path, prompt)


def _text_beside(path: Path) -> Path | None:
    """The text file of a picture, if there is one."""
    places = (path.with_suffix(suffix) for suffix in TEXT_SUFFIXES)
    return next((place for place in places if os.path.isfile(place)), None)
