"""`systolora doctor`: what is here, what is missing, and the command that gets it."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from systolora.assets import pipeline_folder
from systolora.libraries import install_advice

from .options import print_table

TRAIN_PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "safetensors",
    "pillow",
    "PyYAML",
    "matplotlib",
)


@dataclass(frozen=True)
class Finding:
    """One thing looked at: its name, whether it is good, what was seen, and what to do if it is not."""

    name: str
    good: bool
    seen: str
    remedy: str = ""
    needed: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def diagnose() -> list[Finding]:
    """Looks at Python, packages, tools and every backend; each backend is really opened and runs one GEMM."""
    return [*_python(), *_packages(), *_traps(), *_tools(), *_model(), *_backends()]


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", sys.version_info >= (3, 10), version, "install Python 3.10 or newer", needed=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("cpu", True, f"{cores} cores; {_integer_units()}")


def _integer_units() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((set(line.split()) for line in file if line.startswith(("flags", "Features"))), set())
    except OSError:
        return "integer units unknown"
    names = {
        "amx_int8": "AMX-INT8",
        "avx512_vnni": "AVX512-VNNI",
        "avx_vnni": "AVX-VNNI",
        "avx2": "AVX2",
        "asimddp": "NEON dot product",
    }
    found = [label for flag, label in names.items() if flag in flags]
    return ", ".join(found) if found else "no INT8 units: exact but slow"


def _packages() -> Iterator[Finding]:
    for name in TRAIN_PACKAGES:
        try:
            yield Finding(name, True, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, False, "not installed", install_advice("train"), needed=True)


def _traps() -> Iterator[Finding]:
    """Packages that are installed and cannot be imported: torch, and one whose mere presence breaks others."""
    remedies = {"torch": install_advice("train"), "torchvision": "pip uninstall torchvision (it is not needed)"}
    for name, remedy in remedies.items():
        if importlib.util.find_spec(name):
            try:
                importlib.import_module(name)
            except Exception as error:
                yield Finding(name, False, f"broken: {error}", remedy, needed=True)


def _tools() -> Iterator[Finding]:
    for tool, purpose, remedy in (
        ("g++", "C-simulation and fast kernels", "apt-get install g++"),
        ("make", "stand-alone C-simulation", "apt-get install make"),
        ("vitis_hls", "synthesis up to 2024.1", "install AMD Vitis; it is needed only to build a bitstream"),
        ("vitis-run", "synthesis from 2023.2 on", "install AMD Vitis; it is needed only to build a bitstream"),
        ("vivado", "bitstreams", "install AMD Vivado; it is needed only to build a bitstream"),
    ):
        path = shutil.which(tool)
        yield Finding(tool, path is not None, path or f"not on PATH ({purpose})", "" if path else remedy)


def _model() -> Iterator[Finding]:
    """The pipeline folder that ships with the package: what `train --model` takes while there is no other."""
    try:
        yield Finding("demo model", True, str(pipeline_folder()))
    except FileNotFoundError as error:
        yield Finding("demo model", False, "missing", str(error))


def _backends() -> Iterator[Finding]:
    for backend, remedy in (
        ("emulator", install_advice("train")),
        ("csim", "apt-get install g++"),
        ("board", f"on the board: {install_advice('board')}, then systolora bitstream fetch (docs/board.md)"),
    ):
        yield _attempt(f"backend {backend}", partial(_try_backend, backend), remedy, needed=backend == "emulator")


def _attempt(name: str, action: Callable[[], str], remedy: str, needed: bool) -> Finding:
    try:
        return Finding(name, True, action(), needed=needed)
    except Exception as error:
        return Finding(name, False, " ".join(str(error).split())[:160], remedy, needed)


def _try_backend(backend: str) -> str:
    import numpy as np
    from systolora.device import open_device
    from systolora.hls.config import ArrayConfig
    from systolora.programs.compiler import gemm_int8

    config = ArrayConfig(rows=8, cols=8, input_bytes=8192, weight_bytes=8192, output_bytes=16384)
    random = np.random.default_rng(0)
    a, b = random.integers(-128, 128, (9, 33), np.int8), random.integers(-128, 128, (33, 10), np.int8)
    with open_device(backend, None if backend == "board" else config) as device:
        if not np.array_equal(gemm_int8(device, a, b), a.astype(np.int32) @ b.astype(np.int32)):
            raise RuntimeError("its GEMM is wrong: please report this with the CPU above")
        return f"opened, one GEMM exact ({device.config.rows} x {device.config.cols} array)"


def print_findings(findings: list[Finding], console: Console) -> None:
    """A table of the findings; problems last, with what to do."""
    table = Table("", "what", "seen", box=None, pad_edge=False)
    for finding in findings:
        word, colour = ("ok", "green") if finding.good else (("no", "red") if finding.needed else ("--", "yellow"))
        table.add_row(Text(word, style=colour), finding.name, finding.seen)
    print_table(console, table)
    for finding in findings:
        if not finding.good and finding.remedy:
            console.print(f"{finding.name}: {finding.remedy}", markup=False, highlight=False, soft_wrap=True)
