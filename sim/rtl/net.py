"""A netlist of exact integers: what one clock of a clock-step function computes, before it becomes Verilog.

Each node knows the interval of values that it can take, so its width is the smallest that holds them, whatever the C++ type
was. Nodes are shared when they are equal, and constants are folded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

_FOLD: dict[str, Callable[[int, int], int]] = {
    "+": lambda x, y: x + y,
    "-": lambda x, y: x - y,
    "*": lambda x, y: x * y,
    "/": lambda x, y: abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1),
    "<<": lambda x, y: x << y,
    ">>": lambda x, y: x >> y,
    "&": lambda x, y: x & y,
    "^": lambda x, y: x ^ y,
    "==": lambda x, y: int(x == y),
    "!=": lambda x, y: int(x != y),
    "<": lambda x, y: int(x < y),
    "<=": lambda x, y: int(x <= y),
    ">": lambda x, y: int(x > y),
    ">=": lambda x, y: int(x >= y),
    "&&": lambda x, y: int(bool(x) and bool(y)),
    "||": lambda x, y: int(bool(x) or bool(y)),
}
COMPARISONS = frozenset({"==", "!=", "<", "<=", ">", ">="})
LOGIC = frozenset({"&&", "||"})


class Unsupported(ValueError):
    """An operation that has no net; the text says which."""


@dataclass(frozen=True)
class CType:
    """An integer type of C++: its width in bits and whether it is signed."""

    bits: int
    signed: bool

    @property
    def low(self) -> int:
        """Smallest value."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """Largest value."""
        return (1 << (self.bits - 1 if self.signed else self.bits)) - 1

    def wrap(self, value: int) -> int:
        """The value that is left of `value` after a conversion to this type."""
        return (value - self.low) % (1 << self.bits) + self.low


BOOL = CType(1, False)


@dataclass(frozen=True, eq=False)
class Net:
    """One value of the netlist.

    Attributes:
        kind: "constant", "input", "register", "!", "mux", "convert", "slice", or a binary operator of C++.
        operands: what it is computed from; (condition, then, else) of a mux.
        low, high: every value that it can take lies in between.
        name: Verilog identifier; "" of a constant.
    """

    kind: str
    operands: tuple[Net, ...]
    low: int
    high: int
    name: str

    @property
    def signed(self) -> bool:
        """Whether it can be negative."""
        return self.low < 0

    @property
    def bits(self) -> int:
        """Width of the net: two's complement if signed."""
        if self.signed:
            return max((-self.low - 1).bit_length(), self.high.bit_length()) + 1
        return max(1, self.high.bit_length())

    @property
    def constant(self) -> int | None:
        """Its value, if it has only one."""
        return self.low if self.kind == "constant" else None


@dataclass
class Netlist:
    """Builds nets; `nets` holds the computed ones in an order in which they can be evaluated."""

    nets: list[Net] = field(default_factory=list)
    _known: dict[tuple[object, ...], Net] = field(default_factory=dict)

    def constant(self, value: int) -> Net:
        """A constant."""
        return self._shared(("constant", value), lambda: Net("constant", (), value, value, ""))

    def source(self, kind: str, name: str, ctype: CType) -> Net:
        """An input port or the output of a register."""
        return Net(kind, (), ctype.low, ctype.high, name)

    def binary(self, operator: str, left: Net, right: Net, result: CType) -> Net:
        """`left operator right` as C++ defines it for operands already converted, its result a `result`.

        Raises:
            Unsupported: for an operator that the translation does not know, or a shift by a variable.
        """
        if operator not in _FOLD:
            raise Unsupported(f"operator {operator} is not supported")
        if left.constant is not None and right.constant is not None:
            return self.constant(result.wrap(_FOLD[operator](left.constant, right.constant)))
        if operator in LOGIC:
            return self._logic(operator, self.truth(left), self.truth(right))
        if operator in COMPARISONS:
            return self._compute(operator, (left, right), 0, 1)
        if operator == "*":
            return self._product(left, right, result)
        if operator in ("+", "-"):
            return self._sum(operator, left, right, result)
        if right.constant is None:
            raise Unsupported(f"the right operand of {operator} must be a constant")
        if operator == ">>":
            return self._compute(">>", (left, right), left.low >> right.constant, left.high >> right.constant)
        if operator == "&" and right.constant >= 0:
            return self._compute("&", (left, right), 0, right.constant)
        if operator == "^" and left.low >= 0 and right.constant >= 0:
            return self._compute("^", (left, right), 0, (1 << max(left.bits, right.bits)) - 1)
        raise Unsupported(f"{operator} {right.constant} is not supported")

    def negation(self, operand: Net) -> Net:
        """`!operand`."""
        truth = self.truth(operand)
        if truth.constant is not None:
            return self.constant(1 - truth.constant)
        return self._compute("!", (truth,), 0, 1)

    def truth(self, operand: Net) -> Net:
        """`operand` converted to bool."""
        if (operand.low, operand.high) in ((0, 1), (0, 0), (1, 1)):
            return operand
        return self.binary("!=", operand, self.constant(0), BOOL)

    def mux(self, condition: Net, then: Net, other: Net) -> Net:
        """`condition ? then : other`."""
        condition = self.truth(condition)
        if condition.constant is not None:
            return then if condition.constant else other
        if then is other:
            return then
        return self._compute("mux", (condition, then, other), min(then.low, other.low), max(then.high, other.high))

    def convert(self, operand: Net, ctype: CType) -> Net:
        """`operand` converted to an integer type: itself if every value fits, else its low bits."""
        if ctype == BOOL:
            return self.truth(operand)
        if ctype.low <= operand.low and operand.high <= ctype.high:
            return operand
        if operand.constant is not None:
            return self.constant(ctype.wrap(operand.constant))
        return self._compute("convert", (operand,), ctype.low, ctype.high)

    def _logic(self, operator: str, left: Net, right: Net) -> Net:
        decisive = 0 if operator == "&&" else 1
        for one, another in ((left, right), (right, left)):
            if one.constant is not None:
                return one if one.constant == decisive else another
        return self._compute(operator, (left, right), 0, 1)

    def _product(self, left: Net, right: Net, result: CType) -> Net:
        if left.constant is not None:
            left, right = right, left
        corners = [x * y for x in (left.low, left.high) for y in (right.low, right.high)]
        factor = right.constant
        if factor is not None and factor > 0 and factor & (factor - 1) == 0:
            # A power of two is wiring, not a multiplier.
            shift = self.constant(factor.bit_length() - 1)
            exact = left if factor == 1 else self._compute("<<", (left, shift), min(corners), max(corners))
        else:
            exact = self._compute("*", (left, right), min(corners), max(corners))
        return self.convert(exact, result)

    def _sum(self, operator: str, left: Net, right: Net, result: CType) -> Net:
        if right.constant == 0:
            return self.convert(left, result)
        if left.constant == 0 and operator == "+":
            return self.convert(right, result)
        low, high = (right.low, right.high) if operator == "+" else (-right.high, -right.low)
        return self.convert(self._compute(operator, (left, right), left.low + low, left.high + high), result)

    def _compute(self, kind: str, operands: tuple[Net, ...], low: int, high: int) -> Net:
        def build() -> Net:
            net = Net(kind, operands, low, high, f"n{len(self.nets)}")
            self.nets.append(net)
            return net

        return self._shared((kind, *map(id, operands), low, high), build)

    def _shared(self, key: tuple[object, ...], build: Callable[[], Net]) -> Net:
        net = self._known.get(key)
        if net is None:
            net = self._known[key] = build()
        return net
