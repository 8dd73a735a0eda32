"""Who calls whom: recursion and state shared between call sites (rules SUB03 and SUB13)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from .project import Call, Function, Project
from .rules import Finding
from .tree import LOOP_KINDS, Node


def check_calls(project: Project) -> Iterator[Finding]:
    """All findings about the call graph."""
    for function in project.functions.values():
        callees = project.callees.get(function.id, set())
        if any(function.id in project.reached_from(callee) for callee in callees):
            yield project.finding("SUB03", function.node, f"{function.name} reaches itself")
        statics = list(_statics(function))
        if statics:
            shared = _several_instances(project, function, frozenset())
            if shared:
                names = ", ".join(node.name for node in statics)
                yield project.finding("SUB13", statics[0], f"{shared}, so it would share {names}")


def _statics(function: Function) -> Iterator[Node]:
    """Static variables of a function that can change."""
    for node in function.body.walk():
        if node.kind == "VAR_DECL" and node.cursor.storage_class.name == "STATIC":
            kind = node.type
            constant = kind.is_const_qualified()
            while "ARRAY" in kind.kind.name:
                kind = kind.element_type.get_canonical()
                constant = constant or kind.is_const_qualified()
            if not constant:
                yield node


def _several_instances(project: Project, function: Function, below: frozenset[str]) -> str:
    """Why ``function`` would exist more than once in hardware; empty if it does not."""
    calls = project.calls_of(function.id)
    if function.id in below:
        return ""
    for first, second in combinations(calls, 2):
        same = (
            first.node.referenced.get_usr() == second.node.referenced.get_usr()
        )  # another instance of a template is not
        if same and not exclude_each_other(first.node, second.node):
            return f"{function.name} is called in lines {first.node.line} and {second.node.line}"
    for call in calls:
        loop = _copying_loop(project, call)
        if loop is not None:
            return f"{function.name} is called in line {call.node.line}, in a loop that is unrolled"
    for caller in {call.caller.id: call.caller for call in calls}.values():
        reason = _several_instances(project, caller, below | {function.id})
        if reason:
            return reason
    return ""


def exclude_each_other(first: Node, second: Node) -> bool:
    """True if the two calls are in different branches of one if or different cases of one switch."""
    ancestors = list(second.ancestors())
    common = next((node for node in first.ancestors() if node in ancestors), None)
    if common is None:
        return False
    ways = [_child_towards(common, node) for node in (first, second)]
    if common.kind == "IF_STMT" or (common.kind == "CONDITIONAL_OPERATOR" and len(common.children) == 3):
        return common.children[0] not in ways
    if common.kind == "COMPOUND_STMT" and common.parent is not None and common.parent.kind == "SWITCH_STMT":
        return _case_of(common.children, ways[0]) != _case_of(common.children, ways[1])
    return False


def _child_towards(ancestor: Node, node: Node) -> Node:
    while node.parent is not ancestor and node.parent is not None:
        node = node.parent
    return node


def _case_of(statements: Sequence[Node], wanted: Node) -> int:
    """The number of the break-separated part of a switch body that holds ``wanted``.

    A case that falls through into the next one belongs to the same part.
    """
    part = 0
    for statement in statements:
        if statement is wanted:
            return part
        inner = statement
        while inner.kind in ("CASE_STMT", "DEFAULT_STMT") and inner.children:
            inner = inner.children[-1]
        last = inner.children[-1].kind if inner.kind == "COMPOUND_STMT" and inner.children else inner.kind
        if last in ("BREAK_STMT", "RETURN_STMT"):
            part += 1
    return part


def _copying_loop(project: Project, call: Call) -> Node | None:
    """The loop around a call that is copied in hardware: unrolled, or inside a pipelined loop or function."""
    inner: Node | None = None
    for node in call.node.ancestors():
        if node.kind in LOOP_KINDS:
            if inner is not None and project.on(node, "pipeline"):
                return inner
            if project.on(node, "unroll"):
                return node
            inner = node
        elif node is call.caller.node:
            return inner if project.on(node, "pipeline") else None
    return None
