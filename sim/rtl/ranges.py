"""The values that registers can take: a C++ type is often wider than what is ever stored in it.

Intervals go through the nets again and again, from registers that hold zero, until no register's interval grows. One that still
grows after as many rounds as a value can take to pass the array is on a ring with an addition, and gets its whole type.
"""

from __future__ import annotations

from collections.abc import Callable

from .design import Rtl
from .net import CType, Net

Interval = tuple[int, int]

_ROUNDS = 100


def register_types(rtl: Rtl) -> dict[str, CType]:
    """Of each register, by name, the narrowest type that holds all its values."""
    types = {register.name: register.ctype for register in (*rtl.registers, *rtl.zeros)}
    held: dict[str, Interval] = dict.fromkeys(types, (0, 0))
    for number in range(2 * _ROUNDS):
        known = _evaluate(rtl, held)
        grown = {}
        for register in rtl.registers:
            low, high = known[id(register.after)]
            old = held[register.name]
            new = (min(low, old[0]), max(high, old[1]))
            if new != old:
                grown[register.name] = new if number < _ROUNDS else (register.ctype.low, register.ctype.high)
        if not grown:
            return {name: _type_of(held[name]) for name in types}
        held.update(grown)
    raise AssertionError("intervals that have become their types cannot grow")


def _type_of(interval: Interval) -> CType:
    low, high = interval
    signed = low < 0
    bits = max((-low - 1).bit_length() if signed else 0, high.bit_length()) + signed
    return CType(max(1, bits), signed)


def _evaluate(rtl: Rtl, held: dict[str, Interval]) -> dict[int, Interval]:
    """The interval of each net if registers hold what is given."""
    known: dict[int, Interval] = {}

    def of(net: Net) -> Interval:
        if id(net) not in known:
            # Sources only: computed nets come after their operands.
            known[id(net)] = held.get(net.name, (net.low, net.high)) if net.kind == "register" else (net.low, net.high)
        return known[id(net)]

    for net in rtl.nets:
        known[id(net)] = _computed(net, [of(operand) for operand in net.operands])
    for register in rtl.registers:
        of(register.after)
    return known


_CORNERS: dict[str, Callable[[int, int], int]] = {
    "+": lambda x, y: x + y,
    "-": lambda x, y: x - y,
    "*": lambda x, y: x * y,
    "<<": lambda x, y: x << y,
    ">>": lambda x, y: x >> y,
}
"""Operators that are largest and smallest where their operands are."""


def _computed(net: Net, operands: list[Interval]) -> Interval:
    if net.kind in _CORNERS:
        left, right = operands
        corners = [_CORNERS[net.kind](x, y) for x in left for y in right]
        return min(corners), max(corners)
    if net.kind == "mux":
        _, then, other = operands
        return min(then[0], other[0]), max(then[1], other[1])
    if net.kind == "convert" and net.low <= operands[0][0] and operands[0][1] <= net.high:
        return operands[0]
    return net.low, net.high
