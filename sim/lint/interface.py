"""The interface of the top function: every argument has its port, and it is the right one (rules IFC)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .bursts import is_burst_port
from .pragmas import Pragma
from .project import Function, Project
from .rules import Finding
from .tree import Node

_FIRST_REGISTER = 0x10  # 0x00 to 0x0C hold the block control and interrupt registers
_POINTER_BYTES = 8
_NEEDED = ("offset", "bundle", "depth")


def check_interface(project: Project) -> Iterator[Finding]:
    """All findings about INTERFACE pragmas."""
    ports: dict[str, list[Pragma]] = {}
    for placed in project.pragmas:
        pragma, function = placed.pragma, placed.function
        if pragma.name != "interface" or function is None:
            continue
        port = pragma.options.get("port", "")
        if project.top is not None and function is not project.top:
            yield project.finding("IFC05", pragma, f"INTERFACE in {function.name}, not in {project.top_name}")
        elif port and port != "return" and port not in [p.name for p in function.parameters]:
            yield project.finding("IFC06", pragma, f"INTERFACE port={port}, no argument of {function.name}")
        elif project.top is not None and _mode(pragma):
            ports.setdefault(port, []).append(pragma)
    if project.top is None:
        return
    for parameter in project.top.parameters:
        yield from _check_argument(project, parameter, ports.get(parameter.name, []))
    yield from _check_bundles(project, project.top, ports)
    yield from _check_return(project, project.top, ports.get("return", []))
    yield from _check_offsets(project, project.top, [p for group in ports.values() for p in group])


def _mode(pragma: Pragma) -> str:
    return pragma.options.get("mode", "").lower()


def _check_argument(project: Project, parameter: Node, pragmas: list[Pragma]) -> Iterator[Finding]:
    name = parameter.name
    if not pragmas:
        yield project.finding("IFC02", parameter, f"the argument '{name}' has no INTERFACE pragma")
        return
    kind = parameter.type
    if kind.kind.name == "LVALUEREFERENCE":
        kind = kind.get_pointee().get_canonical()
    is_memory = _is_memory(kind)
    modes = [_mode(pragma) for pragma in pragmas]
    if kind.spelling.startswith("hls::stream"):
        if modes != ["axis"]:
            yield project.finding("IFC03", pragmas[0], f"the stream '{name}' with mode={modes[0]}")
    elif is_memory:
        yield from _check_memory(project, parameter, pragmas)
    elif modes != ["s_axilite"]:
        yield project.finding("IFC04", pragmas[0], f"the scalar '{name}' with mode={', '.join(modes)}")


def _is_memory(kind: Any) -> bool:
    return kind.kind.name == "POINTER" or "ARRAY" in kind.kind.name or is_burst_port(kind)


def _check_bundles(project: Project, top: Function, ports: dict[str, list[Pragma]]) -> Iterator[Finding]:
    """A burst port shares its bundle with no other port."""
    bursts = {parameter.name for parameter in top.parameters if is_burst_port(parameter.type)}
    taken: dict[str, str] = {}
    for name, pragmas in ports.items():
        for pragma in pragmas:
            bundle = pragma.options.get("bundle", "")
            if _mode(pragma) != "m_axi" or not bundle:
                continue
            other = taken.setdefault(bundle, name)
            if other != name and bursts & {name, other}:
                yield project.finding("IFC09", pragma, f"the ports '{other}' and '{name}' share the bundle '{bundle}'")


def _check_memory(project: Project, parameter: Node, pragmas: list[Pragma]) -> Iterator[Finding]:
    name = parameter.name
    memory = [pragma for pragma in pragmas if _mode(pragma) == "m_axi"]
    others = [pragma for pragma in pragmas if _mode(pragma) not in ("m_axi", "s_axilite")]
    if not memory or others:
        modes = ", ".join(_mode(pragma) for pragma in pragmas)
        yield project.finding("IFC03", pragmas[0], f"the memory '{name}' with mode={modes}")
        return
    options = memory[0].options
    missing = [key for key in _NEEDED if not options.get(key)]
    if missing:
        found = f"the m_axi port '{name}' without {', '.join(missing)}"
        yield project.finding("IFC03", memory[0], found)
    elif options["offset"].lower() != "slave":
        yield project.finding("IFC03", memory[0], f"the m_axi port '{name}' with offset={options['offset']}")
    kind = parameter.type
    pointee = kind.get_pointee() if kind.kind.name == "POINTER" else kind
    if pointee.is_volatile_qualified():
        yield project.finding("IFC08", parameter, f"the memory '{name}' is volatile")


def _check_return(project: Project, top: Function, pragmas: list[Pragma]) -> Iterator[Finding]:
    if not pragmas:
        yield project.finding("IFC02", top.node, f"{top.name} has no INTERFACE pragma with port=return")
    elif "s_axilite" not in [_mode(pragma) for pragma in pragmas]:
        modes = ", ".join(_mode(pragma) for pragma in pragmas)
        yield project.finding("IFC04", pragmas[0], f"'return' with mode={modes}")


def _check_offsets(project: Project, top: Function, pragmas: list[Pragma]) -> Iterator[Finding]:
    """Registers fixed by ``offset=`` do not overlap; words that are no constants are left to PRG11."""
    widths = {p.name: _register_bytes(p) for p in top.parameters}
    taken: dict[int, str] = {}
    for pragma in pragmas:
        text, port = pragma.options.get("offset", ""), pragma.options.get("port", "")
        if _mode(pragma) != "s_axilite" or not text or port == "return":
            continue
        try:
            offset = project.evaluate(text)
        except ValueError:
            continue
        if offset is None:
            continue
        if offset % 4 or offset < _FIRST_REGISTER:
            yield project.finding("IFC07", pragma, f"the register '{port}' at offset={text}")
            continue
        words = range(offset, offset + widths.get(port, 4), 4)
        clash = next((taken[word] for word in words if word in taken), None)
        if clash is not None:
            yield project.finding("IFC07", pragma, f"the register '{port}' overlaps '{clash}'")
        taken.update(dict.fromkeys(words, port))


def _register_bytes(parameter: Node) -> int:
    """Bytes an argument takes in the register map: whole 32-bit words."""
    kind = parameter.type
    if kind.kind.name == "LVALUEREFERENCE":
        kind = kind.get_pointee().get_canonical()
    if _is_memory(kind):
        return _POINTER_BYTES
    return int(max(4, -(-kind.get_size() // 4) * 4))
