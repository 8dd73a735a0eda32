"""Values that outlive a clock or an iteration: registers that go round in a pipeline, and output registers (rules STA01, IFC10)."""

from __future__ import annotations

from collections.abc import Iterator

from .access import Access, AccessMap
from .binding import array_sizes
from .bursts import arguments, is_burst_port
from .memories import Array, find_arrays
from .project import Call, Function, Project
from .rules import Finding
from .tree import LOOP_KINDS, Node, symbol


def check_state(project: Project) -> Iterator[Finding]:
    """All findings about registers that a called function passes on in one clock, and about output registers."""
    yield from _check_rounds(project)
    if project.top is not None:
        for number, parameter in enumerate(project.top.parameters):
            if _is_register(parameter):
                yield from _check_output(project, project.top, number, False, set())


# --- STA01


def _check_rounds(project: Project) -> Iterator[Finding]:
    accesses = AccessMap(project)
    registers = {symbol(array.node.cursor): array for array in find_arrays(project)}
    told: set[tuple[str, str]] = set()
    for call in project.calls:
        callee, owner = project.functions.get(call.callee), _pipeline_around(project, call)
        if callee is None or owner is None or not _stands_alone(project, callee):
            continue
        for node in _carried(call, owner, accesses):
            if not _is_memory(node, registers) and (callee.id, node.name) not in told:
                told.add((callee.id, node.name))
                found = f"'{node.name}' of {call.caller.name} goes round through {callee.name}"
                yield project.finding("STA01", callee.node, found)


def _pipeline_around(project: Project, call: Call) -> Node | None:
    """The pipelined loop or function that a call stands in."""
    around = (node for node in call.node.ancestors() if node.kind in LOOP_KINDS or node is call.caller.node)
    return next((node for node in around if _pipelined(project, node)), None)


def _pipelined(project: Project, owner: Node) -> bool:
    pragma = project.on(owner, "pipeline")
    return pragma is not None and "off" not in pragma.options


def _stands_alone(project: Project, function: Function) -> bool:
    """Whether a function is a piece of hardware of its own, and may hold its result for a clock."""
    inline, latency = project.on(function.node, "inline"), project.on(function.node, "latency")
    if inline is None or "off" not in inline.options:
        return False
    try:
        return latency is None or project.evaluate(latency.options.get("max", "1")) != 0
    except ValueError:
        return False  # PRG11's


def _carried(call: Call, owner: Node, accesses: AccessMap) -> Iterator[Node]:
    """Declarations of variables that outlive an iteration of `owner` and that the call both reads and writes."""
    uses: dict[str, Access] = {}
    places: dict[str, Node] = {}
    given = accesses.of_call(call.node)
    result = _assigned(call.node)
    for node, access in given + ([(result, Access(writes=True))] if result is not None else []):
        for name in node.walk():
            if name.kind == "DECL_REF_EXPR" and name.referenced is not None:
                uses[name.referenced_id] = uses.get(name.referenced_id, Access()) | access
                places.setdefault(name.referenced_id, name)
                break  # the variable itself; what follows are subscripts
    for identity, access in uses.items():
        if access.reads and access.writes and _outlives(places[identity], owner):
            yield places[identity]


def _assigned(call: Node) -> Node | None:
    """What a call's result is assigned to."""
    for node in call.ancestors():
        if node.operator == "=" and node.children:
            return node.children[0]
        if node.kind.endswith("_STMT"):
            return None
    return None


def _outlives(name: Node, owner: Node) -> bool:
    """Whether a variable keeps its value from one iteration, or call, to the next."""
    declared = name.referenced
    if declared.kind.name == "PARM_DECL":
        return owner.kind in LOOP_KINDS or declared.type.get_canonical().kind.name == "LVALUEREFERENCE"
    start, end = owner.extent
    return declared.storage_class.name == "STATIC" or not start <= declared.location.offset < end


def _is_memory(name: Node, registers: dict[str, Array]) -> bool:
    """Whether a variable is no register: an array that is not cut completely, a stream, a port."""
    kind = name.type
    if is_burst_port(kind) or str(kind.spelling).startswith("hls::") or kind.kind.name == "POINTER":
        return True
    array = registers.get(name.referenced_id)
    return array.words > 1 if array is not None else bool(array_sizes(name))


# --- IFC10


def _is_register(parameter: Node) -> bool:
    """Whether an argument of the top function is a scalar that the host reads."""
    kind = parameter.type
    if kind.kind.name != "LVALUEREFERENCE":
        return False
    inner = kind.get_pointee().get_canonical()
    return not (inner.is_const_qualified() or inner.spelling.startswith("hls::") or array_sizes(parameter))


def _check_output(
    project: Project, function: Function, number: int, in_loop: bool, seen: set[tuple[str, int, bool]]
) -> Iterator[Finding]:
    """Follows an output register into the functions that it is given to; `in_loop`: the call stands in a loop."""
    if number >= len(function.parameters) or (function.id, number, in_loop) in seen:
        return
    seen.add((function.id, number, in_loop))
    parameter = function.parameters[number]
    identity = symbol(parameter.cursor)
    plain = parameter.type.kind.name == "LVALUEREFERENCE" and not parameter.type.get_pointee().is_volatile_qualified()
    repeated = [node for node in _writes(function, identity) if in_loop or _in_loop(node, function)]
    if plain and repeated:
        found = (
            f"the output register '{parameter.name}' is written in a loop (line {repeated[0].line}) and not volatile"
        )
        yield project.finding("IFC10", parameter, found)
    for call in project.calls:
        if call.caller is function and call.callee in project.functions:
            for index, argument in enumerate(arguments(call.node)):
                if argument.refers_to(identity):
                    inside = in_loop or _in_loop(call.node, function)
                    yield from _check_output(project, project.functions[call.callee], index, inside, seen)


def _writes(function: Function, identity: str) -> Iterator[Node]:
    for node in function.body.walk():
        assigns = node.operator.endswith("=") and node.operator not in ("==", "!=", "<=", ">=")
        if (assigns or node.operator in ("++", "--")) and node.children[0].refers_to(identity):
            yield node


def _in_loop(node: Node, function: Function) -> bool:
    return any(n.kind in LOOP_KINDS for n in node.ancestors() if n is not function.node)
