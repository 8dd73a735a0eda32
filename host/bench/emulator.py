"""Speed of the emulator's integer core on every GEMM of a training step, next to torch's integer, bfloat16 and float32 products.

All take turns on each shape, with operands and results that are made once: what is compared is the multiplication, not the allocation.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Axis, Gemm, Quantize, Result, ScaleMode, encode
from systolora.programs.tensors import ElementType, row_stride
from systolora.sim.functional.compiled import fastest_executor
from systolora.sim.functional.memory import DeviceMemory
from systolora.sim.functional.native import Unit, best_unit, load_library, thread_count

_BAR_SHAPE = (4096, 1280, 1280)
_LAYER_SHAPE = (4096, 320, 320)
_PEAK_ROUNDS = 100_000
_LEAST_SECONDS = 0.02
"""A measurement repeats a product until it took this long."""


@dataclass(frozen=True)
class GemmSpeed:
    """One shape: C[m, n] = A[m, k] B[k, n]; `count`: how often the step has it.

    Attributes:
        gops: 10**9 operations a second (a multiply-accumulate is two), by contender: median of the rounds.
        spread: by contender, (slowest - fastest) / median of the rounds' times.
        ratio: time of torch's integer GEMM over ours, median of the rounds; above 1 ours is faster.
    """

    m: int
    n: int
    k: int
    count: int
    gops: dict[str, float]
    spread: dict[str, float]
    ratio: float


@dataclass(frozen=True)
class EmulatorSpeed:
    """What was measured.

    Attributes:
        peak_gops: of the fastest unit on its registers alone, or of the fastest integer product where there is none.
        share_of_peak: ours on 4096 x 1280 x 1280. worst_ratio: smallest `ratio`.
        layer_ratio: QUANTIZE, product and dequantization at 4096 x 320 x 320 over torch's bfloat16 linear.
    """

    rows: tuple[GemmSpeed, ...]
    peak_gops: float
    share_of_peak: float
    worst_ratio: float
    layer_ratio: float
    threads: int


def bench_emulator(shapes: dict[tuple[int, int, int], int], repeats: int = 5) -> EmulatorSpeed:
    """Measures (m, n, k) shapes with their counts."""
    bench = _Bench()
    rows = tuple(bench.row(*shape, count, repeats) for shape, count in shapes.items())
    peak, share = bench.share_of_peak(repeats)
    return EmulatorSpeed(
        rows,
        peak,
        share,
        min(row.ratio for row in rows),
        bench.layer_ratio(repeats),
        thread_count(),
    )


def _unit_peak() -> float:
    """10**9 operations a second of the fastest unit on its registers alone; 0 without one."""
    library = load_library()
    if library is None or best_unit(library) == Unit.NONE:
        return 0.0
    run = partial(library.systolora_peak, _PEAK_ROUNDS, thread_count(), best_unit(library))
    return 2e-9 * run() / _seconds(run)


class _Bench:
    """Operands in device memory for us, and as tensors for torch."""

    def __init__(self) -> None:
        self.config = ArrayConfig()
        self.executor = fastest_executor(self.config)
        self.memory = DeviceMemory()
        self.rng = np.random.default_rng(0)

    def row(self, m: int, n: int, k: int, count: int, repeats: int) -> GemmSpeed:
        """One shape; B is stored as [n, k], as the frozen weights are."""
        a, b = (self.rng.integers(-127, 128, shape).astype(np.int8) for shape in ((m, k), (n, k)))
        contenders: dict[str, Callable[[], object]] = {"emulator": self._ours(a, b)}
        contenders |= _torch_products(torch.from_numpy(a), torch.from_numpy(b))
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        names = list(contenders)
        for round_ in range(repeats):
            # Another one begins each time: who comes after the float32 product finds a slower clock and emptied caches.
            first = round_ % len(names)
            for name in names[first:] + names[:first]:
                seconds[name].append(_seconds(contenders[name]))
        gops = {name: 2e-9 * m * n * k / median(times) for name, times in seconds.items()}
        spread = {name: (max(times) - min(times)) / median(times) for name, times in seconds.items()}
        ratio = median(x / y for x, y in zip(seconds["torch int8"], seconds["emulator"], strict=True))
        return GemmSpeed(m, n, k, count, gops, spread, ratio)

    def share_of_peak(self, repeats: int) -> tuple[float, float]:
        """The machine's peak, 10**9 operations a second, and our share of it at 4096 x 1280 x 1280, medians of rounds."""
        m, n, k = _BAR_SHAPE
        a, b = (self.rng.integers(-127, 128, shape).astype(np.int8) for shape in ((m, k), (n, k)))
        ours = self._ours(a, b)
        theirs = _torch_products(torch.from_numpy(a), torch.from_numpy(b))["torch int8"]
        peaks, shares = [], []
        for _ in range(repeats):
            speed = 2e-9 * m * n * k / _seconds(ours)
            peaks.append(_unit_peak() or max(speed, 2e-9 * m * n * k / _seconds(theirs)))
            shares.append(speed / peaks[-1])
        return median(peaks), median(shares)

    def layer_ratio(self, repeats: int) -> float:
        """Time of QUANTIZE, product and dequantization over that of torch's bfloat16 linear, in bfloat16 both."""
        m, n, k = _LAYER_SHAPE
        x = torch.randn(m, k).bfloat16()
        weight = torch.randn(n, k).bfloat16()
        ours = self._layer(x)
        pairs = [(_seconds(ours), _seconds(lambda: torch.nn.functional.linear(x, weight))) for _ in range(repeats)]
        return median(mine / theirs for mine, theirs in pairs)

    def _place(self, values: np.ndarray) -> int:
        """Address of a copy; its rows are a multiple of the bus apart."""
        stride = row_stride(values.shape[1], ElementType.INT8, self.config.bus_bytes)
        buffer = self.memory.allocate(len(values) * stride)
        buffer.write().reshape(len(values), stride)[:, : values.shape[1]] = values.view(np.uint8)
        return buffer.address

    def _ours(self, a: np.ndarray, b: np.ndarray) -> Callable[[], object]:
        self.memory = DeviceMemory()
        (m, k), n, bus = a.shape, len(b), self.config.bus_bytes
        stride = row_stride(k, ElementType.INT8, bus)
        c_stride = row_stride(n, ElementType.INT32, bus)
        c = self.memory.allocate(m * c_stride)
        op = Gemm(
            m, n, k, m, n, k, self._place(a), self._place(b), c.address, stride, stride, c_stride, transpose_b=True
        )
        data, memory = encode(op), self.memory
        return lambda: self.executor.run_gemm(memory, op, data)

    def _layer(self, x: torch.Tensor) -> Callable[[], object]:
        self.memory = memory = DeviceMemory()
        m, n, k = _LAYER_SHAPE
        source, integers, result = (memory.allocate(size) for size in (2 * m * k, m * k, 2 * m * n))
        scales, scale_b = memory.allocate(4 * m), memory.allocate(64)
        source.write()[:] = x.view(torch.int16).numpy().view(np.uint8).reshape(-1)
        scale_b.write()[:4].view(np.float32)[0] = 0.01
        weight = self._place(self.rng.integers(-127, 128, (n, k)).astype(np.int8))
        quantize = Quantize(m, k, source.address, integers.address, 2 * k, k, scales.address, source=1, axis=Axis.ROW)  # type: ignore[arg-type]
        gemm = Gemm(
            *(m, n, k, m, n, k, integers.address, weight, result.address, k, k, 2 * n),
            transpose_b=True,
            result=Result.BFLOAT16,
            scale_a=ScaleMode.VECTOR,
            scale_b=ScaleMode.TENSOR,
            scale_a_address=scales.address,
            scale_b_address=scale_b.address,
        )
        first, second = encode(quantize), encode(gemm)

        def run() -> None:
            self.executor.run_quantize(memory, quantize, first)
            self.executor.run_gemm(memory, gemm, second)

        return run


def _torch_products(a: torch.Tensor, b: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """torch's products into results that are made once; `b` is [n, k]."""
    found: dict[str, Callable[[], Any]] = {}
    out = torch.empty(len(a), len(b), dtype=torch.int32)
    found["torch int8"] = partial(torch._int_mm, a, b.t(), out=out)
    for name, dtype in (("torch bf16", torch.bfloat16), ("torch fp32", torch.float32)):
        left, right, room = a.to(dtype), b.to(dtype), torch.empty(out.shape, dtype=dtype)
        found[name] = partial(torch.mm, left, right.t(), out=room)
    return found


def _seconds(run: Callable[[], object]) -> float:
    """Seconds of one call, over as many as it takes to measure: of the processor with one thread, else of the wall."""
    # What else the computer does takes turns with one thread, and then shows in the wall's time only.
    clock = time.process_time if thread_count() == 1 else time.perf_counter
    run()
    calls, began = 0, clock()
    while True:
        run()
        calls += 1
        passed = clock() - began
        if passed > _LEAST_SECONDS:
            return passed / calls
