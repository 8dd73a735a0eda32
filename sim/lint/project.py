"""What the lint's rules work on: the functions, calls and pragmas of the sources that make one top function."""

from __future__ import annotations

import ast
import functools
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from .grammar import read_pragma
from .pragmas import Pragma
from .rules import RULES, Finding
from .tree import FUNCTION_KINDS, LOOP_KINDS, Node, Unit, constant, read_source, symbol

_ARITHMETIC: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.floordiv,
    ast.Mod: operator.mod,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
}


@dataclass(frozen=True)
class Function:
    """A function with a body; ``id`` is the same in every translation unit."""

    id: str
    name: str
    node: Node
    parameters: tuple[Node, ...]
    body: Node


@dataclass(frozen=True)
class Call:
    """One call site; ``callee`` is the id of the function called, with or without a body here."""

    caller: Function
    node: Node
    callee: str
    name: str


@dataclass(frozen=True)
class Placed:
    """A pragma and where it stands.

    ``function`` is the enclosing function (None outside of any), ``braces`` the braces directly around the
    pragma (None in between, as after a loop header without braces), ``owner`` what these braces belong to:
    a function, a loop, an if, or a statement.
    """

    pragma: Pragma
    function: Function | None
    braces: Node | None
    owner: Node | None

    def is_on(self, name: str, owner: Node) -> bool:
        """True if this is the pragma ``name`` directly in the body of ``owner``."""
        return self.pragma.name == name and self.owner is owner


class Project:
    """The parsed sources behind one top function.

    Args:
        units: all translation units read.
        top: name of the top function.

    ``units`` are those that take part in the top function (all of them where there is no such function);
    ``functions`` by id; ``calls`` in source order; ``pragmas`` with their places; ``faults`` are the findings
    made while reading.
    """

    def __init__(self, units: Sequence[Unit], top: str) -> None:
        self.top_name = top
        self.functions = {f.id: f for unit in units for node in unit.nodes for f in _functions(node)}
        self.calls = tuple(c for f in self.functions.values() for c in _calls(f))
        tops = [f for f in self.functions.values() if f.name == top]
        self.top = tops[0] if tops else None
        self.units = self._taking_part(units)
        self.files = frozenset(file for unit in self.units for file in unit.files)
        self.nodes = tuple(_unique(node for unit in self.units for node in unit.nodes))
        self.functions = {i: f for i, f in self.functions.items() if f.node.file in self.files}
        self.calls = tuple(c for c in self.calls if c.caller.id in self.functions)
        self.faults: list[Finding] = []
        self.pragmas = tuple(self._read_pragmas())

    def finding(self, rule: str, where: Node | Pragma, found: str) -> Finding:
        """A finding of ``rule`` at ``where``: what was found, then what the rule allows."""
        return Finding(where.file, where.line, rule, f"{found}; {RULES[rule].allowed}")

    def calls_of(self, function_id: str) -> list[Call]:
        """The call sites of one function."""
        return [call for call in self.calls if call.callee == function_id]

    @functools.cached_property
    def callees(self) -> dict[str, set[str]]:
        """Ids of the functions each function calls, by the caller's id."""
        return _targets(self.calls)

    def reached_from(self, function_id: str) -> frozenset[str]:
        """Ids of the functions that this one calls directly or not, itself included."""
        return _reachable(self.callees, function_id)

    def on(self, owner: Node, name: str) -> Pragma | None:
        """The pragma ``name`` directly in the body of ``owner`` (a loop or a function), if there is one."""
        return next((p.pragma for p in self.pragmas if p.is_on(name, owner)), None)

    @functools.cached_property
    def loops(self) -> tuple[tuple[Function, Node], ...]:
        """Each loop with the function it is in."""
        return tuple((f, node) for f in self.functions.values() for node in f.body.walk() if node.kind in LOOP_KINDS)

    @functools.cached_property
    def constants(self) -> dict[str, int | None]:
        """Integer constants by name; template parameters have the value None."""
        table: dict[str, int | None] = {}
        for root in self.nodes:
            for node in root.walk():
                if node.kind == "TEMPLATE_NON_TYPE_PARAMETER":
                    table.setdefault(node.name, None)
                elif node.kind == "ENUM_CONSTANT_DECL":
                    table[node.name] = int(node.cursor.enum_value)
                elif node.kind == "VAR_DECL" and node.type.is_const_qualified():
                    value = constant(node)
                    if value is not None:
                        table[node.name] = value
        return table

    def evaluate(self, text: str) -> int | None:
        """The value of the integer expression ``text`` of a pragma; None if it hangs on a template parameter.

        Raises:
            ValueError: it is not an integer expression of literals and known constants.
        """
        plain = re.sub(r"\b(0[xX][0-9a-fA-F]+|\d+)[uUlL]+\b", r"\1", text)
        plain = re.sub(r"\b\w+::", "", plain)
        try:
            return self._value(ast.parse(plain, mode="eval").body)
        except (SyntaxError, ZeroDivisionError) as error:
            raise ValueError(f"'{text}' is not an integer expression") from error

    def _value(self, tree: ast.expr) -> int | None:
        if isinstance(tree, ast.Constant) and type(tree.value) is int:
            return tree.value
        if isinstance(tree, ast.Name):
            if tree.id not in self.constants:
                raise ValueError(f"'{tree.id}' is not a constant of these sources")
            return self.constants[tree.id]
        if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
            value = self._value(tree.operand)
            return None if value is None else -value
        if isinstance(tree, ast.BinOp) and type(tree.op) in _ARITHMETIC:
            left, right = self._value(tree.left), self._value(tree.right)
            return None if left is None or right is None else _ARITHMETIC[type(tree.op)](left, right)
        raise ValueError("only literals, constants and + - * / % << >> are read here")

    def _taking_part(self, units: Sequence[Unit]) -> tuple[Unit, ...]:
        if self.top is None:
            return tuple(units)
        reached = _reachable(_targets(self.calls), self.top.id)
        files = {f.node.file for i, f in self.functions.items() if i in reached}
        members = tuple(unit for unit in units if str(unit.path) in files)
        return members or tuple(unit for unit in units if files & unit.files)

    def _read_pragmas(self) -> Iterator[Placed]:
        places = sorted({place for unit in self.units for place in unit.pragmas}, key=lambda p: (p.file, p.offset))
        text_of = functools.lru_cache(maxsize=None)(read_source)
        by_file: dict[str, list[Function]] = {}
        for function in self.functions.values():
            by_file.setdefault(function.node.file, []).append(function)
        for place in places:
            pragma, faults = read_pragma(place, text_of(place.file))
            for rule, found in faults:
                message = f"{found}; {RULES[rule].allowed}"
                self.faults.append(Finding(place.file, place.line, rule, message))
            if pragma is not None:
                yield _placed(pragma, by_file.get(place.file, []))


def _targets(calls: Iterable[Call]) -> dict[str, set[str]]:
    targets: dict[str, set[str]] = {}
    for call in calls:
        targets.setdefault(call.caller.id, set()).add(call.callee)
    return targets


def _reachable(targets: dict[str, set[str]], start: str) -> frozenset[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            waiting.extend(targets.get(current, ()))
    return frozenset(seen)


def _functions(root: Node) -> Iterator[Function]:
    for node in root.walk():
        if node.kind in FUNCTION_KINDS and node.cursor.is_definition():
            bodies = [child for child in node.children if child.kind == "COMPOUND_STMT"]
            if bodies:
                parameters = tuple(child for child in node.children if child.kind == "PARM_DECL")
                yield Function(symbol(node.cursor), node.name, node, parameters, bodies[-1])


def _calls(function: Function) -> Iterator[Call]:
    for node in function.body.walk():
        if node.kind == "CALL_EXPR" and node.referenced is not None:
            yield Call(function, node, node.referenced_id, node.name)


def _unique(nodes: Iterable[Node]) -> Iterator[Node]:
    """Each declaration once, though a header is read by several translation units."""
    seen: set[tuple[str, tuple[int, int]]] = set()
    for node in nodes:
        key = (node.file, node.extent)
        if key not in seen:
            seen.add(key)
            yield node


def _placed(pragma: Pragma, functions: Sequence[Function]) -> Placed:
    around = [f for f in functions if _contains(f.node, pragma.offset)]
    if not around:
        return Placed(pragma, None, None, None)
    function = min(around, key=lambda f: f.node.extent[1] - f.node.extent[0])
    node = function.node
    while True:
        inner = next((child for child in node.children if _contains(child, pragma.offset)), None)
        if inner is None:
            break
        node = inner
    if node.kind != "COMPOUND_STMT":
        return Placed(pragma, function, None, node)
    return Placed(pragma, function, node, node.parent)


def _contains(node: Node, offset: int) -> bool:
    start, end = node.extent
    return start <= offset < end
