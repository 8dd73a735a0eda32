"""A clock-step function as hardware: ports, registers and the nets between them, and their text in Verilog."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .net import COMPARISONS, CType, Net


@dataclass(frozen=True)
class Port:
    """One scalar of an argument.

    Attributes:
        name: of the Verilog port. expression: of the same scalar in C++, such as ``input.lane[3]``.
        net: the value; of an input the source itself.
    """

    name: str
    expression: str
    ctype: CType
    net: Net


@dataclass(frozen=True)
class Register:
    """One scalar of a static variable: `net` is its value before the clock, `after` its value after it."""

    name: str
    ctype: CType
    net: Net
    after: Net


@dataclass(frozen=True)
class Rtl:
    """A function of which one call is one clock. `nets` are in the order in which they can be evaluated.

    Only what an output depends on, now or in a later clock, is kept. `zeros` are static scalars that nothing writes to.
    """

    function: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    registers: tuple[Register, ...]
    zeros: tuple[Register, ...]
    nets: tuple[Net, ...]

    @classmethod
    def of_live(
        cls,
        function: str,
        inputs: Iterable[Port],
        outputs: Iterable[Port],
        registers: Iterable[Register],
        nets: Iterable[Net],
    ) -> Rtl:
        """The design without the registers and nets that no output depends on."""
        outputs = tuple(outputs)
        by_net = {id(register.net): register for register in registers}
        live: set[int] = set()
        stack = [port.net for port in outputs]
        while stack:
            net = stack.pop()
            if id(net) not in live:
                live.add(id(net))
                stack.extend(net.operands)
                if id(net) in by_net:
                    stack.append(by_net[id(net)].after)
        kept = [register for key, register in by_net.items() if key in live]
        return cls(
            function,
            tuple(port for port in inputs if id(port.net) in live),
            outputs,
            tuple(register for register in kept if register.after is not register.net),
            tuple(register for register in kept if register.after is register.net),
            tuple(net for net in nets if id(net) in live),
        )

    def verilog(self, elsewhere: frozenset[str] = frozenset()) -> str:
        """The design as one Verilog-2005 module, named like the function, with a clock and registers that start at zero.

        Args:
            elsewhere: registers that are wires here, because something else drives them.
        """
        ports = ["input clk"]
        ports += [f"input {_range(p.net)} {p.name}" for p in self.inputs]
        ports += [f"output {_declared(p.ctype)} {p.name}" for p in self.outputs]
        lines = [f"module {self.function}(", "  " + ",\n  ".join(ports) + ");"]
        kept = [register for register in self.registers if register.name not in elsewhere]
        lines += [f"  wire {_declared(r.ctype)} {r.name};" for r in self.registers if r.name in elsewhere]
        lines += [f"  reg {_declared(r.ctype)} {r.name} = 0;" for r in kept]
        lines += [f"  wire {_declared(r.ctype)} {r.name} = 0;" for r in self.zeros]
        lines += [f"  wire {_range(net)} {net.name} = {_expression(net)};" for net in self.nets]
        lines += [f"  assign {p.name} = {operand(p.net, p.net.signed)};" for p in self.outputs]
        lines.append("  always @(posedge clk) begin")
        lines += [f"    {r.name} <= {operand(r.after, r.after.signed)};" for r in kept if r.after is not r.net]
        return "\n".join([*lines, "  end", "endmodule", ""])


def _declared(ctype: CType) -> str:
    return f"{'signed ' if ctype.signed else ''}[{ctype.bits - 1}:0]"


def _range(net: Net) -> str:
    return _declared(CType(net.bits, net.signed))


def operand(net: Net, signed: bool) -> str:
    """The net as an operand; in a signed expression every operand must be signed, so an unsigned one gets a zero in front."""
    value = net.constant
    if value is not None:
        bits = net.bits + (signed and not net.signed)
        return f"{'-' if value < 0 else ''}{bits}'{'s' if signed else ''}d{abs(value)}"
    return net.name if net.signed or not signed else f"$signed({{1'b0, {net.name}}})"


def _expression(net: Net) -> str:
    kind, operands = net.kind, net.operands
    if kind == "!":
        return f"!{operands[0].name}"
    if kind == "convert":
        source = operands[0]
        return f"{source.name}[{net.bits - 1}:0]" if source.bits >= net.bits else operand(source, True)
    if kind == "mux":
        condition, *values = operands
        return f"{condition.name} ? " + " : ".join(operand(value, net.signed) for value in values)
    signed = any(operand.signed for operand in operands) or (net.signed and kind not in COMPARISONS)
    symbol = {"<<": "<<<", ">>": ">>>"}.get(kind, kind)
    left, right = operands
    if kind in ("<<", ">>"):
        return f"{operand(left, signed)} {symbol} {right.constant}"
    return f"{operand(left, signed)} {symbol} {operand(right, signed)}"
