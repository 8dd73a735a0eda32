"""Integer weights wider than the array's operands: split into INT8 digits of base 128, one GEMM pass each, exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BASE = 128
"""value = sum of digit[i] * BASE**i; all digits but the last lie in -64 .. 63, the last in -128 .. 127."""

Int8 = NDArray[np.int8]


def digits(values: NDArray[np.int32]) -> tuple[Int8, ...]:
    """The INT8 digits of integers, lowest first; as few as the largest value needs: one for INT8 values.

    Args:
        values: int32 of any shape.

    Returns:
        int8 arrays of the same shape; sum(digit.astype(int32) * BASE**i) is `values`.
    """
    rest = np.asarray(values, np.int64)
    parts = []
    while rest.size and (rest.min() < -128 or rest.max() > 127):
        low = (rest + BASE // 2) % BASE - BASE // 2
        parts.append(low.astype(np.int8))
        rest = (rest - low) // BASE
    return (*parts, rest.astype(np.int8))


def count_wide(values: NDArray[np.int32]) -> int:
    """How many integers do not fit one INT8 operand."""
    return int(((values < -128) | (values > 127)).sum())


def width(values: NDArray[np.int32]) -> int:
    """Bits of two's complement that hold every value; at least 2."""
    largest = max(int(values.max(initial=0)), -1 - int(values.min(initial=0)))
    return max(2, largest.bit_length() + 1)
