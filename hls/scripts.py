"""The scripts that take the generated C++ to a bitstream: Vitis HLS, Vivado, and a shell script that picks the tool.

They are rendered from templates/scripts and never run by this package: no vendor tool is needed to generate them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .boards import BOARD_TABLE, MOST_PORT_MHZ, Board, board_of, pl_clock
from .budget import require_fit
from .config import ArrayConfig
from .design import (
    CONTROL_MASTER,
    DDR_LOW_SIZE,
    DESIGN,
    IDENTITY,
    IDENTITY_MAGIC,
    INTERRUPT_CONCAT,
    INTERRUPT_CONTROLLER,
    KERNEL,
    KERNEL_VLNV,
    LOCK_COUNTER_BITS,
    PORT_CLOCK,
    PROCESSOR,
    SLAVES,
    memory_ports,
)
from .regmap import TOP, predict_map, render_header, render_json
from .rendering import template_environment
from .reports import render_expected

PROJECT = "systolora_hls"
"""Folder that Vitis HLS makes in the project's root."""

_STAND_IN = "kv260"


@dataclass(frozen=True)
class ProjectFiles:
    """The C++ files that the scripts hand to the tool, relative to the project's root.

    Attributes:
        sources: files of the design that are compiled (headers are found through `includes`).
        testbench: files of the testbench, its data among them.
        includes: folders with headers.
        intervals: what the sources ask of their loops (`intervals.pipelined_intervals`).
    """

    sources: tuple[str, ...] = (f"src/{TOP}.cpp",)
    testbench: tuple[str, ...] = ("tb/testbench.cpp", "tb/golden.hpp")
    includes: tuple[str, ...] = ("src",)
    intervals: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def render_scripts(config: ArrayConfig, files: ProjectFiles | None = None) -> dict[str, str]:
    """All scripts and predictions of a project: relative path -> text. `vivado/build.tcl` only for a board.

    Args:
        config: what is built. Without a part, Vitis HLS gets the KV260's, and the scripts say so.
        files: the C++ files of the project.

    Raises:
        ConfigError: if the board does not hold the configuration, or board and part do not belong together.
    """
    require_fit(config)
    board = board_of(config)
    files = files or ProjectFiles()
    values = _values(config, board, files)
    environment = template_environment("systolora.hls", "templates/scripts")
    wanted = {
        "scripts/run_hls.tcl": "run_hls.tcl.j2",
        "scripts/hls_config.cfg": "hls_config.cfg.j2",
        "build.sh": "build.sh.j2",
    }
    if board is not None:
        wanted["vivado/build.tcl"] = "build.tcl.j2"
    rendered = {path: environment.get_template(name).render(values) for path, name in wanted.items()}
    register_map = predict_map()
    rendered["predicted/registers.json"] = render_json(register_map)
    rendered[f"predicted/x{TOP}_hw.h"] = render_header(register_map)
    rendered["predicted/report_expected.json"] = render_expected(config, files.intervals)
    return rendered


def missing_scripts(config: ArrayConfig) -> str:
    """What `render_scripts` leaves out for a configuration and why; "" if nothing."""
    if config.board:
        return ""
    return (
        "no board was named, so there is no Vivado script: generate with --board "
        f"({', '.join(sorted(BOARD_TABLE))}) for a block design and a bitstream"
    )


def _values(config: ArrayConfig, board: Board | None, files: ProjectFiles) -> dict[str, object]:
    title = f"{config.rows} x {config.cols} array"
    if board is not None:
        title += f" on {board.title}"
    elif not config.part:
        title += f", no part given, that of the {BOARD_TABLE[_STAND_IN].title} stands in"
    values: dict[str, object] = {
        "title": title,
        "fingerprint": config.fingerprint_text,
        "top": TOP,
        "project": PROJECT,
        "part": config.part or BOARD_TABLE[_STAND_IN].part,
        "period": f"{1000 / pl_clock(config).mhz:.3f}",
        "sources": files.sources,
        "testbench": files.testbench,
        "includes": files.includes,
        "vivado": board is not None,
    }
    if board is not None:
        values |= _design_values(config, board)
    return values


def _design_values(config: ArrayConfig, board: Board) -> dict[str, object]:
    return {
        "board": board.name,
        "board_part": board.board_part,
        "board_files": board.board_files,
        "ddr_high": board.dram_mb > DDR_LOW_SIZE >> 20,
        "clock_mhz": pl_clock(config).mhz,
        "port_clock": PORT_CLOCK if config.has_port_clock else "",
        "port_mhz": config.port_mhz,
        "most_port_mhz": MOST_PORT_MHZ,
        "lock_counter_bits": LOCK_COUNTER_BITS,
        "design": DESIGN,
        "processor": PROCESSOR,
        "kernel": KERNEL,
        "kernel_vlnv": KERNEL_VLNV,
        "identity": IDENTITY,
        "magic": f"0x{IDENTITY_MAGIC:08x}",
        "interrupt_controller": INTERRUPT_CONTROLLER,
        "interrupt_concat": INTERRUPT_CONCAT,
        "control_master": CONTROL_MASTER,
        "slaves": SLAVES,
        "ports": memory_ports(config.output_ports),
        "port_bits": 8 * config.bus_bytes,
    }
