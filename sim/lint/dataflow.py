"""Canonical dataflow regions: declarations and calls, one producer and one consumer per channel (rules DFL)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from .access import Access, AccessMap
from .loops import read_header
from .project import Placed, Project
from .rules import Finding
from .tree import LOOP_KINDS, Node, constant, symbol

_NOT_STATEMENTS = frozenset({"DECL_STMT", "CALL_EXPR", "NULL_STMT"})


@dataclass(frozen=True)
class Process:
    """One call of a region and what it does to each variable, by symbol, in source order ``index``."""

    index: int
    node: Node
    uses: dict[str, Access]


@dataclass
class Region:
    """One dataflow region: its braces, the channels declared in it and its processes."""

    placed: Placed
    braces: Node
    channels: list[Node] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)

    def users(self, identity: str) -> tuple[list[Process], list[Process]]:
        """The processes that write a variable, and those that only read it."""
        writers = [p for p in self.processes if p.uses.get(identity, Access()).writes]
        readers = [p for p in self.processes if p.uses.get(identity, Access()).reads and p not in writers]
        return writers, readers


def check_dataflow(project: Project) -> Iterator[Finding]:
    """All findings about the regions marked with DATAFLOW."""
    accesses = AccessMap(project)
    for placed in project.pragmas:
        if placed.pragma.name == "dataflow" and placed.braces is not None and placed.owner is not None:
            region = Region(placed, placed.braces)
            yield from _check_statements(project, accesses, region)
            yield from _check_channels(project, region)
            yield from _check_outside(project, region)
            if placed.owner.kind in LOOP_KINDS:
                yield from _check_loop(project, placed)


def _check_statements(project: Project, accesses: AccessMap, region: Region) -> Iterator[Finding]:
    """Each statement is a declaration or a call of a void function with whole variables; fills ``region``."""
    for statement in region.braces.children:
        node = statement.bare()
        if node.kind not in _NOT_STATEMENTS:
            what = node.kind.removesuffix("_STMT").replace("_", " ").lower()
            yield project.finding("DFL01", node, f"a dataflow region with another statement ({what})")
        elif node.kind == "DECL_STMT":
            for variable in node.children:
                if variable.kind != "VAR_DECL":
                    continue
                region.channels.append(variable)
                if variable.cursor.storage_class.name == "STATIC":
                    yield project.finding("DFL06", variable, f"the channel '{variable.name}' is static")
        elif node.kind == "CALL_EXPR":
            yield from _check_process(project, accesses, region, node)


def _check_process(project: Project, accesses: AccessMap, region: Region, node: Node) -> Iterator[Finding]:
    if node.type.kind.name != "VOID":
        yield project.finding("DFL09", node, f"the process {node.name} returns a value")
    uses = accesses.globals_of_call(node)
    for argument, access in accesses.of_call(node):
        bare = argument.bare()
        if bare.kind != "DECL_REF_EXPR":
            if bare.kind != "INTEGER_LITERAL":
                text = bare.kind.removesuffix("_EXPR").replace("_", " ").lower()
                yield project.finding("DFL05", node, f"{node.name} is given an expression ({text})")
            continue
        if _is_converted(argument, bare):
            yield project.finding("DFL05", node, f"'{bare.name}' is converted to another type for {node.name}")
        uses[bare.referenced_id] = uses.get(bare.referenced_id, Access()) | access
    region.processes.append(Process(len(region.processes), node, uses))


def _is_converted(argument: Node, bare: Node) -> bool:
    """True if a number changes its type on the way into the call."""
    names = [node.type.spelling.removeprefix("const ") for node in (argument, bare)]
    return names[0] != names[1] and bare.type.get_size() != argument.type.get_size() and not _decays(bare)


def _decays(node: Node) -> bool:
    return "ARRAY" in node.type.kind.name or node.type.kind.name in ("POINTER", "RECORD", "LVALUEREFERENCE")


def _check_channels(project: Project, region: Region) -> Iterator[Finding]:
    edges: dict[str, tuple[int, int]] = {}
    for channel in region.channels:
        identity = symbol(channel.cursor)
        writers, readers = region.users(identity)
        shared = _may_be_shared(project, channel)
        if len(writers) != 1 or not readers or (len(readers) > 1 and not shared):
            names = (", ".join(p.node.name for p in side) or "none" for side in (writers, readers))
            found = f"the channel '{channel.name}' has producers: {next(names)}; consumers: {next(names)}"
            yield project.finding("DFL02", channel, found)
        elif readers[0].index < writers[0].index:
            found = f"the channel '{channel.name}' is read by {readers[0].node.name} before"
            yield project.finding("DFL03", channel, f"{found} {writers[0].node.name} writes it")
        else:
            edges[channel.name] = (writers[0].index, readers[-1].index)
    for channel in region.channels:
        if channel.name not in edges:
            continue
        first, last = edges[channel.name]
        if _longer_way(set(edges.values()), first, last):
            start, end = (region.processes[index].node.name for index in (first, last))
            found = f"the channel '{channel.name}' goes from {start} to {end} past the process between"
            yield project.finding("DFL04", channel, found)


def _longer_way(edges: set[tuple[int, int]], first: int, last: int) -> bool:
    """True if a chain of at least two edges also leads from ``first`` to ``last``."""
    waiting = [end for start, end in edges if start == first and end != last]
    while waiting:
        current = waiting.pop()
        if current == last:
            return True
        waiting.extend(end for start, end in edges if start == current)
    return False


def _may_be_shared(project: Project, channel: Node) -> bool:
    """True if the channel is bound to a memory with one writer and several readers."""
    return any(
        p.pragma.name == "bind_storage"
        and p.pragma.options.get("variable") == channel.name
        and p.pragma.options.get("type", "").lower() == "ram_1wnr"
        and p.braces is not None
        and channel in p.braces.walk()
        for p in project.pragmas
    )


def _check_outside(project: Project, region: Region) -> Iterator[Finding]:
    """Arguments and globals that are written belong to one process."""
    local = {symbol(channel.cursor) for channel in region.channels}
    seen: dict[str, list[Process]] = {}
    for process in region.processes:
        for identity in process.uses:
            if identity not in local:
                seen.setdefault(identity, []).append(process)
    names = {n.referenced_id: n.name for n in region.braces.walk() if n.kind == "DECL_REF_EXPR"}
    for identity, processes in seen.items():
        writers, _ = region.users(identity)
        if writers and len(processes) > 1:
            users = ", ".join(process.node.name for process in processes)
            name = names.get(identity, identity.rpartition("@")[2])
            yield project.finding("DFL07", writers[0].node, f"'{name}' is written here and used by {users}")


def _check_loop(project: Project, placed: Placed) -> Iterator[Finding]:
    """The form of a loop whose body is a dataflow region."""
    loop, function = placed.owner, placed.function
    if loop is None or function is None:
        return
    header = read_header(loop)
    if isinstance(header, str):
        yield project.finding("DFL08", loop, f"a dataflow region in {header}")
        return
    bound = header.bound.bare()
    is_argument = bound.referenced_id in {symbol(p.cursor) for p in function.parameters}
    first = constant(header.first)
    if first is None or first < 0 or not header.exact or not (is_argument or constant(bound) is not None):
        yield project.finding("DFL08", loop, "a dataflow loop whose range is not constant or an argument")
    if header.counter.type.kind.name != "INT":
        yield project.finding("DFL08", loop, f"a dataflow loop whose counter is {header.counter.type.spelling}")
    for statement in function.body.children:
        if statement.kind != "DECL_STMT" and not any(node is loop for node in statement.walk()):
            yield project.finding("DFL08", statement, "a statement beside a dataflow loop")
