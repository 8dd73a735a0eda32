"""Integers of 2 to 32 bits, packed without gaps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 16
"""Integers packed at once; a multiple of 8, so that each block ends with a whole byte."""


def pack(values: NDArray[np.integer], bits: int) -> NDArray[np.uint8]:
    """Packs integers as two's complement (or unsigned) of `bits` bits, little-endian, first value in the lowest bits.

    Args:
        values: any shape, taken row by row; each must fit, signed or unsigned.

    Returns:
        uint8 [ceil(size * bits / 8)].

    Raises:
        ValueError: if a value does not fit.
    """
    flat = np.ascontiguousarray(values).reshape(-1)
    if flat.size and (int(flat.min()) < -(1 << bits - 1) or int(flat.max()) >= 1 << bits):
        raise ValueError(f"values {flat.min()} to {flat.max()} do not fit {bits} bits")
    parts = [np.zeros(0, np.uint8)]
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK].astype("<i4").view(np.uint8).reshape(-1, 4)
        each = np.unpackbits(block, axis=1, bitorder="little")[:, :bits]
        parts.append(np.packbits(each.reshape(-1), bitorder="little"))
    return np.concatenate(parts)


def unpack(packed: NDArray[np.uint8], bits: int, shape: tuple[int, ...], signed: bool) -> NDArray[np.int32]:
    """What `pack` packed; int32 of that shape.

    Raises:
        ValueError: if there are too few or too many bytes.
    """
    size = int(np.prod(shape, dtype=np.int64))
    if packed.size != packed_bytes(size, bits):
        raise ValueError(f"{packed.size} bytes do not hold {size} integers of {bits} bits")
    out = np.zeros(size, np.int32)
    step = _BLOCK * bits // 8
    for number, start in enumerate(range(0, packed.size, step)):
        count = min(_BLOCK, size - number * _BLOCK)
        each = np.unpackbits(packed[start : start + step], bitorder="little", count=count * bits).reshape(count, bits)
        whole = np.zeros((count, 32), np.uint8)
        whole[:, :bits] = each
        if signed:
            whole[:, bits:] = each[:, -1:]
        words = np.packbits(whole, axis=1, bitorder="little").reshape(-1).view("<i4")
        out[number * _BLOCK : number * _BLOCK + count] = words
    return out.reshape(shape)


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `pack` makes of `count` integers."""
    return -(-count * bits // 8)
