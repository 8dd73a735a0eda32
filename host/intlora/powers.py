"""The measure by which grids are chosen: sums of |error| ** 2.4, the same bits on every machine.

The power of a float32 value x = 2^e (1 + f) is 2^(2.4 e) (1 + f)^2.4: the first factor from one table, the second interpolated
linearly in another, in float64, one IEEE operation at a time. Its relative error is below 3e-8, less than half that of float32. A
mathematics library's own power differs between machines: numpy's takes another form where the CPU has AVX512.
"""

from __future__ import annotations

from decimal import Context, Decimal
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

ERROR_POWER = 2.4
"""Errors are summed as |error| ** 2.4, as in the authors' code."""

_KNOT_BITS = 12
_FRACTION_BITS = 23 - _KNOT_BITS
_BLOCK = 1 << 14
"""Values whose powers are made at once, so that they stay in the cache."""

Float64 = NDArray[np.float64]


def row_error(difference: NDArray[np.float32]) -> Float64:
    """Sum of |difference| ** ERROR_POWER of each row, float64 [rows]; infinite where a value is no finite number.

    Values below 2^-126 count as zero. The sums are numpy's, pairwise, in float64.
    """
    rows = max(1, _BLOCK // max(1, difference.shape[1]))
    sums = [_powers(difference[start : start + rows]).sum(1) for start in range(0, len(difference), rows)]
    return np.concatenate([*sums, np.zeros(0)])


def exact_power(x: Float64, exponent: float) -> Float64:
    """x ** exponent of float64 [n], not negative, to the last bit the same on every machine; infinite where it is too large."""
    context = Context(prec=40, Emax=10**9, Emin=-(10**9))
    power = Decimal(exponent)
    return np.array([float(context.power(Decimal(float(value)), power)) if exponent else 1.0 for value in x])


def _powers(difference: NDArray[np.float32]) -> Float64:
    knots, slopes, scales = _tables()
    bits = np.abs(difference, dtype=np.float32).view(np.uint32)
    knot = bits >> np.uint32(_FRACTION_BITS) & np.uint32(2**_KNOT_BITS - 1)
    value = (bits & np.uint32(2**_FRACTION_BITS - 1)).astype(np.float64)
    value *= slopes.take(knot)
    value += knots.take(knot)
    value *= scales.take(bits >> np.uint32(23))
    return value


@lru_cache(maxsize=1)
def _tables() -> tuple[Float64, Float64, Float64]:
    """(1 + i 2^-12)^2.4; its slope per unit of the last place; 2^(2.4 e) by a float32's exponent field.

    `decimal` computes its power in integers: the tables are the same everywhere.
    """
    context, power = Context(prec=40), Decimal(12) / 5
    count = 2**_KNOT_BITS
    knots = np.array([float(context.power(1 + Decimal(i) / count, power)) for i in range(count + 1)])
    scales = [float(context.power(Decimal(2), power * (field - 127))) for field in range(1, 255)]
    slopes = np.diff(knots) / 2**_FRACTION_BITS
    return knots[:-1], slopes, np.array([0.0, *scales, np.inf])
