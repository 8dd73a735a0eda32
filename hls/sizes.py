"""What the size of the array and of a bus word demands of its memories and of its chains."""

from __future__ import annotations

from math import gcd

ACCUMULATOR_BYTES = 4

PORT_BYTES = 16
"""Bytes that a memory port of a Zynq UltraScale+ carries in a clock: the HP ports are 128 bits wide (UG1085)."""

MAX_MEMORY_WORDS = 65_536
"""Most words in one half of a memory: an on-chip address has 16 bits, and the clocks of a tile fit 32."""

LEAST_SIDE = 4
"""Fewest rows or columns of an array."""


def memory_units(rows: int, cols: int, bus_bytes: int) -> dict[str, tuple[int, int]]:
    """Of each memory: bytes of two words, one in each half, and the least bytes that it may have."""
    units = {}
    for name, lanes, element in (("input", rows, 1), ("weight", cols, 1), ("output", cols, ACCUMULATOR_BYTES)):
        unit = 2 * element * lanes
        # A tile of bus_bytes x bus_bytes must fit one half, or a GEMM that is larger could not be tiled at all.
        units[f"{name}_bytes"] = (unit, unit * max(16, -(-bus_bytes // lanes) * bus_bytes))
    # Output-stationary, A's tile takes whole bands of rows and of k.
    band = band_rows_of(rows, bus_bytes)
    words = -(-bus_bytes // (rows // band * band)) * -(-bus_bytes // band) * band
    unit, least = units["input_bytes"]
    units["input_bytes"] = (unit, max(least, unit * words))
    return units


def chain_of(rows: int) -> int:
    """Rows whose products are summed inside their DSPs."""
    return 8 if rows >= 8 else 4


def band_rows_of(rows: int, bus_bytes: int) -> int:
    """Rows of the array that work on the same rows of C, output-stationary."""
    return max(chain_of(rows), gcd(rows, max(16, bus_bytes)))


def memory_fault(name: str, value: int, unit: int, least: int) -> str:
    """What is wrong with the size of a memory; "" if nothing."""
    if value < least or value % unit:
        return (
            f"{name} = {value}: two halves of whole words are needed, a multiple of {unit} and at least {least}; "
            f"the next larger is {max(least, -(-value // unit) * unit)}"
        )
    if value // unit > MAX_MEMORY_WORDS:
        return (
            f"{name} = {value}: one half holds at most {MAX_MEMORY_WORDS} words; give at most {unit * MAX_MEMORY_WORDS}"
        )
    return ""
