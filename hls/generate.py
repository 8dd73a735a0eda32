"""Renders the C++ of an accelerator: a complete Vitis HLS project, or only the sources that C-simulation compiles.

The C++ is written by hand in `templates/`; what changes from configuration to configuration is its constants (`config.hpp`) and
what follows from the declarations of instruction set, registers and counters.
"""

from __future__ import annotations

from dataclasses import fields
from enum import IntEnum
from math import lcm
from pathlib import Path

from .boards import board_of
from .config import MAX_K, MIN_TILE_CLOCKS, ArrayConfig
from .design import BURST_WORDS, REQUESTS_IN_FLIGHT, WRITTEN_PORTS
from .fields import FIELDS, Field, Opcode
from .intervals import pipelined_intervals
from .isa import INSTRUCTION_WORDS, MAX_DIMENSION, ErrorCode, reserved_masks
from .lanes import PIECE_ROWS
from .registers import ARGUMENTS, STATUS_MAGIC, Argument, Counters
from .regmap import TOP, predict_map
from .rendering import template_environment
from .resources import URAM_DEPTH, estimate
from .scripts import ProjectFiles, render_scripts

TESTBENCH_BYTES = 1 << 17
"""Device memory of the testbench, and what each memory port sees in C/RTL co-simulation."""

GOLDEN_FILE = "tb/golden.hpp"
"""Where the testbench's data lie in a project; `systolora.sim.csim.golden` makes them."""

STANDIN_FILE = "tb/standin/hls_burst_maxi.h"
"""Where a project keeps the header that stands in for Vitis HLS's own of that name in C-simulation by g++."""

TURN_WORDS = 32
"""Bus words of a row that a transposing load turns at once: as many line buffers as a segment has lanes hold them, twice, in LUT
RAM. Requests overlap, so longer lines would move nothing sooner; they would take four times the LUTs at 128 words."""

_GROUP_COLUMNS = 256
"""Least columns of C whose scales and bias the store unit holds: 1 KB each."""

_LUTRAM_DEPTH = 64
"""Words that a LUT RAM holds: a memory of no more would take block RAMs that stay nearly empty."""

_WIDTH = 120
"""Columns of the generated C++."""

_WATCHED = ("error_index",)
"""Results that change while a program runs."""

_SOURCES: dict[str, tuple[str, dict[str, str]]] = {
    "src/config.hpp": ("config.hpp", {}),
    "src/types.hpp": ("types.hpp", {}),
    "src/float32.hpp": ("float32.hpp", {}),
    "src/instruction.hpp": ("instruction.hpp", {}),
    "src/operands.hpp": ("operands.hpp", {}),
    "src/decoder.hpp": ("decoder.hpp", {}),
    "src/memories.hpp": ("memories.hpp", {}),
    "src/requests.hpp": ("requests.hpp", {}),
    "src/runs.hpp": ("runs.hpp", {}),
    "src/patches.hpp": ("patches.hpp", {}),
    "src/stored_input.hpp": ("stored_unit.hpp", {"unit": "input"}),
    "src/stored_weight.hpp": ("stored_unit.hpp", {"unit": "weight"}),
    "src/turn_input.hpp": ("turn_unit.hpp", {"unit": "input"}),
    "src/turn_weight.hpp": ("turn_unit.hpp", {"unit": "weight"}),
    "src/load_input.hpp": ("load_unit.hpp", {"unit": "input"}),
    "src/load_weight.hpp": ("load_unit.hpp", {"unit": "weight"}),
    "src/array.hpp": ("array.hpp", {}),
    "src/compute.hpp": ("compute.hpp", {}),
    "src/epilogue.hpp": ("epilogue.hpp", {}),
    "src/store.hpp": ("store.hpp", {}),
    "src/gemm.hpp": ("gemm.hpp", {}),
    "src/pieces.hpp": ("pieces.hpp", {}),
    "src/scales.hpp": ("scales.hpp", {}),
    "src/magnitudes.hpp": ("magnitudes.hpp", {}),
    "src/quantize.hpp": ("quantize.hpp", {}),
    "src/controller.hpp": ("controller.hpp", {}),
    f"src/{TOP}.hpp": ("systolora_top.hpp", {}),
    f"src/{TOP}.cpp": ("systolora_top.cpp", {}),
}

_HARNESS: dict[str, tuple[str, dict[str, str]]] = {
    STANDIN_FILE: ("hls_burst_maxi.h", {}),
    "tb/testbench.cpp": ("testbench.cpp", {}),
    "Makefile": ("Makefile", {}),
    "README.md": ("README.md", {}),
}

_COMMENTS = {".h": "// {}", ".hpp": "// {}", ".cpp": "// {}", ".md": "<!-- {} -->", "": "# {}"}


def render_sources(config: ArrayConfig) -> dict[str, str]:
    """The C++ of the accelerator alone: path in the project -> text."""
    return _render(config, _SOURCES)


def render_standin(config: ArrayConfig) -> str:
    """The header `hls_burst_maxi.h` that C-simulation by g++ compiles in place of Vitis HLS's own."""
    return _render(config, {STANDIN_FILE: _HARNESS[STANDIN_FILE]})[STANDIN_FILE]


def render_project(config: ArrayConfig) -> dict[str, str]:
    """The whole project, the testbench's data aside: path in the project -> text.

    Raises:
        ConfigError: if the configuration's board does not hold it.
    """
    sources = _render(config, _SOURCES)
    files = ProjectFiles(
        sources=(f"src/{TOP}.cpp",),
        testbench=("tb/testbench.cpp", GOLDEN_FILE),
        includes=("src",),
        intervals=pipelined_intervals(sources),
    )
    return sources | _render(config, _HARNESS) | render_scripts(config, files)


def write_project(config: ArrayConfig, folder: Path) -> list[Path]:
    """Writes the project into a folder, which is made if needed; returns the files written, sorted.

    The testbench also needs `GOLDEN_FILE`, which `systolora.sim.csim.golden.write_golden` makes.
    """
    written = []
    for path, text in sorted(render_project(config).items()):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8", newline="\n")
        if text.startswith("#!"):
            target.chmod(0o755)
        written.append(target)
    return written


def group_columns(config: ArrayConfig) -> int:
    """Columns of C that the store unit takes at once: whole words of the output memory and whole bus words."""
    unit = lcm(config.cols, config.bus_bytes)
    return -(-_GROUP_COLUMNS // unit) * unit


def describe(config: ArrayConfig) -> str:
    """A configuration in a few words, as the generated files name it."""
    board = f"{config.board}, " if config.board else ""
    return f"{board}{config.rows} x {config.cols} array, fingerprint {config.fingerprint_text}"


def _render(config: ArrayConfig, wanted: dict[str, tuple[str, dict[str, str]]]) -> dict[str, str]:
    environment = template_environment("systolora.hls")
    values = _values(config)
    rendered = {}
    for path, (template, extra) in wanted.items():
        note = f"Generated by systolora for {describe(config)}; template hls/templates/{template}."
        head = _COMMENTS[Path(path).suffix].format(note)
        rendered[path] = f"{head}\n\n{environment.get_template(template).render(values | extra)}"
    return rendered


def _values(config: ArrayConfig) -> dict[str, object]:
    board = board_of(config)
    storage = {
        name: kind if getattr(config, f"{name}_depth") > _LUTRAM_DEPTH else "lutram"
        for name, kind in estimate(config, board.budget if board else None).storage.items()
    }
    return {
        "config": config,
        "turn_words": TURN_WORDS,
        "piece_words": config.piece_words,
        "piece_rows": PIECE_ROWS,
        "requests_in_flight": REQUESTS_IN_FLIGHT,
        "burst_words": BURST_WORDS,
        "group_columns": group_columns(config),
        "status_magic": STATUS_MAGIC,
        "instruction_words": INSTRUCTION_WORDS,
        "max_dimension": MAX_DIMENSION,
        "max_k": MAX_K,
        "min_tile_clocks": MIN_TILE_CLOCKS,
        "testbench_bytes": TESTBENCH_BYTES,
        "testbench_words": TESTBENCH_BYTES // config.bus_bytes,
        "enums": [_enum(kind) for kind in _enum_kinds()],
        "layouts": [_layout(opcode, layout) for opcode, layout in FIELDS.items()],
        "counters": [counter.name for counter in fields(Counters)],
        "arguments": ARGUMENTS,
        "offsets": {argument.name: predict_map().offset(argument.name) for argument in ARGUMENTS},
        "signature": _signature(),
        "written": WRITTEN_PORTS,
        "odd_port": ", Port memory_odd" if config.output_ports == 2 else "",
        "odd_argument": ", memory_odd" if config.output_ports == 2 else "",
        "top": TOP,
        "storage": storage,
        "read_latency": {name: _read_latency(kind, getattr(config, f"{name}_depth")) for name, kind in storage.items()},
        "description": describe(config),
    }


def _read_latency(kind: str, depth: int) -> int:
    """Clocks of a read that BIND_STORAGE asks for: the access and an output register, and of a deep UltraRAM one for each
    four-fold of the blocks that are cascaded (UG573 has a pipeline register for each; 187 to 250 MHz need them). The output
    memory's read, addition and write stay within `MIN_TILE_CLOCKS`."""
    blocks = -(-depth // URAM_DEPTH) if kind == "uram" else 1
    return 2 + (blocks > 1) + (blocks > 4)


def _enum_kinds() -> list[type[IntEnum]]:
    kinds: dict[type[IntEnum], None] = {Opcode: None, ErrorCode: None}
    for layout in FIELDS.values():
        for field in layout:
            if issubclass(field.kind, IntEnum):
                kinds[field.kind] = None
    return list(kinds)


def _enum(kind: type[IntEnum]) -> dict[str, object]:
    members = [{"name": item.name.lower(), "value": int(item)} for item in kind]
    return {"name": kind.__name__, "members": members}


def _layout(opcode: Opcode, layout: tuple[Field, ...]) -> dict[str, object]:
    """What `instruction.hpp` needs to know of one instruction. Opcode and tag are not executed, so they are not decoded."""
    enumerations = [
        {"word": field.word, "lsb": field.lsb, "bits": field.bits, "largest": int(max(field.kind))}
        for field in layout[1:]
        if issubclass(field.kind, IntEnum) and len(field.kind) < 1 << field.bits
    ]
    return {
        "opcode": opcode.name,
        "name": opcode.name.lower(),
        "struct": f"{opcode.name.capitalize()}Instruction",
        "fields": [
            {"name": field.name, "type": _field_type(field), "extraction": _extraction(field)}
            for field in layout
            if field.name not in ("opcode", "tag")
        ],
        "enumerations": enumerations,
        "reserved": [(word, mask) for word, mask in enumerate(reserved_masks(opcode)) if mask],
    }


def _field_type(field: Field) -> str:
    if issubclass(field.kind, IntEnum):
        return field.kind.__name__
    if field.kind is bool:
        return "bool"
    if field.kind is float:
        return "float"
    return "uint64_t" if field.bits > 32 else "uint32_t"


def _extraction(field: Field) -> str:
    bits = f"field_bits(code.word[{field.word}], {field.lsb}, {field.bits})"
    if field.kind is bool:
        return f"{bits} != 0"
    if field.kind is float:
        return f"float_of(uint32_t({bits}))"
    return bits if field.bits > 32 else f"{_field_type(field)}({bits})"


def _signature() -> str:
    """The top function's declaration, wrapped as the rest of the C++ is."""
    lines = [f"void {TOP}("]
    margin = " " * len(lines[0])
    for argument in ARGUMENTS:
        parameter = _parameter(argument) + (")" if argument is ARGUMENTS[-1] else ", ")
        if len(lines[-1]) + len(parameter) > _WIDTH:
            lines.append(margin)
        lines[-1] += parameter
    return "\n".join(line.rstrip() for line in lines)


def _parameter(argument: Argument) -> str:
    """An argument in the C++ signature."""
    if argument.kind == "pointer":
        return f"Port {argument.name}"
    word = "uint64_t" if argument.bits > 32 else "uint32_t"
    if argument.kind == "output":
        return f"volatile {word} &{argument.name}" if argument.name in _WATCHED else f"{word} &{argument.name}"
    return f"{word} {argument.name}"
