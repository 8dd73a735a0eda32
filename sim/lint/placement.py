"""Where pragmas stand and what they name (rules PRG07 to PRG12)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .pragmas import FORMS, INTERFACE_MODES, Kind, Place, Pragma
from .project import Placed, Project
from .rules import Finding
from .tree import FUNCTION_KINDS, LOOP_KINDS, Node

_AT_LEAST_ONE = frozenset({"ii", "factor", "depth", "limit", "cycle"})
_BURST_LENGTHS = range(1, 257)  # beats of one AXI4 burst
_SAME_THING = ("variable", "dim", "port", "mode", "instances", "class", "direction", "op")
_OPERATIONS = frozenset(
    [
        "add",
        "sub",
        "mul",
        "icmp",
        "sdiv",
        "udiv",
        "srem",
        "urem",
        "lshr",
        "ashr",
        "shl",
        "fadd",
        "fsub",
        "fmul",
        "fdiv",
        "dadd",
        "dsub",
        "dmul",
        "ddiv",
    ]
)


def check_placement(project: Project) -> Iterator[Finding]:
    """All findings about the place of each pragma, the variables and functions it names, and its numbers."""
    for placed in project.pragmas:
        pragma = placed.pragma
        if placed.function is None:
            found = f"{pragma.name.upper()} stands outside of any function"
            yield project.finding("PRG07", pragma, found)
            continue
        yield from _check_place(project, placed)
        yield from _check_names(project, placed)
        yield from _check_numbers(project, pragma)
    yield from _check_repeats(project)


def _check_place(project: Project, placed: Placed) -> Iterator[Finding]:
    pragma, owner = placed.pragma, placed.owner
    name = pragma.name.upper()
    if placed.braces is None or owner is None:
        yield project.finding("PRG08", pragma, f"{name} stands between a header and its braces, or has no braces")
        return
    in_loop = owner.kind in LOOP_KINDS
    in_function = owner.kind in FUNCTION_KINDS
    place = FORMS[pragma.name].place
    fits = {
        Place.LOOP: in_loop,
        Place.FUNCTION: in_function,
        Place.LOOP_OR_FUNCTION: in_loop or in_function,
        Place.REGION: True,
    }
    if not fits[place]:
        yield project.finding("PRG08", pragma, f"{name} must stand {place.value}")
    conditional = any(a.kind in ("IF_STMT", "SWITCH_STMT") for a in placed.braces.ancestors())
    if pragma.name == "occurrence" and not conditional:
        yield project.finding("PRG08", pragma, f"{name} must stand in the braces of an if or switch")


def _check_names(project: Project, placed: Placed) -> Iterator[Finding]:
    pragma, function = placed.pragma, placed.function
    if function is None:
        return
    for path in pragma.options.get("variable", "").split(","):
        if path and resolve(project, placed, path) is None:
            yield project.finding("PRG09", pragma, f"{pragma.name.upper()} names '{path}', not visible here")
    arguments = [p.name for p in function.parameters] if function is project.top else []
    if pragma.name == "stream" and pragma.options.get("variable") in arguments:
        found = "STREAM names an argument of the top function (for a port use INTERFACE mode=axis)"
        yield project.finding("PRG09", pragma, found)
    if pragma.name == "allocation":
        yield from _check_allocation(project, placed)


def _check_allocation(project: Project, placed: Placed) -> Iterator[Finding]:
    options = placed.pragma.options
    wanted = options.get("instances", "").lower()
    if options.get("type", "function") == "operation":
        if wanted not in _OPERATIONS:
            yield project.finding("PRG12", placed.pragma, f"ALLOCATION limits the unknown operation '{wanted}'")
    elif placed.braces is not None:
        called = {n.name.lower() for n in placed.braces.walk() if n.kind == "CALL_EXPR"}
        if wanted not in called:
            yield project.finding("PRG12", placed.pragma, f"ALLOCATION limits '{wanted}', not called in these braces")


def _check_numbers(project: Project, pragma: Pragma) -> Iterator[Finding]:
    """Each integer option is a known constant in its range, and min <= avg <= max."""
    forms = {**FORMS[pragma.name].options, **INTERFACE_MODES.get(pragma.options.get("mode", ""), {})}
    values: dict[str, int] = {}
    for key, text in pragma.options.items():
        if not text or key not in forms or forms[key].kind is not Kind.INTEGER:
            continue
        title = f"{pragma.name.upper()} {key}={text}"
        try:
            value = project.evaluate(text)
        except ValueError as error:
            yield project.finding("PRG11", pragma, f"{title}: {error}")
            continue
        if value is None:
            continue
        values[key] = value
        if key.endswith("burst_length") and value not in _BURST_LENGTHS:
            yield project.finding("PRG11", pragma, f"{title} is not within 1 to 256")
        elif value < (1 if key in _AT_LEAST_ONE else 0):
            yield project.finding("PRG11", pragma, f"{title} is too small")
    chain = [values[key] for key in ("min", "avg", "max") if key in values]
    if chain != sorted(chain):
        yield project.finding("PRG11", pragma, f"{pragma.name.upper()} has min, avg, max out of order")


def _check_repeats(project: Project) -> Iterator[Finding]:
    """The same pragma twice on the same thing, and pairs that exclude each other."""
    seen: set[tuple[object, ...]] = set()
    for placed in project.pragmas:
        pragma = placed.pragma
        subject = tuple(pragma.options.get(key, "") for key in _SAME_THING)
        # A second DEPENDENCE may speak of the other type; elsewhere 'type' is what would contradict.
        kind = pragma.options.get("type", "") if pragma.name == "dependence" else ""
        key = (id(placed.braces), pragma.name, subject, kind)
        if placed.braces is not None and key in seen:
            yield project.finding("PRG10", pragma, f"{pragma.name.upper()} is given a second time for the same")
        seen.add(key)
        if pragma.name == "pipeline" and placed.owner is not None:
            unroll = project.on(placed.owner, "unroll")
            if project.on(placed.owner, "dataflow") is not None:
                yield project.finding("PRG10", pragma, "PIPELINE and DATAFLOW exclude each other in one scope")
            if unroll is not None and not {"factor", "off"} & set(unroll.options):
                yield project.finding("PRG10", pragma, "PIPELINE on a loop that UNROLL dissolves completely")


def resolve(project: Project, placed: Placed, path: str) -> Node | None:
    """The declaration that ``path`` (``name`` or ``name.field``) means where the pragma stands, or None."""
    name, *fields = re.sub(r"\[[^\]]*\]", "", path).replace("->", ".").split(".")
    if name == "return" and not fields:
        return placed.function.node if placed.function else None
    node = next((n for n in _visible(project, placed) if n.name == name), None)
    for wanted in fields:
        node = _field(project, node, wanted) if node is not None else None
    return node


def _visible(project: Project, placed: Placed) -> Iterator[Node]:
    """Declarations visible at the pragma, innermost first."""
    offset = placed.pragma.offset
    node = placed.braces
    while node is not None:
        for child in node.children:
            if child.kind == "DECL_STMT" and child.extent[0] < offset:
                yield from (n for n in child.children if n.kind == "VAR_DECL")
            elif child.kind in ("PARM_DECL", "VAR_DECL", "FIELD_DECL"):
                yield child
        node = node.parent
    waiting = list(project.nodes)
    while waiting:
        root = waiting.pop()
        if root.kind == "VAR_DECL":
            yield root
        elif root.kind in ("NAMESPACE", "LINKAGE_SPEC"):
            waiting.extend(root.children)


def _field(project: Project, node: Node, name: str) -> Node | None:
    """The field ``name`` of the struct that ``node`` is, points to, or holds in an array."""
    kind = node.type
    while True:
        if kind.kind.name in ("POINTER", "LVALUEREFERENCE"):
            kind = kind.get_pointee().get_canonical()
        elif kind.kind.name in ("CONSTANTARRAY", "INCOMPLETEARRAY", "DEPENDENTSIZEDARRAY"):
            kind = kind.element_type.get_canonical()
        else:
            break
    declaration = str(kind.get_declaration().get_usr())
    fields = (n for root in project.nodes for n in root.walk() if n.kind == "FIELD_DECL" and n.name == name)
    return next((n for n in fields if n.parent and str(n.parent.cursor.get_usr()) == declaration), None)
