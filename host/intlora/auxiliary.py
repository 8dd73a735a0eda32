"""The auxiliary matrix R of IntLoRA: made from a seed, the same bits on every machine, so that no file has to hold it.

An element is a pure function of the seed and its index, computed in integers: the counter-based generator of
`docs/arithmetic.md` (`mix`) gives 32 bits, a table of integers turns them into the distribution. Values are multiples of 2^-16, exact
in float32. No logarithm of the machine's mathematics library is involved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from decimal import Context, Decimal
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from systolora.sim.functional.reference import mix

from .powers import exact_power

Float32 = NDArray[np.float32]
Unsigned = NDArray[np.uint32]

_GRID = 2**16
"""Values are multiples of 1 / _GRID."""

_KNOTS = 1024
"""Intervals of the table of the exponential distribution."""

LARGEST_SHARE = 8
"""A row's largest |R| may be so many times its largest |W|."""

LARGEST_FACTOR = 2.0**127
"""Larger ones are taken for this one, so that they are finite in float32."""

_DRAWS = 12
"""Uniform draws whose sum stands for a normal one: it has deviation 1, and ends at 6 deviations."""


def layer_seed(seed: int, name: str) -> int:
    """The 32-bit seed of a layer's auxiliary matrix."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=4).digest(), "little")


def auxiliary(seed: int, rows: int, cols: int, distribution: str = "laplace", spread: float = 0.5) -> Float32:
    """R before variance matching, float32 [rows, cols], zero mean.

    Args:
        seed: 32 bits; `layer_seed` makes one.
        distribution: "laplace" with scale b = spread, "normal" with deviation spread, or "uniform" in -spread .. spread.
        spread: rounded to a multiple of 2^-16 by the product's own rounding.
    """
    integers = _SAMPLERS[distribution](seed, np.arange(rows * cols, dtype=np.uint32))
    unit = integers.astype(np.float32) / np.float32(_GRID)
    return (unit * np.float32(spread)).reshape(rows, cols)


def matching_factor(weight: Float32, r0: Float32, ratio: str, exponent: float) -> Float32:
    """The factor of variance matching: R = factor * R0; float32 [rows] ("range") or [1] ("variance").

    "variance" is the paper's (sigma_W / sigma_R)^exponent; "range" the authors' code, per row: (max |W| / smaller one-sided range
    of R0)^exponent. The factor is rounded to 8 significant bits, so that the last bits of a power or a sum cannot show.
    """
    if ratio == "variance":
        quotient = np.array([weight.std(dtype=np.float64) / max(r0.std(dtype=np.float64), 1e-8)])
    else:
        reach = np.minimum(np.abs(r0.max(1)), np.abs(r0.min(1))).astype(np.float64)
        quotient = np.abs(weight).max(1).astype(np.float64) / (reach + 1e-8)
    return rounded_to_8_bits(exact_power(quotient, exponent))


def limited_factor(factor: Float32, weight: Float32, r0: Float32, exponent: float) -> Float32:
    """The factor of each row, float32 [rows], so that no row's R is out of all proportion to the row.

    A power other than 1 depends on the unit of the weights, and one outlier sets the deviation of a whole layer. A row whose largest
    |R| would be above `LARGEST_SHARE` times its largest |W| is matched by its own deviation, and its R at most as large as W is
    there. A row of zeros counts as one of the layer's middle size.
    """
    size, deviation = np.abs(weight).max(1).astype(np.float64), weight.std(1, dtype=np.float64)
    zeros = size == 0
    size, deviation = (np.where(zeros, np.median(value), value) for value in (size, deviation))
    reach = np.maximum(np.abs(r0).max(1), 1 / _GRID).astype(np.float64)
    own = deviation / np.maximum(r0.std(1, dtype=np.float64), 1e-8)
    own = np.minimum(exact_power(own, exponent), size / reach)
    wanted = np.broadcast_to(factor, len(weight))
    return np.where(wanted * reach > LARGEST_SHARE * size, rounded_to_8_bits(own), wanted).astype(np.float32)


def rounded_to_8_bits(x: NDArray[np.float64]) -> Float32:
    """float64 values rounded to 8 significant bits, as float32: the last bits of a power or a sum cannot show in it."""
    mantissa, power = np.frexp(np.minimum(x, LARGEST_FACTOR))
    return np.ldexp(np.rint(mantissa * 256) / 256, power).astype(np.float32)


def _bits(seed: int, index: Unsigned, draw: int = 0) -> Unsigned:
    """32 random bits for each index, from one of several independent draws."""
    key = mix(np.array([(seed + 0x9E3779B9 * draw) & 0xFFFFFFFF], np.uint32))
    with np.errstate(over="ignore"):
        return mix(index + key)


def _laplace(seed: int, index: Unsigned) -> NDArray[np.int64]:
    """Laplace with b = 1: a sign, and an exponential value interpolated in a table; multiples of 1 / _GRID."""
    bits = _bits(seed, index)
    table = _exponential_table()
    sign = 1 - 2 * (bits & np.uint32(1)).astype(np.int64)
    knot = (bits >> np.uint32(22)).astype(np.int64)
    fraction = (bits >> np.uint32(1) & np.uint32(0x1FFFFF)).astype(np.int64)
    step = table[knot + 1] - table[knot]
    return sign * (table[knot] + (step * fraction >> 21))


@lru_cache(maxsize=1)
def _exponential_table() -> NDArray[np.int64]:
    """-ln(1 - i / _KNOTS) in multiples of 1 / _GRID; the last knot is -ln(1 / (4 _KNOTS)).

    `decimal` rounds its logarithm correctly by definition, so the integers are the same everywhere.
    """
    context = Context(prec=30)
    left = [Decimal(_KNOTS - i) / _KNOTS for i in range(_KNOTS)] + [Decimal(1) / (4 * _KNOTS)]
    return np.array([int((-context.ln(share) * _GRID).to_integral_value(context=context)) for share in left], np.int64)


def _normal(seed: int, index: Unsigned) -> NDArray[np.int64]:
    """The sum of 12 uniform draws less 6; multiples of 1 / _GRID."""
    draws = [(_bits(seed, index, draw) >> np.uint32(16)).astype(np.int64) for draw in range(_DRAWS)]
    # Each draw is the middle of its interval: twice the sum is odd and even alike, so half of 12 is added as 6.
    return sum(draws, np.zeros(len(index), np.int64)) + _DRAWS // 2 - _DRAWS // 2 * _GRID


def _uniform(seed: int, index: Unsigned) -> NDArray[np.int64]:
    """Uniform in -1 .. 1; multiples of 1 / _GRID."""
    return (_bits(seed, index) >> np.uint32(15)).astype(np.int64) - _GRID


_SAMPLERS: dict[str, Callable[[int, Unsigned], NDArray[np.int64]]] = {
    "laplace": _laplace,
    "normal": _normal,
    "uniform": _uniform,
}
