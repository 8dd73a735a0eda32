"""Loops: each one counts, has a label, and has a bound the tool knows (rules LOOP01 to LOOP05)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .project import Project
from .rules import Finding
from .tree import LOOP_KINDS, Node, constant, is_constant, symbol

_MIRRORED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}


@dataclass(frozen=True)
class Header:
    """The header of a counting loop: its counter, first value and bound; ``exact`` if nothing else ends it."""

    counter: Node
    first: Node
    bound: Node
    exact: bool

    @property
    def is_constant(self) -> bool:
        """True if the number of iterations is known at compile time."""
        return self.exact and is_constant(self.first) and is_constant(self.bound)


def check_loops(project: Project) -> Iterator[Finding]:
    """All findings about loops."""
    headers = {id(loop): read_header(loop) for _, loop in project.loops}
    for function, loop in project.loops:
        header = headers[id(loop)]
        if loop.parent is None or loop.parent.kind != "LABEL_STMT":
            yield project.finding("LOOP05", loop, f"a loop in {function.name} has no label")
        if isinstance(header, str):
            yield project.finding("LOOP01", loop, header)
            continue
        if header.is_constant:
            continue
        name = f"the loop '{header.counter.name}'"
        if project.on(loop, "unroll"):
            yield project.finding("LOOP03", loop, f"UNROLL on {name}, whose bounds are not constant")
        elif not project.on(loop, "loop_tripcount"):
            yield project.finding("LOOP02", loop, f"{name} has no constant bound and no LOOP_TRIPCOUNT")
    varying = {key for key, header in headers.items() if isinstance(header, str) or not header.is_constant}
    yield from _check_pipelines(project, varying)


def _check_pipelines(project: Project, varying: set[int]) -> Iterator[Finding]:
    """Loops with a varying bound must not be below a PIPELINE."""
    loops_of: dict[str, list[Node]] = {}
    for function, loop in project.loops:
        loops_of.setdefault(function.id, []).append(loop)
    for placed in project.pragmas:
        pragma, owner = placed.pragma, placed.owner
        if pragma.name != "pipeline" or owner is None or "off" in pragma.options or placed.function is None:
            continue
        inside = [n for n in owner.walk() if n.kind in LOOP_KINDS and n is not owner]
        called = {n.referenced_id for n in owner.walk() if n.kind == "CALL_EXPR" and n.referenced is not None}
        for start in called:
            for function_id in project.reached_from(start):
                inside += loops_of.get(function_id, [])
        for loop in inside:
            if id(loop) in varying:
                found = f"the loop in line {loop.line} has no constant bound and is below this PIPELINE"
                yield project.finding("LOOP04", pragma, found)


def read_header(loop: Node) -> Header | str:
    """The header of a counting ``for`` loop, or one clause saying why it is none."""
    if loop.kind != "FOR_STMT":
        return f"a {loop.kind.removesuffix('_STMT').removeprefix('CXX_').replace('_', ' ').lower()} loop"
    if len(loop.children) != 4:
        return "a for loop whose header lacks a part"
    start, condition, step, body = loop.children
    if start.kind != "DECL_STMT" or len(start.children) != 1 or not start.children[0].children:
        return "a for loop that does not declare one counter with a first value"
    counter = start.children[0]
    identity = symbol(counter.cursor)
    increment = _step(step.bare(), identity)
    if increment is None:
        return f"a for loop that does not change '{counter.name}' by a constant"
    comparisons = list(_conjuncts(condition.bare()))
    bounds = [bound for part in comparisons if (bound := _bound(part, identity, increment)) is not None]
    if not bounds:
        return f"a for loop whose condition does not bound '{counter.name}' in the direction of its step"
    if _changes(body, identity):
        return f"a for loop that changes its counter '{counter.name}' in the body"
    if any(n.kind == "DECL_REF_EXPR" and _changes(body, n.referenced_id) for n in bounds[0].walk()):
        return "a for loop that changes its own bound in the body"
    exact = len(comparisons) == 1 and not is_stopped_early(body)
    return Header(counter, counter.children[-1], bounds[0], exact)


def is_stopped_early(body: Node) -> bool:
    """True if a ``break`` in ``body`` ends the loop it belongs to."""
    waiting = [body]
    while waiting:
        node = waiting.pop()
        if node.kind == "BREAK_STMT":
            return True
        if node.kind not in LOOP_KINDS and node.kind != "SWITCH_STMT":
            waiting.extend(node.children)
    return False


def _conjuncts(condition: Node) -> Iterator[Node]:
    """The parts of a condition joined by ``&&``."""
    if condition.operator == "&&":
        for child in condition.children:
            yield from _conjuncts(child.bare())
    else:
        yield condition


def _step(node: Node, identity: str) -> int | None:
    """By how much the loop's third part changes the counter: a non-zero sign, or None if it is no such step."""
    if not node.children or node.children[0].bare().referenced_id != identity:
        return None
    if node.operator in ("++", "--"):
        return 1 if node.operator == "++" else -1
    if node.operator in ("+=", "-=") and is_constant(node.children[1]):
        amount = constant(node.children[1])
        amount = 1 if amount is None else amount
        return (amount if node.operator == "+=" else -amount) or None
    return None


def _bound(comparison: Node, identity: str, increment: int) -> Node | None:
    """The side of ``counter < bound`` that is the bound, if the step moves towards it."""
    relation = comparison.operator
    if relation not in _MIRRORED:
        return None
    left, right = comparison.children
    if right.bare().referenced_id == identity:
        left, right = right, left
        relation = _MIRRORED[relation]
    if left.bare().referenced_id != identity or right.refers_to(identity):
        return None
    return right if relation.startswith("<" if increment > 0 else ">") else None


def _changes(body: Node, identity: str) -> bool:
    """True if ``body`` assigns to the variable or a part of it, or takes its address."""
    for node in body.walk():
        assigns = node.operator.endswith("=") and node.operator not in ("==", "!=", "<=", ">=")
        address = node.operator == "&" and node.kind == "UNARY_OPERATOR"
        if assigns or address or node.operator in ("++", "--"):
            target = node.children[0].bare()
            while target.kind in ("MEMBER_REF_EXPR", "ARRAY_SUBSCRIPT_EXPR") and target.children:
                target = target.children[0].bare()
            if target.referenced_id == identity:
                return True
    return False
