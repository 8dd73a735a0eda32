"""How much QUANTIZE and the epilogue take at once: what can be built, and what is by rule."""

from __future__ import annotations

PIECE_WORDS = 1024
"""Most bus words that QUANTIZE takes in one round: so long that filling the pipelines is a twentieth of it; its integers take
one block RAM for each 72 bits of a bus word."""

PIECE_ROWS = 128
"""Most rows that QUANTIZE takes in one round: their factors lie in LUT RAM."""

_LARGEST = 32


def possible_lanes(cols: int, bus_bytes: int) -> tuple[int, ...]:
    """Numbers of lanes that can be built: powers of two, so that they fill bus words; parts of an output memory word.

    A bus word holds at most `bus_bytes / 2` values (bfloat16), so more lanes would idle.
    """
    powers = (1 << exponent for exponent in range(_LARGEST.bit_length()))
    return tuple(lanes for lanes in powers if cols % lanes == 0 and 2 * lanes <= bus_bytes)


def default_lanes(rows: int, cols: int, bus_bytes: int) -> int:
    """The largest possible number of lanes up to 8, or up to one for 256 PEs where those are more."""
    most = max(8, rows * cols // 256)
    return max(lanes for lanes in possible_lanes(cols, bus_bytes) if lanes <= most)


def fitting_lanes(wanted: int, cols: int, bus_bytes: int) -> int:
    """As many of the lanes that are wanted as can be built; 0, the rule, stays."""
    return max(lanes for lanes in possible_lanes(cols, bus_bytes) if lanes <= wanted) if wanted else 0
