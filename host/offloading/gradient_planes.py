"""The gradient of a convolution's image as planes of pixels that lie a stride apart, each one GEMM without a needless zero.

    y[o] = sum over t of x[stride * o + t - padding] W[t]        grad_x[i] = sum over o, t with stride * o + t - padding = i of grad_y[o] W[t]

Along each axis only the kernel positions t with the remainder of i + padding modulo the stride reach pixel i. So the pixels with one
remainder are a convolution of grad_y of stride 1 with those positions, `stride` apart, read from the last to the first: of 3 x 3 with stride 2,
four planes with 1, 2, 2 and 4 positions. A plane that no position reaches is zero and left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from systolora.sim.functional.patches import PatchGeometry


@dataclass(frozen=True)
class GradientPlane:
    """One GEMM: the pixels `first`, `first + stride`, ... of an image's gradient, down and across.

    Attributes:
        first: row and column of the plane's first pixel in the image.
        skipped: rows and columns of the product in front of that pixel: they are no part of the image.
        geometry: of the patches of grad_y; its patches are the plane's pixels, the skipped ones included.
        block: the stored block of the weight (kernel position, row-major) that is read last. blocks: from it to the one read first.
        block_steps: stored blocks from one position to the next, down and across.
    """

    first: tuple[int, int]
    skipped: tuple[int, int]
    geometry: PatchGeometry
    block: int
    blocks: int
    block_steps: tuple[int, int]

    @property
    def name(self) -> str:
        """Of the result in a program."""
        return "grad_x {} {}".format(*self.first)

    @property
    def pixels(self) -> int:
        """How many pixels of an image are its own."""
        return (self.geometry.out_height - self.skipped[0]) * (self.geometry.out_width - self.skipped[1])


@dataclass(frozen=True)
class _Line:
    """A plane along one axis; `size` is with the skipped pixels, `tap` the first kernel position."""

    first: int
    skipped: int
    size: int
    pad: int
    tap: int
    taps: int


def gradient_planes(
    image: tuple[int, int], out: tuple[int, int], kernel: tuple[int, int], stride: int, padding: tuple[int, int]
) -> list[GradientPlane]:
    """The planes of the gradient of an image; pairs are (down, across). `out`: size of the convolution's result."""
    down, across = (_lines(*sizes, stride) for sizes in zip(image, kernel, padding, strict=True))
    steps = (stride * kernel[1], stride)
    return [
        GradientPlane(
            first=(y.first, x.first),
            skipped=(y.skipped, x.skipped),
            geometry=PatchGeometry(*out, y.size, x.size, y.taps, x.taps, 1, y.pad, x.pad),
            block=y.tap * kernel[1] + x.tap,
            blocks=(y.taps - 1) * steps[0] + (x.taps - 1) * steps[1] + 1,
            block_steps=steps,
        )
        for y, x in product(down, across)
    ]


def _lines(size: int, kernel: int, padding: int, stride: int) -> list[_Line]:
    found = []
    for first in range(min(stride, size)):
        ahead, tap = divmod(first + padding, stride)
        taps = -(-(kernel - tap) // stride)
        # Pixel v of the plane reads grad_y from v - pad on. The instruction has no padding below zero: it begins earlier.
        pad = taps - 1 - ahead
        skipped = max(0, -pad)
        if taps > 0:
            found.append(_Line(first, skipped, -(-(size - first) // stride) + skipped, max(pad, 0), tap, taps))
    return found
