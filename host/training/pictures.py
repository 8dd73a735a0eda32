"""Pictures as the autoencoder takes them: turned upright, on a background, scaled to -1 .. 1, cropped. Pillow and numpy only."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageOps
from systolora.errors import UserError
from systolora.files import write_atomically

from .captions import CaptionedPicture, names_of
from .formats import readable_formats

Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)
Size = tuple[int, int]
"""Width and height, in pixels."""

CENTRE = (0.5, 0.5)
_ON_ITS_SIDE = frozenset({5, 6, 7, 8})
"""EXIF orientations that exchange width and height."""


def parse_colour(text: str) -> Colour:
    """Red, green and blue, 0 to 255, of a colour's name or #rrggbb.

    Raises:
        UserError: if it is no colour.
    """
    try:
        red, green, blue, *_ = ImageColor.getrgb(text)
    except ValueError:
        raise UserError(f"--background {text!r}: give a colour's name (white) or #rrggbb") from None
    return red, green, blue


def load_picture(
    picture: Path | CaptionedPicture,
    size: int | Size,
    background: Colour = WHITE,
    place: tuple[float, float] = CENTRE,
) -> NDArray[np.float32]:
    """A picture as float32 [3, height, width] in -1 .. 1: the largest part of that shape, resampled.

    It is turned as its EXIF orientation says. Transparent pixels show `background`. Greyscale of 16 bits is taken from 0 to 65535,
    of floats from 0 to 1. Of several pictures in one file the first is taken. Colour profiles are not applied.

    Args:
        size: of the result; one number is a square. place: of the part, from 0 (left, top) to 1.

    Raises:
        UserError: if the file is no picture, is broken, or holds values outside its range.
    """
    width, height = (size, size) if isinstance(size, int) else size
    with _opened(picture) as opened:
        planes = [_part(plane, (width, height), place) for plane in _planes(opened, background)]
    values = np.concatenate(planes, axis=2).transpose(2, 0, 1)
    return np.broadcast_to(values, (3, height, width)) / np.float32(127.5) - np.float32(1.0)


def write_png(path: Path, picture: Image.Image) -> None:
    """Writes a picture whole or not at all.

    Raises:
        OSError: if it cannot be written.
    """
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())


@dataclass(frozen=True)
class Findings:
    """What a look at pictures found.

    Attributes:
        sizes: width and height of each readable picture, upright, by path. several: files that hold several pictures.
        broken: those that cannot be read, and why.
    """

    sizes: dict[Path, Size]
    several: tuple[Path, ...]
    broken: tuple[tuple[Path, UserError], ...]


def examine_pictures(
    pictures: Sequence[Path | CaptionedPicture],
    background: Colour = WHITE,
    known: Callable[[CaptionedPicture | Path, Size], bool] = lambda picture, size: False,
) -> Findings:
    """Decodes every picture once and keeps none, so that a broken one is found before hours of encoding.

    Args:
        known: told the upright size of a picture, whether it need not be decoded, because it was before.
    """
    sizes, several, broken = {}, [], []
    for picture in pictures:
        path = picture if isinstance(picture, Path) else picture.path
        try:
            with _opened(picture) as opened:
                width, height = opened.size
                size = (height, width) if opened.getexif().get(0x0112) in _ON_ITS_SIDE else (width, height)
                # MPO is what phones write: the picture and, for their own use, others.
                animated = getattr(opened, "is_animated", False) and opened.format != "MPO"
                if not known(picture, size):
                    opened.draft("RGB", (64, 64))  # a JPEG may be decoded to a fraction of its size
                    _planes(opened, background)
                sizes[path] = size
                if animated:
                    several.append(path)
        except UserError as error:
            broken.append((path, error))
    return Findings(sizes, tuple(several), tuple(broken))


def refuse_broken(findings: Findings) -> None:
    """Raises UserError if a picture cannot be read: why the first, and which others."""
    broken = findings.broken
    if broken:
        others = f"; the same holds for {names_of([path for path, _ in broken[1:]])}" if broken[1:] else ""
        raise UserError(f"{broken[0][1]}{others}")


def several_note(findings: Findings) -> list[str]:
    """A line on files that hold several pictures, if there are any."""
    several = findings.several
    return [f"the first picture is taken of files that hold several: {names_of(several)}"] if several else []


@contextmanager
def _opened(picture: Path | CaptionedPicture) -> Iterator[Image.Image]:
    """An open picture; whatever Pillow raises on a broken one, here or in the block, becomes one line."""
    path = picture if isinstance(picture, Path) else picture.path
    file = picture.open() if isinstance(picture, CaptionedPicture) and picture.content else path
    try:
        with warnings.catch_warnings():
            # Above a quarter of this size Pillow only warns; cameras make such pictures. Beyond it an error comes.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file, formats=readable_formats()) as opened:
                if 0 in opened.size:
                    raise UserError(
                        f"{path}: cannot be read as a picture (it has no pixels); take it out of the folder"
                    )
                yield opened
    except UserError:
        raise
    except Exception as error:  # Pillow's readers raise a dozen kinds for broken files
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(
            f"{path}: cannot be read as a picture ({reason}); mend it or take it out of the folder"
        ) from None


def _planes(opened: Image.Image, background: Colour) -> list[Image.Image]:
    """The picture as one RGB image, or as one or three float images of 0 to 255 where it has more than 8 bits."""
    picture = ImageOps.exif_transpose(opened)
    if picture.mode == "F" or picture.mode.startswith("I"):
        return _deep_planes(picture, background)
    if picture.has_transparency_data:
        behind = Image.new("RGBA", picture.size, (*background, 255))
        return [Image.alpha_composite(behind, picture.convert("RGBA")).convert("RGB")]
    return [picture.convert("RGB")]


def _deep_planes(picture: Image.Image, background: Colour) -> list[Image.Image]:
    values = np.asarray(picture)
    top = 1.0 if picture.mode == "F" else 65535.0
    least, most = float(values.min()), float(values.max())
    if not (least >= 0 and most <= top):
        raise ValueError(f"greyscale values from {least:g} to {most:g}, where 0 to {top:g} are taken")
    levels = values.astype(np.float32) * np.float32(255 / top)
    planes = [levels]
    if "transparency" in picture.info:
        hidden = values == picture.info["transparency"]
        planes = [np.where(hidden, np.float32(level), levels) for level in background]
    return [Image.fromarray(plane) for plane in planes]


def _part(picture: Image.Image, size: Size, place: tuple[float, float]) -> NDArray[np.float32]:
    if picture.size != size:
        picture = ImageOps.fit(picture, size, Image.Resampling.LANCZOS, centering=place)
    values = np.asarray(picture, np.float32)
    # The filter overshoots at edges; images of 8 bits are clipped by Pillow.
    return np.clip(np.atleast_3d(values), 0, 255)
