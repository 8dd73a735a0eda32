"""On-chip memories: each says what holds it, and that fits its size (rules MEM01 to MEM03)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from .binding import array_sizes, cut_sizes
from .placement import resolve
from .pragmas import Pragma
from .project import Project
from .rules import Finding
from .tree import Node, symbol

_SMALL = 64  # words that one LUT RAM holds, a bit wide
_URAM_WORDS = 4096
_PLAIN_READ = 2  # clocks of a read from one block: the access and an output register


@dataclass
class Array:
    """An array declared in a function: its sizes, how each dimension is cut, and the pragma that binds it."""

    node: Node
    path: str
    sizes: list[int]
    pieces: dict[int, int] = field(default_factory=dict)
    bound: Pragma | None = None
    streamed: bool = False

    @property
    def memories(self) -> int:
        """How many memories it is cut into."""
        return math.prod(self.pieces.values())

    @property
    def words(self) -> int:
        """Elements of one of them; 1 if these are registers."""
        sizes = enumerate(self.sizes)
        return math.prod(-(-size // self.pieces.get(number, 1)) for number, size in sizes)


def check_memories(project: Project) -> Iterator[Finding]:
    """All findings about what holds the arrays of the sources."""
    for array in find_arrays(project):
        if array.words <= 1 or array.streamed:
            continue
        part = array.bound.options.get("impl", "").lower() if array.bound else ""
        what = f"'{array.path}', {array.memories} x {array.words} elements,"
        if part in ("", "auto"):
            if array.memories > 1 or array.words > _SMALL:
                yield project.finding("MEM01", array.bound or array.node, f"{what} is bound to no impl=")
        elif array.memories > 1 and array.words <= _SMALL and part != "lutram":
            yield project.finding("MEM02", array.bound or array.node, f"{what} is bound to {part}")
        elif array.bound and part.startswith("uram"):
            yield from _check_latency(project, array, array.bound)


def _check_latency(project: Project, array: Array, bound: Pragma) -> Iterator[Finding]:
    blocks = -(-array.words // _URAM_WORDS)
    needed = _PLAIN_READ + (blocks > 1) + (blocks > 4)
    given = bound.options.get("latency", "")
    try:
        latency = project.evaluate(given) if given else 0
    except ValueError:
        return  # PRG11's
    if blocks > 1 and latency is not None and latency < needed:
        found = f"'{array.path}', {array.words} words of UltraRAM, with latency={given or 'auto'}"
        yield project.finding("MEM03", bound, f"{found}, and {needed} are needed")


def find_arrays(project: Project) -> list[Array]:
    """Arrays that can change and are declared in functions, and the fields of such variables that a pragma cuts."""
    found: dict[tuple[str, str], Array] = {}
    for function in project.functions.values():
        for node in function.body.walk():
            if node.kind == "VAR_DECL" and array_sizes(node) and not _is_fixed(node):
                found[symbol(node.cursor), ""] = Array(node, node.name, array_sizes(node))
    for placed in project.pragmas:
        pragma = placed.pragma
        told = pragma.name in ("array_partition", "bind_storage", "stream")
        if not told or placed.function is None or "off" in pragma.options:
            continue
        for path in pragma.options.get("variable", "").split(","):
            base, _, inner = path.partition(".")
            variable, named = resolve(project, placed, base), resolve(project, placed, path)
            if variable is None or named is None or variable.kind != "VAR_DECL":
                continue
            key = (symbol(variable.cursor), inner)
            if key not in found and not array_sizes(variable) and array_sizes(named):
                found[key] = Array(variable, path, array_sizes(named))
            if key in found:
                _apply(project, pragma, found[key])
    return list(found.values())


def _apply(project: Project, pragma: Pragma, array: Array) -> None:
    if pragma.name == "bind_storage":
        array.bound = pragma
    elif pragma.name == "stream":
        array.streamed = True
    else:
        for number, pieces in cut_sizes(project, pragma, array.sizes):
            array.pieces[number] = array.pieces.get(number, 1) * pieces


def _is_fixed(node: Node) -> bool:
    """Whether an array is a table of constants, or one of streams."""
    kind = node.type
    while "ARRAY" in kind.kind.name:
        if kind.is_const_qualified():
            return True
        kind = kind.element_type.get_canonical()
    return bool(kind.is_const_qualified()) or str(kind.spelling).startswith("hls::")
