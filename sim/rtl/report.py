"""The structure of a translated clock-step function: what it is made of, and what stands between two registers."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from .design import Rtl
from .net import Net


@dataclass(frozen=True)
class Chain:
    """Operations one after the other between registers; each count is the largest over all paths.

    Attributes:
        pre_adders: additions in front of a multiplication.
        multipliers: multiplications of two variables.
        increments: additions of a single bit; a carry input.
        adders: all other additions and subtractions that no multiplication follows.
    """

    pre_adders: int = 0
    multipliers: int = 0
    increments: int = 0
    adders: int = 0

    def merged(self, other: Chain) -> Chain:
        """The larger of each count."""
        return Chain(*map(max, astuple(self), astuple(other)))


@dataclass(frozen=True)
class RtlReport:
    """Attributes:

    registers, register_bits: scalars that keep a value from clock to clock.
    multipliers, adders: in all; adders without single-bit increments.
    multiplier_bits: the widest factors, (wider, narrower), as signed numbers. A DSP48E2 takes (27, 18).
    chain: between any two registers or ports. It says what one clock has to do if nothing else is pipelined.
    loop: from a register back to itself. It cannot be pipelined away: this is what II = 1 depends on.
    long_loops: registers on a cycle through other registers.
    """

    registers: int
    register_bits: int
    multipliers: int
    adders: int
    multiplier_bits: tuple[int, int]
    chain: Chain
    loop: Chain
    long_loops: int


def report(rtl: Rtl) -> RtlReport:
    """The structure of a design."""
    ends = [register.after for register in rtl.registers] + [port.net for port in rtl.outputs]
    chains: dict[int, Chain] = {}
    for net in rtl.nets:
        chains[id(net)] = _extended(net, [chains.get(id(operand), Chain()) for operand in net.operands])
    longest = Chain()
    for end in ends:
        longest = longest.merged(chains.get(id(end), Chain()))
    factors = [sorted(o.bits + (not o.signed) for o in net.operands) for net in rtl.nets if net.kind == "*"]
    loop = Chain()
    for register in rtl.registers:
        loop = loop.merged(_chain_from(register.net, register.after) or Chain())
    return RtlReport(
        registers=len(rtl.registers),
        register_bits=sum(register.ctype.bits for register in rtl.registers),
        multipliers=len(factors),
        adders=sum(_is_addition(net) and not _is_increment(net) for net in rtl.nets),
        multiplier_bits=(max((wide for _, wide in factors), default=0), max((bits for bits, _ in factors), default=0)),
        chain=longest,
        loop=loop,
        long_loops=_long_loops(rtl),
    )


def _is_addition(net: Net) -> bool:
    return net.kind in ("+", "-")


def _is_increment(net: Net) -> bool:
    return _is_addition(net) and any(operand.bits == 1 and not operand.signed for operand in net.operands)


def _extended(net: Net, before: list[Chain]) -> Chain:
    """The chain up to and with a net, from those up to its operands."""
    chain = Chain()
    for operand in before:
        chain = chain.merged(operand)
    if net.kind == "*":
        return Chain(chain.pre_adders + chain.adders + chain.increments, chain.multipliers + 1)
    if _is_increment(net):
        return Chain(chain.pre_adders, chain.multipliers, chain.increments + 1, chain.adders)
    return Chain(chain.pre_adders, chain.multipliers, chain.increments, chain.adders + _is_addition(net))


def _cone(end: Net) -> list[Net]:
    """The nets that a net is computed from in the same clock, operands first, sources and itself included."""
    cone: dict[int, Net] = {}
    stack: list[tuple[Net, bool]] = [(end, False)]
    while stack:
        net, done = stack.pop()
        if done:
            cone[id(net)] = net
        elif id(net) not in cone:
            stack.append((net, True))
            stack += [(operand, False) for operand in net.operands]
    return list(cone.values())


def _chain_from(source: Net, end: Net) -> Chain | None:
    """The longest chain from one net to another, or None if there is no path."""
    chains: dict[int, Chain] = {id(source): Chain()}
    for net in _cone(end):
        before = [chains[id(operand)] for operand in net.operands if id(operand) in chains]
        if before:
            chains[id(net)] = _extended(net, before)
    return chains.get(id(end))


def _long_loops(rtl: Rtl) -> int:
    """Registers on, or between, cycles of two or more registers: what is left when those without predecessors are taken away."""
    names = {id(register.net): register.name for register in rtl.registers}
    readers: dict[str, set[str]] = {register.name: set() for register in rtl.registers}
    sources_left: dict[str, int] = {}
    for register in rtl.registers:
        sources = {names[id(net)] for net in _cone(register.after) if id(net) in names} - {register.name}
        sources_left[register.name] = len(sources)
        for source in sources:
            readers[source].add(register.name)
    free = [name for name, count in sources_left.items() if not count]
    for name in free:
        for reader in readers[name]:
            sources_left[reader] -= 1
            if not sources_left[reader]:
                free.append(reader)
    return len(rtl.registers) - len(free)
