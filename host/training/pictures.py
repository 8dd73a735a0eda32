"""Pictures with captions from a folder: found, checked, cropped. No torchvision, no datasets: Pillow and numpy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from systolora.errors import UserError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
METADATA = "metadata.jsonl"


@dataclass(frozen=True)
class CaptionedPicture:
    """One picture file and what it shows in words."""

    path: Path
    caption: str


def find_pictures(folder: Path, prompt: str = "") -> list[CaptionedPicture]:
    """All pictures of a folder with their captions, in the order of their names.

    A caption comes from `metadata.jsonl` (lines of `{"file_name": ..., "text": ...}`), else from NAME.txt beside the picture, else
    from `prompt`.

    Raises:
        UserError: for a missing or empty folder, a metadata line that is wrong, or pictures without a caption.
    """
    if not folder.is_dir():
        raise UserError(f"--data {folder}: there is no such folder; give one with pictures and captions")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise UserError(f"--data {folder}: no pictures in it; expected files ending in {', '.join(sorted(SUFFIXES))}")
    captions = _metadata(folder / METADATA) if (folder / METADATA).exists() else {}
    for name in captions:
        if not (folder / name).is_file():
            raise UserError(f"{folder / METADATA}: it names {name}, which is not in the folder")
    pictures = [CaptionedPicture(path, _caption(path, captions, prompt)) for path in paths]
    missing = [picture.path.name for picture in pictures if not picture.caption]
    if missing:
        raise UserError(
            f"--data {folder}: no caption for {missing[0]}{f' and {len(missing) - 1} more' if missing[1:] else ''}; "
            f"write {METADATA} or {Path(missing[0]).stem}.txt, or give --prompt for all"
        )
    return pictures


def _caption(path: Path, captions: dict[str, str], prompt: str) -> str:
    if path.name in captions:
        return captions[path.name]
    beside = path.with_suffix(".txt")
    return beside.read_text().strip() if beside.is_file() else prompt


def _metadata(path: Path) -> dict[str, str]:
    captions: dict[str, str] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            captions[row["file_name"]] = row["text"].strip()
        except (json.JSONDecodeError, TypeError, KeyError, AttributeError):
            raise UserError(
                f'{path} line {number}: expected {{"file_name": "a.png", "text": "caption"}}, found {line[:60]!r}'
            ) from None
    return captions


def load_picture(path: Path, resolution: int) -> NDArray[np.float32]:
    """A picture as float32 [3, resolution, resolution] in -1 .. 1: its largest centred square, resampled.

    Raises:
        UserError: if the file is no picture or is broken.
    """
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise UserError(
            f"{path}: cannot be read as a picture ({error}); mend it or take it out of the folder"
        ) from None
    if picture.size != (resolution, resolution):
        picture = ImageOps.fit(picture, (resolution, resolution), Image.Resampling.LANCZOS)
    return np.asarray(picture, np.float32).transpose(2, 0, 1) / 127.5 - 1.0
