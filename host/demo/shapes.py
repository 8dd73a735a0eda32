"""How each sprite shape is drawn: one short painter a shape, in the shape's own coordinates.

Used by `systolora.demo.sprites` alone, which chooses colours, sizes and places.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import ImageDraw

Rgb = tuple[int, int, int]


@dataclass(frozen=True)
class Pen:
    """Draws in the sprite's own frame: (0, 0) is its centre, 1 its radius, y points down."""

    canvas: ImageDraw.ImageDraw
    x: float
    y: float
    radius: float
    ink: Rgb
    ground: Rgb

    def disc(self, x: float, y: float, radius: float, fill: Rgb | None = None) -> None:
        """A filled circle."""
        cx, cy, r = self.x + x * self.radius, self.y + y * self.radius, radius * self.radius
        self.canvas.ellipse((cx - r, cy - r, cx + r, cy + r), fill=fill or self.ink)

    def dome(self, x: float, y: float, radius: float) -> None:
        """The upper half of a filled circle."""
        cx, cy, r = self.x + x * self.radius, self.y + y * self.radius, radius * self.radius
        self.canvas.pieslice((cx - r, cy - r, cx + r, cy + r), 180, 360, fill=self.ink)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Rgb | None = None) -> None:
        """A filled upright rectangle."""
        self.polygon(((left, top), (right, top), (right, bottom), (left, bottom)), fill)

    def polygon(self, points: Sequence[tuple[float, float]], fill: Rgb | None = None) -> None:
        """A filled polygon."""
        placed = [(self.x + x * self.radius, self.y + y * self.radius) for x, y in points]
        self.canvas.polygon(placed, fill=fill or self.ink)


def _circle(pen: Pen) -> None:
    pen.disc(0, 0, 1)


def _square(pen: Pen) -> None:
    pen.box(-0.85, -0.85, 0.85, 0.85)


def _triangle(pen: Pen) -> None:
    pen.polygon(((0, -1), (0.95, 0.8), (-0.95, 0.8)))


def _cross(pen: Pen) -> None:
    pen.box(-0.32, -1, 0.32, 1)
    pen.box(-1, -0.32, 1, 0.32)


def _ring(pen: Pen) -> None:
    pen.disc(0, 0, 1)
    pen.disc(0, 0, 0.55, pen.ground)


def _diamond(pen: Pen) -> None:
    pen.polygon(((0, -1), (0.7, 0), (0, 1), (-0.7, 0)))


def _star(pen: Pen) -> None:
    radii = (1.0, 0.42) * 5
    angles = [math.pi * k / 5 for k in range(10)]
    pen.polygon([(r * math.sin(a), -r * math.cos(a)) for r, a in zip(radii, angles, strict=True)])


def _moon(pen: Pen) -> None:
    pen.disc(0, 0, 1)
    pen.disc(0.55, -0.15, 0.9, pen.ground)


def _heart(pen: Pen) -> None:
    pen.disc(-0.48, -0.35, 0.52)
    pen.disc(0.48, -0.35, 0.52)
    pen.polygon(((-0.95, -0.1), (0, -0.35), (0.95, -0.1), (0, 0.98)))


def _mushroom(pen: Pen) -> None:
    pale, dot = (235, 225, 200), (250, 250, 250)
    pen.box(-0.3, 0, 0.3, 0.95, pale)
    pen.dome(0, 0.05, 1)
    for x, y in ((-0.5, -0.3), (0, -0.6), (0.5, -0.3)):
        pen.disc(x, y, 0.17, dot)


def _robot(pen: Pen) -> None:
    eye, mouth = (250, 250, 250), (20, 20, 20)
    pen.box(-0.08, -0.95, 0.08, -0.5)
    pen.disc(0, -0.93, 0.17)
    pen.box(-0.75, -0.6, 0.75, 0.85)
    for side in (-1, 1):
        pen.disc(0.35 * side, -0.15, 0.2, eye)
    pen.box(-0.4, 0.35, 0.4, 0.55, mouth)


BASE_PAINTERS: dict[str, Callable[[Pen], None]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "ring": _ring,
    "diamond": _diamond,
    "star": _star,
    "moon": _moon,
}
CONCEPT_PAINTERS: dict[str, Callable[[Pen], None]] = {
    "heart": _heart,
    "mushroom": _mushroom,
    "robot": _robot,
}
