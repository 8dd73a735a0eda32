"""Ports of device memory whose bursts are asked for by hand, `hls::burst_maxi` (rules BRS01 to BRS04).

What is looked at is the order in the text: loops and branches are taken to be passed, so a rule that is kept here can still be broken
at run time. C-simulation's header of that name counts there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .calls import exclude_each_other
from .loops import Header, read_header
from .project import Call, Function, Project
from .rules import Finding
from .tree import LOOP_KINDS, Node, constant, symbol

_PORT = "hls::burst_maxi<"
_REQUESTS = {"read": "read_request", "write": "write_request"}
_OUTSTANDING = {"read_request": "num_read_outstanding", "write_request": "num_write_outstanding"}
_DEFAULT_OUTSTANDING = 16  # Vitis HLS, where the pragma says nothing
_LEAST = frozenset({"least", "min"})


def is_burst_port(kind: object) -> bool:
    """True for the type `hls::burst_maxi<...>`, by value or reference."""
    spelling = str(getattr(kind, "spelling", ""))
    return spelling.removeprefix("const ").startswith(_PORT)


@dataclass(frozen=True)
class _Use:
    """One use of a port in a function: a method of it, or a call that is given it; ``does`` are the methods that run there."""

    node: Node
    does: frozenset[str]
    direct: bool

    @property
    def place(self) -> int:
        return self.node.extent[0]


class _Ports:
    """The uses of all ports, by function and parameter."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self._known: dict[tuple[str, int], tuple[_Use, ...]] = {}

    def numbers(self, function: Function) -> list[int]:
        """Which parameters of a function are ports."""
        return [number for number, node in enumerate(function.parameters) if is_burst_port(node.type)]

    def uses(self, function: Function, number: int) -> tuple[_Use, ...]:
        """The uses of a port in a function, in the order of the text."""
        key = (function.id, number)
        if key not in self._known:
            self._known[key] = ()  # of a recursive call
            identity = symbol(function.parameters[number].cursor)
            found = [use for node in function.body.walk() if (use := self._use(node, identity)) is not None]
            self._known[key] = tuple(sorted(found, key=lambda use: use.place))
        return self._known[key]

    def _use(self, node: Node, identity: str) -> _Use | None:
        if node.kind != "CALL_EXPR" or node.referenced is None:
            return None
        member = node.children[0].bare() if node.children else None
        if member is not None and member.kind == "MEMBER_REF_EXPR" and member.refers_to(identity):
            return _Use(node, frozenset({node.name}), direct=True)
        callee = self.project.functions.get(node.referenced_id)
        if callee is None:
            return None
        given = [number for number, argument in enumerate(arguments(node)) if argument.refers_to(identity)]
        ports = [number for number in given if number in self.numbers(callee)]
        does = frozenset(method for number in ports for use in self.uses(callee, number) for method in use.does)
        return _Use(node, does, direct=False) if ports else None

    def given_by(self, call: Call, number: int) -> int | None:
        """Which of the caller's parameters is the port that a call is given as its argument ``number``."""
        argument = arguments(call.node)[number]
        names = [symbol(parameter.cursor) for parameter in call.caller.parameters]
        return next((index for index, name in enumerate(names) if argument.refers_to(name)), None)

    def reaches(self, function: Function, number: int, node: Node, method: str, before: bool) -> bool:
        """Whether a method of the port stands before (or behind) a place, in the function or around each call of it.

        What stands in the other branch of an if is neither; nor is, behind a place, what an if of another condition holds.
        """
        place = node.extent[0]
        uses = [use for use in self.uses(function, number) if method in use.does and use.node is not node]
        ordered = [use for use in uses if (use.place < place if before else use.place > place)]
        if not before:
            ordered = [use for use in ordered if _conditions(use.node) <= _conditions(node)]
        if any(not exclude_each_other(use.node, node) for use in ordered):
            return True
        calls = self.project.calls_of(function.id)
        for call in calls:
            outer = self.given_by(call, number)
            if outer is None or not self.reaches(call.caller, outer, call.node, method, before):
                return False
        return bool(calls)


def _conditions(node: Node) -> set[str]:
    """The conditions of the ifs around a place, as they are written."""
    return {_text(around.children[0]) for around in node.ancestors() if around.kind == "IF_STMT"}


def arguments(call: Node) -> list[Node]:
    """The argument nodes of a call of a plain function or method, in order."""
    extents = [(a.extent.start.offset, a.extent.end.offset) for a in call.cursor.get_arguments() if a is not None]
    found = {child.extent: child for child in call.children[1:]}
    return [found[extent] for extent in extents if extent in found]


def check_bursts(project: Project) -> Iterator[Finding]:
    """All findings about burst ports."""
    ports = _Ports(project)
    for function in project.functions.values():
        for number in ports.numbers(function):
            yield from _check_order(ports, function, number)
            yield from _check_loops(ports, function, number)


def _check_order(ports: _Ports, function: Function, number: int) -> Iterator[Finding]:
    project, name = ports.project, function.parameters[number].name
    for use in ports.uses(function, number):
        if not use.direct:
            continue
        (method,) = use.does
        asked = _REQUESTS.get(method)
        if asked is not None and not ports.reaches(function, number, use.node, asked, before=True):
            yield project.finding("BRS01", use.node, f"{name}.{method}() with no {asked}() before it")
        if method == "write_request" and not ports.reaches(function, number, use.node, "write_response", before=False):
            yield project.finding("BRS03", use.node, f"{name}.write_request() with no write_response() behind it")
        if method in _OUTSTANDING:
            words = arguments(use.node)[-1]
            if not _surely_positive(words, use.node):
                found = f"{name}.{method}() of {_text(words)} words, which may be zero"
                yield project.finding("BRS02", use.node, found)


def _check_loops(ports: _Ports, function: Function, number: int) -> Iterator[Finding]:
    """A loop that asks and takes nothing runs ahead by as many requests as it has turns."""
    project, name = ports.project, function.parameters[number].name
    for loop in (node for node in function.body.walk() if node.kind in LOOP_KINDS):
        inside = [use for use in ports.uses(function, number) if use.node in list(loop.walk())]
        for method, asked in _REQUESTS.items():
            requests = sum(asked in use.does for use in inside)
            if not requests or any(method in use.does for use in inside):
                continue
            turns = _turns(read_header(loop))
            most = _outstanding(project, _OUTSTANDING[asked])
            if turns is None:
                yield project.finding("BRS04", loop, f"a loop asks {name} for an unknown number of requests ahead")
            elif turns * requests > most:
                found = f"a loop asks {name} for {turns * requests} requests ahead, the port holds {most}"
                yield project.finding("BRS04", loop, found)


def _turns(header: Header | str) -> int | None:
    if isinstance(header, str) or not header.is_constant:
        return None
    first, bound = constant(header.first), constant(header.bound)
    return None if first is None or bound is None else abs(bound - first)


def _outstanding(project: Project, option: str) -> int:
    """Requests that every port of the top function holds."""
    given = []
    for placed in project.pragmas:
        text = placed.pragma.options.get(option) if placed.pragma.name == "interface" else None
        try:
            value = project.evaluate(text) if text else None
        except ValueError:
            value = None
        if value is not None:
            given.append(value)
    return min(given, default=_DEFAULT_OUTSTANDING)


def _surely_positive(words: Node, request: Node) -> bool:
    """A positive constant, a number that an if around the request compares with zero, what is left of the loop around it,
    or the least of such."""
    words = words.bare()
    value = constant(words)
    if value is not None:
        return value > 0
    if words.kind == "CALL_EXPR" and words.name in _LEAST:
        return all(_surely_positive(argument, request) for argument in arguments(words))
    text = _text(words)
    return any(_is_guard(node, text, request) or _is_loop_over(node, words) for node in request.ancestors())


def _is_guard(node: Node, text: str, request: Node) -> bool:
    if node.kind != "IF_STMT" or len(node.children) < 2 or request not in list(node.children[1].walk()):
        return False
    comparisons = [part for part in node.children[0].walk() if part.operator in ("!=", ">")]
    return any(_text(part.children[0]) == text and constant(part.children[1]) == 0 for part in comparisons)


def _is_loop_over(node: Node, words: Node) -> bool:
    if node.kind != "FOR_STMT" or words.operator != "-":
        return False
    header = read_header(node)
    if isinstance(header, str):
        return False
    left, right = words.children
    return _text(left) == _text(header.bound) and right.bare().referenced_id == symbol(header.counter.cursor)


def _text(node: Node) -> str:
    tokens: Sequence[object] = list(node.cursor.get_tokens())
    return "".join(str(getattr(token, "spelling", "")) for token in tokens)
