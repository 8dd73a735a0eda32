"""Procedural captioned sprites: 16 x 16 pictures that the project draws itself.

A sprite is one shape of one colour and one size on one background. `BASE_SHAPES` are the world of the demo
model; `CONCEPTS` are drawn by the same code, but the demo model never saw them, so that fine-tuning on one of
them is a real new concept. Everything is deterministic from a seed and nothing is downloaded.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase

import numpy as np
from PIL import Image, ImageDraw

from .shapes import BASE_PAINTERS, CONCEPT_PAINTERS, Pen, Rgb

PICTURE_SIZE = 16
"""Width and height of a sprite in pixels."""

OVERSAMPLING = 8
"""Sprites are drawn this many times larger and averaged down, which smooths their edges."""

COLOURS: dict[str, Rgb] = {
    "red": (220, 40, 40),
    "green": (50, 180, 60),
    "blue": (50, 90, 230),
    "yellow": (240, 215, 50),
    "purple": (150, 60, 190),
    "orange": (245, 140, 30),
    "cyan": (60, 205, 215),
    "white": (245, 245, 245),
}
BACKGROUNDS: dict[str, Rgb] = {
    "black": (12, 12, 14),
    "gray": (110, 110, 112),
    "navy": (16, 24, 84),
    "brown": (96, 56, 28),
    "pink": (244, 180, 200),
    "mint": (176, 232, 200),
}
SIZES: dict[str, float] = {"small": 0.74, "big": 1.08}


@dataclass(frozen=True)
class Sprite:
    """What a sprite shows, in words: the keys of `SHAPES`, `COLOURS`, `BACKGROUNDS` and `SIZES`."""

    shape: str
    colour: str
    background: str
    size: str

    def __post_init__(self) -> None:
        _require("shape", self.shape, SHAPES)
        _require("colour", self.colour, tuple(COLOURS))
        _require("background", self.background, tuple(BACKGROUNDS))
        _require("size", self.size, tuple(SIZES))


@dataclass(frozen=True)
class SpriteSet:
    """Pictures uint8 [n, 16, 16, 3] with their n captions and n descriptions."""

    pictures: np.ndarray
    captions: tuple[str, ...]
    sprites: tuple[Sprite, ...]

    def __len__(self) -> int:
        return len(self.captions)


BASE_SHAPES: tuple[str, ...] = tuple(BASE_PAINTERS)
"""The shapes that the demo model is trained on."""

CONCEPTS: tuple[str, ...] = tuple(CONCEPT_PAINTERS)
"""The shapes that are never drawn for the demo model: the new concepts of fine-tuning."""

SHAPES: tuple[str, ...] = BASE_SHAPES + CONCEPTS


def random_sprite(
    rng: random.Random,
    shapes: Sequence[str] = BASE_SHAPES,
    colours: Sequence[str] = tuple(COLOURS),
    backgrounds: Sequence[str] = tuple(BACKGROUNDS),
) -> Sprite:
    """A description drawn evenly from the given words; raises ValueError for a word that is not known."""
    return Sprite(rng.choice(shapes), rng.choice(colours), rng.choice(backgrounds), rng.choice(tuple(SIZES)))


def draw_sprite(sprite: Sprite, rng: random.Random) -> np.ndarray:
    """The picture of a sprite, uint8 [16, 16, 3].

    `rng` jitters it a little (each colour channel by at most 10, the size by 5 %, the place by one pixel), so
    that no two pictures of the same description are equal.
    """
    ink = jitter(COLOURS[sprite.colour], rng)
    ground = jitter(BACKGROUNDS[sprite.background], rng)
    side = PICTURE_SIZE * OVERSAMPLING
    image = Image.new("RGB", (side, side), ground)
    # 0.36 of the picture's side: the big size, jittered and shifted, still stays inside.
    radius = 0.36 * side * SIZES[sprite.size] * rng.uniform(0.95, 1.05)
    x, y = (side / 2 + rng.uniform(-1, 1) * OVERSAMPLING for _ in range(2))
    pen = Pen(ImageDraw.Draw(image), x, y, radius, ink, ground)
    (BASE_PAINTERS | CONCEPT_PAINTERS)[sprite.shape](pen)
    return shrink(image)


def full_caption(sprite: Sprite, name: str | None = None) -> str:
    """The caption that says everything; `name` replaces the shape's word (say, by a made-up token)."""
    return f"a {sprite.size} {sprite.colour} {name or sprite.shape} on a {sprite.background} background"


def random_caption(sprite: Sprite, rng: random.Random, name: str | None = None) -> str:
    """A caption that leaves out some facts in 45 % of the cases, as people's captions do.

    `name` replaces the shape's word.
    """
    chance, word = rng.random(), name or sprite.shape
    if chance < 0.55:
        return full_caption(sprite, word)
    if chance < 0.80:
        return f"a {sprite.colour} {word} on a {sprite.background} background"
    if chance < 0.88:
        return f"a {sprite.colour} {word}"
    if chance < 0.94:
        return f"a {word} on a {sprite.background} background"
    return f"a {word}"


def made_up_word(rng: random.Random) -> str:
    """Three to nine random letters that are no shape's word."""
    while True:
        word = "".join(rng.choices(ascii_lowercase, k=rng.randrange(3, 10)))
        if word not in SHAPES:
            return word


def make_sprites(
    count: int,
    seed: int,
    shapes: Sequence[str] = BASE_SHAPES,
    colours: Sequence[str] = tuple(COLOURS),
    backgrounds: Sequence[str] = tuple(BACKGROUNDS),
    full_captions: bool = False,
    made_up_share: float = 0.0,
) -> SpriteSet:
    """`count` sprites drawn from the given words; the same arguments give the same bytes.

    Captions are `random_caption`s, or `full_caption`s if `full_captions`; in a share of them (0 to 1) a
    made-up word stands for the shape. Raises ValueError for a negative count, an empty choice or an unknown
    word.
    """
    if count < 0:
        raise ValueError(f"count is {count}, but a number of sprites is 0 or more")
    for what, words in (("shapes", shapes), ("colours", colours), ("backgrounds", backgrounds)):
        if not words:
            raise ValueError(f"{what} is empty: give at least one word to draw from")
    rng = random.Random(seed)
    pictures = np.empty((count, PICTURE_SIZE, PICTURE_SIZE, 3), np.uint8)
    captions, sprites = [], []
    for index in range(count):
        sprite = random_sprite(rng, shapes, colours, backgrounds)
        pictures[index] = draw_sprite(sprite, rng)
        name = made_up_word(rng) if rng.random() < made_up_share else None
        captions.append(full_caption(sprite, name) if full_captions else random_caption(sprite, rng, name))
        sprites.append(sprite)
    return SpriteSet(pictures, tuple(captions), tuple(sprites))


def write_image_folder(folder: Path, sprites: SpriteSet) -> Path:
    """Write one PNG a sprite and `metadata.jsonl` (`file_name`, `text`): what `systolora train` reads.

    Makes the folder if need be and returns it. Raises ValueError if it already holds a `metadata.jsonl`, so
    that two data sets are never mixed.
    """
    folder = Path(folder)
    listing = folder / "metadata.jsonl"
    if listing.exists():
        raise ValueError(f"{listing} exists: choose an empty folder for the pictures or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index, (picture, caption) in enumerate(zip(sprites.pictures, sprites.captions, strict=True)):
        name = f"sprite_{index:05d}.png"
        Image.fromarray(picture).save(folder / name)
        lines.append(json.dumps({"file_name": name, "text": caption}))
    listing.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return folder


def remove_image_folder(folder: Path) -> None:
    """Removes what `write_image_folder` wrote before, and nothing else."""
    for file in (folder / "metadata.jsonl", *folder.glob("sprite_[0-9][0-9][0-9][0-9][0-9].png")):
        file.unlink(missing_ok=True)


def tile_pictures(pictures: np.ndarray, columns: int, scale: int = 6, gap: int = 1) -> Image.Image:
    """One picture with all `pictures` (uint8 [n, height, width, 3]) in rows of `columns`.

    Each pixel becomes `scale` x `scale`; `gap` pixels (before scaling) of white lie between the pictures.
    """
    pictures = np.asarray(pictures)
    if pictures.ndim != 4 or pictures.dtype != np.uint8 or not len(pictures) or columns < 1:
        raise ValueError(
            f"got {pictures.dtype} {pictures.shape} in {columns} columns, "
            "but tiling needs uint8 pictures [n, height, width, 3] with n >= 1 and at least one column"
        )
    count, height, width, _ = pictures.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    enlarged = (sheet.shape[1] * scale, sheet.shape[0] * scale)
    return Image.fromarray(sheet).resize(enlarged, Image.Resampling.NEAREST)


def _require(what: str, word: str, known: Sequence[str]) -> None:
    if word not in known:
        raise ValueError(f"{what} {word!r} cannot be drawn; choose one of {', '.join(known)}")


def jitter(colour: Rgb, rng: random.Random, amount: float = 10) -> Rgb:
    """The colour with each channel moved by at most `amount`."""
    red, green, blue = (round(min(255, max(0, c + rng.uniform(-amount, amount)))) for c in colour)
    return red, green, blue


def shrink(image: Image.Image) -> np.ndarray:
    """An oversampled drawing as a picture, uint8 [16, 16, 3]."""
    return np.asarray(image.resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.BOX))
