"""The rooms of the project: the order of its packages, what each promises, and how an import that breaks the order is found.

`tests/test_rooms.py` holds the tree to this declaration; docs/code.md shows it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Package:
    """One package.

    Attributes:
        folder: in the tree, such as "host/board".
        promise: what it is for, and what whoever imports it may count on.
        libraries: that it may import beside the standard library; None: any dependency.
    """

    folder: str
    promise: str
    libraries: frozenset[str] | None = None

    @property
    def module(self) -> str:
        """The name by which it is imported."""
        room, _, inner = self.folder.partition("/")
        parts = ["systolora"] if room == "host" else ["systolora", room]
        return ".".join([*parts, inner] if inner else parts)


_NUMPY = frozenset({"numpy"})
_TORCH = frozenset({"numpy", "torch"})

ORDER: tuple[Package, ...] = (
    Package(
        "hls",
        "configuration, instruction set, C++ templates, generator, resource estimate, scripts",
        frozenset({"jinja2"}),
    ),
    Package(
        "sim/functional", "what computes bits: reference, device memory, controller, emulator; the device seam", _TORCH
    ),
    Package("sim/csim", "the generated C++ compiled and driven as a device; data of its test bench", _NUMPY),
    Package("sim/cost", "clocks, traffic, stalls and energy of instructions", _NUMPY),
    Package("sim/lint", "checks of HLS C++", frozenset({"clang"})),
    Package("sim/rtl", "the array's clock-step text as Verilog, checked in lock-step", frozenset({"clang"})),
    Package("bitstreams", "manifest, register map and hand-off per board; where built files go", frozenset()),
    Package("host", "the names that users import, errors, `open_device`, small things that everybody needs"),
    Package("host/programs", "from GEMM requests to placed programs; buffers and transfers", _TORCH),
    Package("host/board", "the PYNQ driver; the only package, with emulated_board, that imports pynq"),
    Package("host/emulated_board", "a PYNQ board made of software, below the real driver"),
    Package("host/offloading", "`systolora.offload`: a torch model's layers as programs, forward and backward"),
    Package("host/launching", "`systolora launch`: a user's training script, unchanged, its layers offloaded"),
    Package("host/models", "what is known of diffusers' pipelines and model families"),
    Package("host/intlora", "IntLoRA: integer weights, adaptation, merge, export, inference"),
    Package("host/adapters", "LoRA adapters as files: read and written under the names of diffusers, peft and kohya"),
    Package("host/training", "a training run: settings, data, steps, checkpoints, adapter"),
    Package("host/demo", "the built-in model, its judge, and `systolora demo`"),
    Package("host/cost", "what a training step costs on an array: workloads, policies, reports"),
    Package("host/bench", "measurements on this computer, each against a peer in the same run"),
    Package("host/experiments", "comparisons of methods, one command each"),
    Package("host/cli", "the command line: options and printing, no work of its own"),
)
"""From bottom to top: a package imports what stands above it in this list, and nothing else of the project."""

TOP_LEVEL = {
    "host": {"__init__", "__main__", "assets", "device", "errors", "files", "libraries", "options", "outputs"},
    "sim": {"__init__"},
}
"""The only files at the top level of the rooms that have packages."""

_ENTRY = "systolora.__main__"
"""Belongs to the command line, wherever Python wants it to lie."""


def sources() -> dict[str, str]:
    """Every module of the project by its dotted name, with its text."""
    found = {}
    for room, base in (
        ("host", "systolora"),
        ("hls", "systolora.hls"),
        ("sim", "systolora.sim"),
        ("bitstreams", "systolora.bitstreams"),
    ):
        for path in sorted((ROOT / room).rglob("*.py")):
            parts = path.relative_to(ROOT / room).with_suffix("").parts
            inner = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join([base, *inner])] = path.read_text(encoding="utf-8")
    return found


def place(module: str) -> int | None:
    """Index in `ORDER` of the package that a module belongs to; None if it belongs to none."""
    if module == _ENTRY:
        return len(ORDER) - 1
    names = {package.module: index for index, package in enumerate(ORDER)}
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        index = names.get(".".join(parts[:length]))
        if index is not None:
            return index if ORDER[index].folder != "host" or len(parts) <= 2 else None
    return 0 if module == "systolora.sim" else None


def imported(module: str, text: str, known: Mapping[str, object]) -> Iterator[str]:
    """Names that a module imports anywhere in its text, also in functions and for types only; modules of the project in full."""
    package = module if any(name.startswith(f"{module}.") for name in known) else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                around = package.split(".")
                base = ".".join([*around[: len(around) - node.level + 1], *([base] if base else [])])
            whole = {f"{base}.{alias.name}" for alias in node.names}
            yield from whole & known.keys() or {base}


def violations(modules: Mapping[str, str]) -> list[str]:
    """Every import that goes up the order, to a package that is not declared, or to a library that the package may not use."""
    faults = []
    for module, text in modules.items():
        here = place(module)
        if here is None:
            faults.append(f"{module}: lies in no declared package")
            continue
        for name in imported(module, text, modules):
            if name.partition(".")[0] == "systolora":
                there = place(name)
                if there is None or there > here:
                    faults.append(f"{module} imports {name}, which stands above {ORDER[here].folder}")
            elif fault := _library_fault(ORDER[here], name.partition(".")[0]):
                faults.append(f"{module} imports {name}: {fault}")
    return faults


def _library_fault(package: Package, library: str) -> str:
    if library in {"hls", "host", "sim", "bitstreams"}:
        return f"a bare import makes a second copy; import systolora.{library}"
    if library == "torchvision":
        return "it is no dependency"
    if library == "pynq" and package.folder not in ("host/board", "host/emulated_board"):
        return "only the board and the emulated board know pynq"
    allowed = package.libraries
    if allowed is None or library in sys.stdlib_module_names or library in allowed:
        return ""
    return f"{package.folder} may use {', '.join(sorted(allowed)) or 'the standard library alone'}"


def circles(modules: Mapping[str, str]) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others."""
    graph = {module: {n for n in imported(module, text, modules) if n in modules} for module, text in modules.items()}
    reached = {module: _reach(graph, module) for module in graph}
    found: list[list[str]] = []
    for module in graph:
        group = sorted(other for other in reached[module] if module in reached[other])
        if group and group not in found:
            found.append(group)
    return found


def _reach(graph: Mapping[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += graph[module]
    return seen


def picture() -> str:
    """The packages and who imports whom, as Markdown: a table from bottom to top, and a Mermaid graph of the imports there are."""
    modules = sources()
    arrows: set[tuple[int, int]] = set()
    for module, text in modules.items():
        here = place(module)
        for name in imported(module, text, modules):
            there = place(name) if name.startswith("systolora") else None
            if here is not None and there is not None and here != there:
                arrows.add((here, there))
    # An arrow that longer ways stand for already says nothing new.
    direct = {index: {there for here, there in arrows if here == index} for index in range(len(ORDER))}
    below = {str(index): {str(n) for n in direct[index]} for index in direct}
    needed = [
        (here, there)
        for here, there in sorted(arrows)
        if not any(str(there) in _reach(below, str(other)) for other in direct[here] - {there})
    ]
    rows = [f"| {i + 1} | `{p.folder}/` | `{p.module}` | {p.promise} |" for i, p in enumerate(ORDER)]
    graph = [f'    p{index}["{package.folder}/"]' for index, package in enumerate(ORDER)]
    graph += [f"    p{here} --> p{there}" for here, there in needed]
    return "\n".join(
        [
            "| | folder | import as | promises |",
            "|---|---|---|---|",
            *rows,
            "",
            "```mermaid",
            "flowchart BT",
            *graph,
            "```",
        ]
    )
