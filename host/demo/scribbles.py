"""Scribbles: random strokes and patches, for what must know more than the shapes of sprites."""

from __future__ import annotations

import random

import numpy as np
from PIL import Image, ImageDraw

from .shapes import Rgb
from .sprites import BACKGROUNDS, COLOURS, OVERSAMPLING, PICTURE_SIZE, jitter, shrink


def make_scribbles(count: int, seed: int, sprite_colours: bool = False) -> np.ndarray:
    """`count` scribbles, uint8 [count, 16, 16, 3]; the same seed gives the same bytes."""
    rng = random.Random(seed)
    pictures = np.empty((count, PICTURE_SIZE, PICTURE_SIZE, 3), np.uint8)
    for index in range(count):
        pictures[index] = draw_scribble(rng, sprite_colours)
    return pictures


def draw_scribble(rng: random.Random, sprite_colours: bool = False) -> np.ndarray:
    """A picture of one to six random strokes and patches, uint8 [16, 16, 3].

    Colours are any, or, with `sprite_colours`, those of one sprite: one ink on one background. The
    autoencoder sees scribbles so that it can encode shapes that it was never shown; the judge takes them as
    examples of "none of the shapes".
    """
    side = PICTURE_SIZE * OVERSAMPLING
    ground, ink = _any_colour(rng), None
    if sprite_colours:
        ground = jitter(rng.choice(tuple(BACKGROUNDS.values())), rng)
        ink = jitter(rng.choice(tuple(COLOURS.values())), rng)
    image = Image.new("RGB", (side, side), ground)
    canvas = ImageDraw.Draw(image)
    for _ in range(rng.randrange(1, 7)):
        _scribble_once(canvas, side, ink or _any_colour(rng), rng)
    return shrink(image)


def _any_colour(rng: random.Random) -> Rgb:
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)


def _scribble_once(canvas: ImageDraw.ImageDraw, side: int, colour: Rgb, rng: random.Random) -> None:
    x, y = rng.uniform(-10, side), rng.uniform(-10, side)
    width, height = rng.uniform(8, 80), rng.uniform(8, 80)
    kind = rng.choice(("ellipse", "rectangle", "polygon", "line"))
    if kind == "ellipse":
        canvas.ellipse((x, y, x + width, y + height), fill=colour)
    elif kind == "rectangle":
        canvas.rectangle((x, y, x + width, y + height), fill=colour)
    elif kind == "polygon":
        corners = range(rng.randrange(3, 7))
        points = [(x + rng.uniform(0, width), y + rng.uniform(0, height)) for _ in corners]
        canvas.polygon(points, fill=colour)
    else:
        canvas.line((x, y, x + width, y + height), fill=colour, width=rng.randrange(4, 16))
