"""How often a picture comes in an epoch, by the folder in the data folder that it lies in."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from systolora.errors import UserError

from .captions import CaptionedPicture

BY_NAME = "names"
"""The value of `--repeats` that takes them from the folders' names: `10_cats` ten times, as kohya's scripts do."""

_NAME = re.compile(r"(\d+)_.*")
_MOST = 10_000


def picture_repeats(folder: Path, pictures: Sequence[CaptionedPicture], repeats: str) -> list[int]:
    """How often each picture comes in an epoch; 1 where nothing is said of its folder.

    Args:
        repeats: "" for once each, "names", or FOLDER=TIMES,FOLDER=TIMES with folders in the data folder.

    Raises:
        UserError: for text that is neither, a number that is not from 1 to 10,000, or a folder without pictures.
    """
    tops = [_top(folder, picture) for picture in pictures]
    if repeats == BY_NAME:
        return [_checked(top, match[1]) if (match := _NAME.fullmatch(top)) else 1 for top in tops]
    given = _parse(repeats)
    unknown = [name for name in given if name not in tops]
    if unknown:
        raise UserError(
            f"--repeats {unknown[0]}={given[unknown[0]]}: no pictures are taken from a folder of that name in {folder}; "
            "are they without --subfolders?"
        )
    return [given.get(top, 1) for top in tops]


def _parse(repeats: str) -> Mapping[str, int]:
    given: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in repeats.split(","))):
        name, sign, times = part.rpartition("=")
        if not sign or not name:
            raise UserError(f"--repeats {part}: give {BY_NAME}, or FOLDER=TIMES,FOLDER=TIMES")
        if name in given:
            raise UserError(f"--repeats {part}: {name} is given a second time")
        given[name] = _checked(name, times)
    return given


def _checked(name: str, times: str) -> int:
    # Five digits: Python reads no more than some thousands of them.
    if re.fullmatch(r"\d{1,5}", times, re.ASCII) and 1 <= int(times) <= _MOST:
        return int(times)
    raise UserError(f"--repeats: {times[:20]} times for {name}: give 1 to {_MOST:,}")


def _top(folder: Path, picture: CaptionedPicture) -> str:
    """The first folder on the way from the data folder to a picture; "" if it lies in the data folder itself."""
    parts = Path(os.path.relpath(picture.path, folder)).parts
    return parts[0] if len(parts) > 1 else ""
