"""Geometry of a convolution's patches: which stored pixel each of them reads, and how many of them exist."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from systolora.hls.isa import Gemm


@dataclass(frozen=True)
class PatchGeometry:
    """The fields of a GEMM that say where its patches lie, without sizes and addresses of the matrices."""

    image_height: int
    image_width: int
    out_height: int
    out_width: int
    kernel_height: int
    kernel_width: int
    step: int
    pad_top: int
    pad_left: int

    @classmethod
    def of(cls, op: Gemm) -> PatchGeometry:
        """The geometry of an instruction whose `a_form` is PATCHES."""
        return cls(
            *(op.image_height, op.image_width, op.out_height, op.out_width),
            *(op.kernel_height, op.kernel_width, op.step, op.pad_top, op.pad_left),
        )


def source_pixels(size: int, out: int, kernel: int, step: int, pad: int) -> NDArray[np.int64]:
    """Along one axis, the stored pixel that patch `p` reads at kernel position `d`, or -1 if it does not exist.

    Returns:
        int64 [out, kernel].
    """
    pixel = np.arange(out)[:, None] * step + np.arange(kernel)[None, :] - pad
    return np.where((pixel >= 0) & (pixel < size), pixel, -1)


@lru_cache(maxsize=256)
def pixel_axes(geometry: PatchGeometry) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`source_pixels` of both axes: ([out_height, kernel_height], [out_width, kernel_width])."""
    g = geometry
    down = source_pixels(g.image_height, g.out_height, g.kernel_height, g.step, g.pad_top)
    across = source_pixels(g.image_width, g.out_width, g.kernel_width, g.step, g.pad_left)
    return down, across


@lru_cache(maxsize=64)
def pixel_indices(geometry: PatchGeometry) -> NDArray[np.int64]:
    """Row-major index of the stored pixel of one image that each patch reads at each kernel position, or -1.

    Returns:
        int64 [out_height * out_width, kernel_height * kernel_width].
    """
    down, across = pixel_axes(geometry)
    rows, columns = down[:, None, :, None], across[None, :, None, :]
    index = np.where((rows >= 0) & (columns >= 0), rows * geometry.image_width + columns, -1)
    return index.reshape(geometry.out_height * geometry.out_width, -1)


def existing_patches(geometry: PatchGeometry, stop: int) -> NDArray[np.int64]:
    """Per kernel position, in how many of the patches 0 .. stop - 1 its pixel exists.

    Patches count through the images of a batch. Returns int64 [kernel_height * kernel_width].
    """
    down, across = (axis >= 0 for axis in pixel_axes(geometry))
    images, rest = divmod(stop, geometry.out_height * geometry.out_width)
    lines, columns = divmod(rest, geometry.out_width)
    total = np.outer(images * down.sum(axis=0) + down[:lines].sum(axis=0), across.sum(axis=0))
    if columns:
        total = total + np.outer(down[lines], across[:columns].sum(axis=0))
    return total.reshape(-1)
