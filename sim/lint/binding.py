"""What pragmas do to arrays, operators and memories (rules PRG13 to PRG16)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from .placement import resolve
from .pragmas import Pragma
from .project import Placed, Project
from .rules import Finding
from .tree import Node, constant, read_source, symbol

_MOST_PIECES = 1024
_STORAGE_TYPES = frozenset(["fifo", "ram_1p", "ram_1wnr", "ram_2p", "ram_s2p", "ram_t2p", "rom_1p", "rom_2p", "rom_np"])
_STORAGE_PARTS = frozenset(["auto", "bram", "bram_ecc", "lutram", "uram", "uram_ecc", "srl", "memory"])
_OPERATOR_PARTS = frozenset(
    [
        "auto",
        "dsp",
        "fabric",
        "fulldsp",
        "maxdsp",
        "meddsp",
        "nodsp",
        "primitivedsp",
        "qadder",
        "fabric_combo",
        "fabric_seq",
        "all",
    ]
)
_PROOF = "proof"
_ARRAYS = frozenset({"CONSTANTARRAY", "DEPENDENTSIZEDARRAY", "INCOMPLETEARRAY"})


def check_binding(project: Project) -> Iterator[Finding]:
    """All findings about partitioned arrays, bound operators and memories, and promised independence."""
    yield from _check_partitions(project)
    for placed in project.pragmas:
        name = placed.pragma.name
        if placed.function is None:
            continue
        if name == "bind_op":
            yield from _check_operator(project, placed)
        elif name == "bind_storage":
            yield from _check_storage(project, placed.pragma)
        elif name == "dependence":
            yield from _check_promise(project, placed.pragma)


def _check_partitions(project: Project) -> Iterator[Finding]:
    """The pieces of an array multiply over its dimensions, so the pragmas of one array are taken together."""
    pieces: dict[str, int] = {}
    for placed in project.pragmas:
        pragma = placed.pragma
        if pragma.name != "array_partition" or "off" in pragma.options:
            continue
        for path in pragma.options.get("variable", "").split(","):
            node = resolve(project, placed, path) if path else None
            if node is None:
                continue
            sizes = array_sizes(node)
            if not sizes:
                yield project.finding("PRG09", pragma, f"ARRAY_PARTITION of '{path}', which is no array")
                continue
            number = _value(project, pragma, "dim", 1)
            if number > len(sizes):
                found = f"ARRAY_PARTITION dim={number} of '{path}', which has {len(sizes)} dimension(s)"
                yield project.finding("PRG11", pragma, found)
                continue
            yield from _check_factor(project, pragma, path)
            # The same field of two variables is two arrays, so the variable is part of the key.
            name = re.split(r"\W", path)[0]
            base = resolve(project, placed, name)
            key = f"{symbol(base.cursor) if base else name} {path}"
            pieces[key] = pieces.get(key, 1) * math.prod(number for _, number in cut_sizes(project, pragma, sizes))
            if pieces[key] > _MOST_PIECES:
                found = f"ARRAY_PARTITION cuts '{path}' into {pieces[key]} pieces"
                yield project.finding("PRG13", pragma, found)


def _check_factor(project: Project, pragma: Pragma, path: str) -> Iterator[Finding]:
    """A cyclic or block partition says into how many pieces, and that is more than one."""
    kind = pragma.options.get("type", "complete").lower()
    misspelt = any((fault.file, fault.line) == (pragma.file, pragma.line) for fault in project.faults)
    if kind not in ("cyclic", "block") or misspelt:
        return
    if not pragma.options.get("factor"):
        yield project.finding("PRG06", pragma, f"ARRAY_PARTITION type={kind} of '{path}' needs factor=")
    elif _value(project, pragma, "factor", 2) == 1:
        yield project.finding("PRG11", pragma, f"ARRAY_PARTITION type={kind} factor=1 of '{path}' cuts nothing")


def cut_sizes(project: Project, pragma: Pragma, sizes: list[int]) -> list[tuple[int, int]]:
    """Dimensions (from 0) of an array of these sizes that an ARRAY_PARTITION cuts, and each one's number of pieces."""
    number = _value(project, pragma, "dim", 1)
    whole = pragma.options.get("type", "complete").lower() == "complete"
    factor = _value(project, pragma, "factor", 1)
    return [
        (index, size if whole else min(size, factor)) for index, size in enumerate(sizes) if number in (0, index + 1)
    ]


def _value(project: Project, pragma: Pragma, key: str, default: int) -> int:
    """The number of an option; what is no constant is reported by PRG11 and counts as the default here."""
    try:
        value = project.evaluate(pragma.options[key]) if pragma.options.get(key) else None
    except ValueError:
        value = None
    return default if value is None else value


def array_sizes(node: Node) -> list[int]:
    """Sizes of a declared array, outermost first; a size that hangs on a template parameter counts as 1.

    The first size of an array parameter is not part of its type (it decays to a pointer) and is read from
    the declaration.
    """
    kind = node.type
    if kind.kind.name == "LVALUEREFERENCE":
        return _type_sizes(kind.get_pointee().get_canonical())
    if kind.kind.name != "POINTER":
        return _type_sizes(kind)
    inner = _type_sizes(kind.get_pointee().get_canonical())
    written = [constant(child) for child in node.children if not child.kind.endswith("_REF")]
    numbers = [value for value in written if value is not None]
    if len(numbers) != len(inner) + 1:
        return inner
    return [math.prod(numbers) // math.prod(inner), *inner]


def _type_sizes(kind: Any) -> list[int]:
    sizes = []
    while kind.kind.name in _ARRAYS:
        sizes.append(kind.element_count if kind.kind.name == "CONSTANTARRAY" else 1)
        kind = kind.element_type.get_canonical()
    return sizes


def _check_operator(project: Project, placed: Placed) -> Iterator[Finding]:
    options = placed.pragma.options
    part = options.get("impl", "").lower()
    if part and part not in _OPERATOR_PARTS:
        allowed = ", ".join(sorted(_OPERATOR_PARTS))
        yield project.finding("PRG16", placed.pragma, f"BIND_OP impl={part} is none of {allowed}")
    node = resolve(project, placed, options.get("variable", ""))
    if node is None or options.get("op", "").lower() not in ("mul", "mac"):
        return
    if placed.function is not None and _is_summed(placed.function.body, symbol(node.cursor)):
        found = f"BIND_OP on the product '{node.name}', which is added to a sum"
        yield project.finding("PRG14", placed.pragma, found)


def _is_summed(body: Node, identity: str) -> bool:
    """True if the variable holds a product that is then added, or a product and a sum at once."""
    for node in body.walk():
        left, right = (node.children[0], node.children[-1]) if len(node.children) == 2 else (None, None)
        if left is None or right is None:
            continue
        if node.operator in ("+", "-") and node.refers_to(identity):
            return True
        adds_to = node.operator in ("+=", "-=") and node.refers_to(identity)
        if adds_to and (right.refers_to(identity) or _multiplies(right)):
            return True
        if node.operator == "=" and left.refers_to(identity) and _multiplies(right) and _adds(right):
            return True
    declared = [n for n in body.walk() if n.kind == "VAR_DECL" and symbol(n.cursor) == identity]
    return any(_multiplies(n) and _adds(n) for n in declared)


def _multiplies(node: Node) -> bool:
    return any(n.operator == "*" and n.kind == "BINARY_OPERATOR" for n in node.walk())


def _adds(node: Node) -> bool:
    return any(n.operator in ("+", "-") and n.kind == "BINARY_OPERATOR" for n in node.walk())


def _check_storage(project: Project, pragma: Pragma) -> Iterator[Finding]:
    for option, allowed in (("type", _STORAGE_TYPES), ("impl", _STORAGE_PARTS)):
        word = pragma.options.get(option, "").lower()
        if word and word not in allowed:
            found = f"BIND_STORAGE {option}={word} is none of {', '.join(sorted(allowed))}"
            yield project.finding("PRG16", pragma, found)
    kind, part = (pragma.options.get(option, "").lower() for option in ("type", "impl"))
    if part == "srl" and kind != "fifo":
        yield project.finding("PRG16", pragma, f"BIND_STORAGE impl=srl holds a fifo only, not {kind}")


def _check_promise(project: Project, pragma: Pragma) -> Iterator[Finding]:
    """``dependent=false`` (also the default) is a promise; its proof stands beside it."""
    if pragma.options.get("dependent", "false").lower() != "false":
        return
    lines = read_source(pragma.file).split("\n")
    nearby = lines[max(0, pragma.line - 3) : pragma.line + 1]
    comments = [line.partition("//")[2] + line.partition("/*")[2] for line in nearby]
    if not any(_PROOF in comment.lower() for comment in comments):
        name = pragma.options.get("variable", "all variables")
        yield project.finding("PRG15", pragma, f"DEPENDENCE dependent=false for {name} has no proof beside it")
