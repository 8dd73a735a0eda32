"""Functions that run at the same time, and functions that exist once (rules PAR01 and PAR02).

Vitis HLS starts calls of one basic block together where they do not depend on each other (UG1399, loop parallelism); nothing in the
source says so, and C-simulation, which runs them one after the other, cannot show that they do not. So a comment says which calls are
meant, `// Side by side: first, second`, and PAR01 checks that nothing stands against it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import permutations

from .bursts import arguments, is_burst_port
from .project import Call, Function, Project
from .rules import RULES, Finding
from .tree import Node, read_source

_MARK = re.compile(r"//\s*Side by side:\s*(\w+(?:\s*,\s*\w+)+)\s*$")
_BY_ADDRESS = frozenset({"POINTER", "CONSTANTARRAY", "INCOMPLETEARRAY"})
_MOST_SITES = 2


def check_beside(project: Project) -> Iterator[Finding]:
    """All findings about calls that are to run side by side, and about functions that are to exist once."""
    for function in project.functions.values():
        for line, names in _marks(function):
            yield from _check_group(project, function, line, names)
    yield from _check_sites(project)


def _marks(function: Function) -> Iterator[tuple[int, list[str]]]:
    lines = read_source(function.node.file).split("\n")
    extent = function.node.cursor.extent
    for number in range(extent.start.line, extent.end.line + 1):
        found = _MARK.search(lines[number - 1])
        if found:
            yield number, [name.strip() for name in found[1].split(",")]


def _check_group(project: Project, function: Function, line: int, names: list[str]) -> Iterator[Finding]:
    calls: dict[str, Call] = {}
    for name in names:
        sites = [call for call in project.calls if call.caller is function and call.name == name]
        if len(sites) != 1:
            found = f"{name}, said to run side by side, is called {len(sites)} times in {function.name}"
            yield Finding(function.node.file, line, "PAR01", f"{found}; {RULES['PAR01'].allowed}")
            return
        calls[name] = sites[0]
    blocks = {_block(call.node) for call in calls.values()}
    if len(blocks) != 1:
        yield Finding(
            function.node.file, line, "PAR01", f"the calls stand in different blocks; {RULES['PAR01'].allowed}"
        )
        return
    for first, second in permutations(names, 2):
        one, other = calls[first], calls[second]
        if names.index(first) < names.index(second):
            for name in sorted(_shared(project, one, other)):
                yield project.finding("PAR01", other.node, f"{first} and {second} both have '{name}'")
        result = _result(one.node)
        if result and any(_overlap(_path(argument), result) for argument in arguments(other.node)):
            yield project.finding("PAR01", other.node, f"{second} needs the result of {first}")


def _block(node: Node) -> Node | None:
    """The innermost braces, branch or loop around a call."""
    around = (n for n in node.ancestors() if n.kind.endswith("_STMT") and n.kind != "DECL_STMT")
    return next(around, None)


def _statement(node: Node) -> Node:
    """The statement that a call is, or is a part of."""
    while node.parent is not None and node.parent.kind != "COMPOUND_STMT":
        node = node.parent
    return node


def _shared(project: Project, one: Call, other: Call) -> set[str]:
    """What two calls are both given, scalars and constant structs aside."""
    pairs = ((x, y) for x in _exclusive(project, one) for y in _exclusive(project, other))
    return {".".join(x if len(x) <= len(y) else y) for x, y in pairs if _overlap(x, y)}


def _exclusive(project: Project, call: Call) -> list[tuple[str, ...]]:
    """The variables that a call is given by address, or as ports."""
    callee = project.functions.get(call.callee)
    if callee is None:
        return []
    found = []
    for argument, parameter in zip(arguments(call.node), callee.parameters, strict=False):
        kind = parameter.type
        reference = kind.kind.name == "LVALUEREFERENCE"
        writes = reference and not kind.get_pointee().is_const_qualified()
        array = kind.kind.name in _BY_ADDRESS or (reference and "ARRAY" in kind.get_pointee().kind.name)
        if writes or array or is_burst_port(kind):
            found.append(_path(argument))
    return [path for path in found if path]


def _result(call: Node) -> tuple[str, ...]:
    """The variable that a call's result goes to; empty if it goes nowhere."""
    statement = _statement(call)
    if statement.operator.endswith("=") and statement.children:
        return _path(statement.children[0])
    declared = next((node for node in statement.walk() if node.kind == "VAR_DECL"), None)
    return (declared.name,) if declared is not None else ()


def _path(node: Node) -> tuple[str, ...]:
    """A variable, or a member of one: its names from the variable on."""
    members = [n for n in node.walk() if n.kind in ("MEMBER_REF_EXPR", "DECL_REF_EXPR")]
    names = [n.name for n in members if n.kind == "MEMBER_REF_EXPR"]
    base = [n.name for n in members if n.kind == "DECL_REF_EXPR"]
    return (base[0], *reversed(names)) if base else ()


def _overlap(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    shorter = min(len(one), len(other))
    return shorter > 0 and one[:shorter] == other[:shorter]


def _check_sites(project: Project) -> Iterator[Finding]:
    for placed in project.pragmas:
        options = placed.pragma.options
        if placed.pragma.name != "allocation" or placed.function is None or options.get("limit") != "1":
            continue
        name = options.get("instances", "")
        sites = [call for call in project.calls if call.caller is placed.function and call.name == name]
        if len(sites) > _MOST_SITES:
            found = f"{name} is to exist once and is called in {len(sites)} places"
            yield project.finding("PAR02", placed.pragma, found)
