"""Speed of C-simulation at 64 x 64 on one core: PE-steps a second of whole instructions, next to plain dot-product loops.

    python benchmarks/csim_speed.py [--repeat 7] [--json]

A PE-step is one PE in one array clock: array_cycles * rows * cols. The time is that of the whole program, with loads, transposition,
epilogue and stores. Times are CPU time of the process, the best of `--repeat`.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Dataflow, End, Gemm, Result, ScaleMode, encode_program
from systolora.sim.csim.build import Build, compile_cached
from systolora.sim.csim.device import CsimDevice
from systolora.sim.functional.device import Program

CONFIG = ArrayConfig()
WORKLOADS = (("K/V projection", 77, 320, 768), ("self-attention", 1024, 640, 640), ("low rank", 77, 4, 768))
FLAGS = ("-std=c++14", "-O3", "-march=native", "-ffp-contract=off", "-fPIC", "-shared")
"""As `systolora.sim.csim.build` compiles the hardware's source."""


@dataclass(frozen=True)
class Row:
    """One measurement: millions of PE-steps, and of useful multiply-accumulates, a second."""

    name: str
    dataflow: str
    shape: tuple[int, int, int]
    pe_steps: float
    useful: float
    ratio_to_dot: float


def main() -> None:
    """Measures and prints."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeat", type=int, default=7)
    options.add_argument("--json", action="store_true", help="end with one JSON line")
    given = options.parse_args()
    dot = dot_rate(given.repeat)
    rows = [measure(*work, flow, dot, given.repeat) for work in WORKLOADS for flow in Dataflow]
    table = Table("GEMM", "dataflow", "m, n, k", "M PE-steps/s", "M useful MAC/s", "to dot product", box=None)
    for row in rows:
        rate, useful, ratio = f"{row.pe_steps:,.0f}", f"{row.useful:,.0f}", f"{row.ratio_to_dot:.2f}"
        table.add_row(row.name, row.dataflow, ", ".join(map(str, row.shape)), rate, useful, ratio)
    console = Console(stderr=given.json)
    console.print(table)
    console.print(f"plain dot-product loops, same flags: {dot:,.0f} M multiply-accumulates/s")
    if given.json:
        print(json.dumps({"dot": dot, "rows": [asdict(row) for row in rows]}))


def best_time(work: Callable[[], object], repeat: int) -> float:
    """Least CPU seconds of a call."""
    times = []
    for _ in range(repeat):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def dot_rate(repeat: int) -> float:
    """Million multiply-accumulates a second of the plain loops."""
    source = (Path(__file__).parent / "csim_dot.cpp").read_text(encoding="utf-8")
    library = ctypes.CDLL(str(compile_cached(Build({"dot.cpp": source}, "dot.cpp", FLAGS, ".so"))))
    words, rng = 20_000, np.random.default_rng(0)
    activations = rng.integers(-128, 128, (words, 64)).astype(np.int8)
    weights = rng.integers(-128, 128, (64, 64)).astype(np.int8)
    sums = np.empty((words, 64), np.int32)
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (activations, weights, sums)]
    seconds = best_time(lambda: library.dot_block(*pointers, words), repeat)
    assert np.array_equal(sums, activations.astype(np.int32) @ weights.astype(np.int32))
    return words * 64 * 64 / seconds / 1e6


def measure(name: str, m: int, n: int, k: int, dataflow: Dataflow, dot: float, repeat: int) -> Row:
    """The rates of one GEMM x W^T with scales per row and float32 result, W stored as [n, k]."""
    with CsimDevice(CONFIG, 256 << 20) as device:
        rng = np.random.default_rng(1)
        sizes = (m * k, n * k, 4 * m * n, 4 * m, 4 * n)
        a, b, c, scale_a, scale_b = (device.allocate(size) for size in sizes)
        a.write()[:] = rng.integers(0, 256, m * k)
        b.write()[:] = rng.integers(0, 256, n * k)
        scale_a.write().view(np.float32)[:] = 0.01
        scale_b.write().view(np.float32)[:] = 0.01
        op = Gemm(
            m=m,
            n=n,
            k=k,
            tile_m=min(m, 384),
            tile_n=min(n, 320),
            tile_k=min(k, 256),
            a_address=a.address,
            b_address=b.address,
            c_address=c.address,
            a_stride=k,
            b_stride=k,
            c_stride=4 * n,
            dataflow=dataflow,
            transpose_b=True,
            result=Result.FLOAT32,
            scale_a=ScaleMode.VECTOR,
            scale_b=ScaleMode.VECTOR,
            scale_a_address=scale_a.address,
            scale_b_address=scale_b.address,
        )
        program = Program(encode_program([op, End()]), (a, b, scale_a, scale_b), (c,))
        cycles = device.run(program).counters.array_cycles
        seconds = best_time(lambda: device.run(program), repeat)
    steps = cycles * CONFIG.rows * CONFIG.cols / seconds / 1e6
    return Row(name, dataflow.name.lower(), (m, n, k), steps, m * n * k / seconds / 1e6, steps / dot)


if __name__ == "__main__":
    main()
