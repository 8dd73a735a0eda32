"""Sizes for pictures of different shapes: about as many pixels as the square, so that little is cut off and memory stays the same."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .pictures import Size

_LONGEST = 2
"""The longest side, in sides of the square; the shortest is its inverse."""


def bucket_sizes(resolution: int, unit: int) -> list[Size]:
    """Sizes whose sides are multiples of `unit` and whose area is no larger than the square's, the widest last.

    For each width from half to twice the square's there is the largest such height, and each size also on its side. The square itself
    (to the unit) is one of them.

    Args:
        resolution: side of the square, in pixels. unit: that the model's latents divide by on every level.
    """
    sizes = set()
    for width in range(unit, _LONGEST * resolution + 1, unit):
        height = resolution**2 // width // unit * unit
        if (
            unit <= height
            and resolution <= _LONGEST * min(width, height)
            and max(width, height) <= _LONGEST * resolution
        ):
            sizes |= {(width, height), (height, width)}
    square = max(unit, resolution // unit * unit)
    return sorted(sizes | {(square, square)}, key=lambda size: (size[0] / size[1], size))


def nearest_size(picture: Size, sizes: Sequence[Size]) -> Size:
    """The size whose shape is nearest to the picture's; of several the largest."""
    shape = math.log(picture[0] / picture[1])
    return min(sizes, key=lambda size: (round(abs(math.log(size[0] / size[1]) - shape), 9), -size[0] * size[1]))
