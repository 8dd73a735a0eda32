"""Quantizers of IntLoRA: a uniform grid per output channel with minimum-error search, and powers of two.

All arithmetic on elements is one IEEE operation at a time, so the integers do not depend on the machine. The choice among candidate
grids sums powers of errors (`powers.py`), which uses no power of the machine's mathematics library either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .powers import row_error

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]

FACTORS = tuple(np.float32(1 - 0.01 * i) for i in range(80))
"""Shares of a row's range that the search tries, as in the authors' code."""

_FLAT = np.float32(2.0**-20)
"""A row whose step would be a smaller share of its largest value is one value."""

_FINEST = np.float32(2.0**-14)
"""The least step, as a share of a row's largest value: integers stay below 2^14 + 2^8, or twice that where they are odd, and the
product of two of them, or one shifted by 15, in int32."""

_LEAST = np.float32(2.0**-149)
"""The least positive float32: half a step of that size is not zero."""

_SQRT_HALF = np.float32(0.70710683)
"""The first float32 above the square root of 1/2: log2 of m in [0.5, 1) rounds to 0 from here on, else to -1."""


@dataclass(frozen=True)
class RowGrid:
    """A uniform grid per row: real = scale * integer.

    The stored *code* lies in low .. high. integer = code - zero, or 2 (code - zero) + 1 on a grid of odd integers, which has no zero.

    Attributes:
        scale: float32 [rows]. zero: int32 [rows]. low, high: range of the codes. odd: integers are odd.
    """

    scale: Float32
    zero: Int32
    low: int
    high: int
    odd: bool = False

    def encode(self, x: Float32) -> Int32:
        """Codes of float32 [rows, n], nearest (half to even); int32 [rows, n] in low .. high."""
        return np.clip(self.unclipped(x), self.low, self.high).astype(np.int32)

    def unclipped(self, x: Float32) -> NDArray[np.float32]:
        """Codes before they are limited to low .. high, as whole float32 numbers."""
        scale, zero = self.scale[:, None], self.zero[:, None].astype(np.float32)
        if self.odd:
            return np.floor(x / (scale * np.float32(2))) + zero
        return np.rint(x / scale) + zero

    def integers(self, codes: Int32) -> Int32:
        """The integers that codes stand for."""
        centred = codes - self.zero[:, None]
        return (2 * centred + 1 if self.odd else centred).astype(np.int32)

    def decode(self, codes: Int32) -> Float32:
        """The real values of codes, float32 [rows, n]."""
        return self.integers(codes).astype(np.float32) * self.scale[:, None]


def code_range(bits: int, symmetric: bool, odd: bool) -> tuple[int, int]:
    """Lowest and highest code: 0 .. 2^bits - 1, or around zero for a symmetric grid."""
    if not symmetric:
        return 0, 2**bits - 1
    return (-(2 ** (bits - 1)) if odd else 1 - 2 ** (bits - 1)), 2 ** (bits - 1) - 1


def grid_of_range(low_value: Float32, high_value: Float32, bits: int, symmetric: bool, odd: bool) -> RowGrid:
    """The grid whose codes reach from low_value to high_value, float32 [rows] each.

    A row without range gets a grid on which its one value is exact. No step is finer than 2^-14 of the row's largest value.
    """
    low, high = code_range(bits, symmetric, odd)
    reach = np.maximum(np.abs(low_value), np.abs(high_value))
    if symmetric:
        step = reach / np.float32(2 ** (bits - 1) - (0.5 if odd else 1))
        zero = np.zeros(len(step), np.float32)
    else:
        step = (high_value - low_value) / np.float32(high)
        flat = step <= reach * _FLAT
        # One value: it is 1 or -1 integers from zero; an odd grid's integers are half a step apart from their neighbours' middle.
        step = np.where(flat, reach * np.float32(2 if odd else 1), np.maximum(step, reach * _FINEST)).astype(np.float32)
        safe = np.where(step > 0, step, np.float32(1))
        zero = np.where(flat, low_value < 0, np.rint(-low_value / safe))
    step = np.where(step > 0, step, np.float32(1)).astype(np.float32)
    scale = np.maximum(step / np.float32(2), _LEAST) if odd else step
    return RowGrid(scale.astype(np.float32), zero.astype(np.int32), low, high, odd)


def search_grid(
    x: Float32,
    bits: int,
    *,
    symmetric: bool = False,
    odd: bool = False,
    error: Callable[[RowGrid], Float32] | None = None,
    around: Float32 | None = None,
    factors: tuple[np.float32, ...] = FACTORS,
) -> RowGrid:
    """The grid of each row with the least error, among grids that reach over a share of the row's range.

    Args:
        x: float32 [rows, n]. bits: 2 to 8.
        symmetric: no zero point. odd: a grid without zero.
        error: from a grid to the errors, float32 [rows, n], that are to be small; by default those of x itself.
        around: float32 [rows], the value towards which the range shrinks; by default zero.
        factors: the shares that are tried, largest first; the first of equals wins.
    """
    lowest, highest = x.min(1), x.max(1)
    centre = np.zeros_like(lowest) if around is None else around
    best: RowGrid | None = None
    least = np.full(len(x), np.inf)
    for factor in factors:
        low_value = (centre + factor * (lowest - centre)).astype(np.float32)
        high_value = (centre + factor * (highest - centre)).astype(np.float32)
        grid = grid_of_range(low_value, high_value, bits, symmetric, odd)
        difference = error(grid) if error else grid.decode(grid.encode(x)) - x
        total = row_error(difference)
        better = total < least
        least = np.where(better, total, least)
        if best is not None:
            scale, zero = np.where(better, grid.scale, best.scale), np.where(better, grid.zero, best.zero)
            grid = RowGrid(scale.astype(np.float32), zero.astype(np.int32), grid.low, grid.high, odd)
        best = grid
    assert best is not None
    return best


def rounded_log2(x: Float32) -> Int32:
    """log2 of positive float32 values, rounded to the nearest integer, exactly; values of zero give -149."""
    mantissa, exponent = np.frexp(np.asarray(x, np.float32))
    rounded = np.where(mantissa >= _SQRT_HALF, exponent, exponent - 1)
    return np.where(x > 0, rounded, -149).astype(np.int32)
