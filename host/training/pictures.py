"""Pictures as the autoencoder takes them: turned upright, on a background, scaled to -1 .. 1, cropped. Pillow and numpy only."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageColor, ImageOps
from systolora.errors import UserError

from .captions import names_of

Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)
# What a file may hold, whatever its name says. Of Pillow's other formats some start programs (EPS) or open further files.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")


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


def load_picture(path: Path, resolution: int, background: Colour = WHITE) -> NDArray[np.float32]:
    """A picture as float32 [3, resolution, resolution] in -1 .. 1: its largest centred square, resampled.

    It is turned as its EXIF orientation says. Transparent pixels show `background`. Greyscale of 16 bits is taken from 0 to 65535,
    of floats from 0 to 1. Of several pictures in one file the first is taken. Colour profiles are not applied.

    Raises:
        UserError: if the file is no picture, is broken, or holds values outside its range.
    """
    with _opened(path) as opened:
        planes = [_square(plane, resolution) for plane in _planes(opened, background)]
    values = np.concatenate(planes, axis=2).transpose(2, 0, 1)
    return np.broadcast_to(values, (3, resolution, resolution)) / np.float32(127.5) - np.float32(1.0)


def picture_size(path: Path) -> tuple[int, int]:
    """(height, width) of a picture in pixels, turned as its EXIF orientation says.

    Raises:
        UserError: as `load_picture`.
    """
    with _opened(path) as opened:
        turned = opened.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        return opened.size if turned else (opened.height, opened.width)


def check_pictures(paths: Sequence[Path], background: Colour = WHITE) -> list[str]:
    """Decodes every picture once and keeps none, so that a broken one is found before hours of encoding.

    Returns:
        Notes for the user, a line each: files that hold several pictures.

    Raises:
        UserError: naming the first that cannot be read, why, and the others.
    """
    several, broken = [], []
    for path in paths:
        try:
            with _opened(path) as opened:
                # MPO is what phones write: the picture and, for their own use, others.
                if getattr(opened, "is_animated", False) and opened.format != "MPO":
                    several.append(path)
                opened.draft("RGB", (64, 64))  # a JPEG may be decoded to a fraction of its size
                _planes(opened, background)
        except UserError as error:
            broken.append((path, error))
    if broken:
        others = f"; the same holds for {names_of([path for path, _ in broken[1:]])}" if broken[1:] else ""
        raise UserError(f"{broken[0][1]}{others}")
    return [f"the first picture is taken of files that hold several: {names_of(several)}"] if several else []


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An open picture; whatever Pillow raises on a broken one, here or in the block, becomes one line."""
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        with warnings.catch_warnings():
            # Above a quarter of this size Pillow only warns; cameras make such pictures. Beyond it an error comes.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=formats) as picture:
                if 0 in picture.size:
                    raise UserError(
                        f"{path}: cannot be read as a picture (it has no pixels); take it out of the folder"
                    )
                yield picture
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


def _square(picture: Image.Image, resolution: int) -> NDArray[np.float32]:
    if picture.size != (resolution, resolution):
        picture = ImageOps.fit(picture, (resolution, resolution), Image.Resampling.LANCZOS)
    values = np.asarray(picture, np.float32)
    # The filter overshoots at edges; images of 8 bits are clipped by Pillow.
    return np.clip(np.atleast_3d(values), 0, 255)
