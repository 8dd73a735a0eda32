"""What a run depends on besides its settings, by contents: the files of the model folder, the pictures and their captions.

A folder that was moved or renamed, or is named in another way, is the same; one whose files changed is not.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from systolora.errors import UserError
from systolora.models.layouts import PARTS

from .captions import CaptionedPicture

_SUFFIXES = frozenset({".json", ".safetensors", ".bin", ".txt", ".model"})
_SHOWN = 3

Fingerprint = Mapping[str, str]
"""File name, relative to the folder and with slashes, to SHA-256 of its contents in hexadecimal."""


def model_fingerprint(model: Path, config: Path | None = None) -> dict[str, str]:
    """The files of a pipeline folder that training reads, or a checkpoint file and those of its `config` folder; empty if there is none."""
    if model.is_file():
        return {"checkpoint": file_digest(model), **(model_fingerprint(config) if config else {})}
    paths = [model / "model_index.json", *(path for part in PARTS for path in (model / part).glob("**/*"))]
    files = sorted(path for path in paths if path.suffix in _SUFFIXES and path.is_file())
    return {path.relative_to(model).as_posix(): file_digest(path) for path in files}


def data_fingerprint(folder: Path, pictures: Sequence[CaptionedPicture]) -> dict[str, str]:
    """The pictures of a data folder, each with its caption."""
    return {
        Path(os.path.relpath(picture.path, folder)).as_posix(): picture_digest(picture, picture.caption)
        for picture in pictures
    }


def check_same(option: str, saved: Fingerprint, found: Fingerprint) -> None:
    """Holds what is there now against what a checkpoint was trained on.

    Raises:
        UserError: saying which files changed, in one line.
    """
    changes = (
        ("changed", [name for name in found if name in saved and saved[name] != found[name]]),
        ("new", [name for name in found if name not in saved]),
        ("gone", [name for name in saved if name not in found]),
    )
    said = "; ".join(f"{what}: {_some(names)}" for what, names in changes if names)
    if said:
        raise UserError(
            f"--resume: {option} is not what the checkpoint was trained on ({said}); put it back, or start a run in another --output"
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def picture_digest(picture: CaptionedPicture, caption: str = "") -> str:
    """SHA-256, in hexadecimal, of a picture's file and a caption."""
    with picture.open() as file:
        return _digest(file, caption)


def file_digest(path: Path) -> str:
    """SHA-256, in hexadecimal, of a file without a caption."""
    with path.open("rb") as file:
        return _digest(file)


def _digest(file: BinaryIO, caption: str = "") -> str:
    digest = hashlib.sha256()
    while chunk := file.read(1 << 22):
        digest.update(chunk)
    digest.update(b"\0" + caption.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
