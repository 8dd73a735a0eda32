"""QUANTIZE on the compiled hardware source: pieces, kept rows, lanes and what is not finite, against the emulators."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from systolora.hls.check import SOURCE_BYTES, STATUS_BYTES, Region, round_up, scale_count
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Axis, End, ErrorCode, Quantize, Source, encode_program
from systolora.hls.registers import Status
from systolora.sim.csim.build import build_library
from systolora.sim.csim.device import Csim, open_csim
from systolora.sim.functional.compiled import fastest_executor
from systolora.sim.functional.controller import Controller
from systolora.sim.functional.memory import DEFAULT_BASE, DeviceMemory
from systolora.sim.functional.randoms import random_quantize
from systolora.sim.functional.tiled import TiledExecutor
from systolora.sim.functional.whole import Executor, NumpyExecutor

MEMORY = 1 << 18
PROGRAM, STATUS, OPERANDS = 0, 256, 512
START = (Region(DEFAULT_BASE, MEMORY), DEFAULT_BASE + PROGRAM, 2, DEFAULT_BASE + STATUS, 3)


def machine(rows: int, cols: int, depth: int, **changes: object) -> ArrayConfig:
    """Memories of `depth` words in each half."""
    values: dict[str, object] = {
        "rows": rows,
        "cols": cols,
        "input_bytes": 2 * rows * depth,
        "weight_bytes": 2 * cols * 512,
        "output_bytes": 8 * cols * 512,
    }
    return ArrayConfig(**(values | changes))  # type: ignore[arg-type]


MACHINES = {
    "16x16, rows of 32 words are kept": machine(16, 16, 32),
    "48x16, three bus words in a memory word": machine(48, 16, 16),
    "24x8, one and a half": machine(24, 8, 24),
    "8x16, nothing is kept": machine(8, 16, 32),
    "5x7, one lane": machine(5, 7, 64),
    "8x12, four lanes": machine(8, 12, 64, bus_bytes=8),
    "bus of 4": machine(8, 8, 16, bus_bytes=4),
    "bus of 32": machine(32, 32, 64, bus_bytes=32, quantize_lanes=16),
    "bus of 64": machine(64, 64, 128, bus_bytes=64, quantize_lanes=32),
    "bus of 64, two lanes": machine(64, 16, 128, bus_bytes=64, quantize_lanes=2, epilogue_lanes=4),
    "one lane of eight": machine(16, 16, 64, quantize_lanes=1),
}


@dataclass(frozen=True)
class Drawn:
    """An instruction, and the memory that it runs on."""

    op: Quantize
    image: NDArray[np.uint8]


def draw_shape(config: ArrayConfig, rng: np.random.Generator, source: Source) -> tuple[int, int]:
    """Rows and columns: few and many columns, up to some pieces, and about one piece."""
    piece = config.piece_words * config.bus_bytes // SOURCE_BYTES[source]
    n = int(rng.choice([rng.integers(1, 4), rng.integers(1, 80), rng.integers(1, 5 * piece + 1), piece, piece + 1]))
    n = min(n, config.quantize_limit, 20_000)
    return int(min(rng.integers(1, 200), max(1, 10_000 // n), config.quantize_limit)), n


def place(config: ArrayConfig, rng: np.random.Generator, op: Quantize, values: NDArray[np.float32]) -> Drawn:
    """An instruction with its operands placed: the values and random factors, anything where it writes."""
    bus, size = config.bus_bytes, SOURCE_BYTES[op.source]
    strides = [round_up(op.n * width, bus) + bus * int(rng.choice([0, 0, 1, 3])) for width in (size, 1)]
    raw = values.view(np.uint32)
    stored = raw if op.source == Source.FLOAT32 else (raw >> 16).astype(np.uint16)
    image = rng.integers(0, 256, MEMORY).astype(np.uint8)
    image[OPERANDS : OPERANDS + op.m * strides[0]].reshape(op.m, -1)[:, : op.n * size] = stored.view(np.uint8)
    c = OPERANDS + op.m * strides[0]
    scales = c + op.m * strides[1]
    factors = scales + round_up(4 * max(op.m, op.n), bus)
    image[factors : factors + 4 * op.n] = rng.uniform(-3, 3, op.n).astype(np.float32).view(np.uint8)
    op = replace(
        op,
        a_address=DEFAULT_BASE + OPERANDS,
        c_address=DEFAULT_BASE + c,
        a_stride=strides[0],
        c_stride=strides[1],
        scale_a_address=DEFAULT_BASE + scales,
        scale_b_address=DEFAULT_BASE + factors,
    )
    code = np.frombuffer(encode_program([op, End()]), np.uint8)
    image[PROGRAM : PROGRAM + len(code)] = code
    return Drawn(op, image)


def draw(config: ArrayConfig, rng: np.random.Generator, *, broken: bool = False) -> Drawn:
    """A random QUANTIZE; `broken`: with a NaN or an infinity somewhere."""
    source = Source(int(rng.integers(2)))
    op = random_quantize(rng, *draw_shape(config, rng, source))
    values = (rng.standard_normal((op.m, op.n)) * 10.0 ** rng.uniform(-3, 3, (op.m, 1))).astype(np.float32)
    if broken:
        values[rng.integers(op.m), rng.integers(op.n)] = rng.choice(np.array([np.nan, np.inf, -np.inf], np.float32))
    return place(config, rng, replace(op, source=source), values)


@dataclass(frozen=True)
class Devices:
    """The emulators and C-simulation of one configuration."""

    config: ArrayConfig
    executors: dict[str, Executor]
    csim: Csim

    @classmethod
    def of(cls, config: ArrayConfig, **options: object) -> Devices:
        """`options` are those of `build_library`."""
        executors = {
            "compiled": fastest_executor(config),
            "numpy": NumpyExecutor(config),
            "tiled": TiledExecutor(config),
        }
        return cls(config, executors, open_csim(build_library(config, **options)))  # type: ignore[arg-type]

    def after(self, drawn: Drawn) -> DeviceMemory:
        """The memory that C-simulation leaves."""
        memory = DeviceMemory(MEMORY)
        memory.bytes[:] = drawn.image
        self.csim.start(memory, *START)
        return memory

    def written(self, drawn: Drawn) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """Integers and scales that C-simulation and the emulators leave."""
        self.compare(drawn)
        op, memory = drawn.op, self.after(drawn)
        q = memory.view(op.c_address, op.m * op.c_stride).reshape(op.m, -1)[:, : op.n].view(np.int8)
        return q.copy(), memory.view(op.scale_a_address, 4 * scale_count(op)).view(np.float32).copy()

    def compare(self, drawn: Drawn) -> Status:
        """Runs an instruction everywhere; all bytes, errors and counters must be the same."""
        expected = self.after(drawn)
        status = Status.decode(expected.view(DEFAULT_BASE + STATUS, STATUS_BYTES).tobytes())
        for name, executor in self.executors.items():
            memory = DeviceMemory(MEMORY)
            memory.bytes[:] = drawn.image
            assert Controller(self.config, memory, executor).run(*START) == status, f"{name}: {drawn.op}"
            different = np.flatnonzero(memory.bytes != expected.bytes)
            assert different.size == 0, f"{name}: {different.size} bytes from {different[0]} on differ: {drawn.op}"
        return status


@pytest.mark.parametrize("name", MACHINES)
def test_all_bits_are_those_of_the_emulators(name: str) -> None:
    rng = np.random.default_rng(17)
    devices = Devices.of(MACHINES[name])
    for _ in range(40):
        assert devices.compare(draw(MACHINES[name], rng)).error == ErrorCode.OK
    for _ in range(20):
        assert devices.compare(draw(MACHINES[name], rng, broken=True)).error == ErrorCode.NONFINITE


def test_ap_int_gives_the_same_bits(ap_headers: Path) -> None:
    config = MACHINES["48x16, three bus words in a memory word"]
    rng = np.random.default_rng(29)
    devices = Devices.of(config, native=False, ap_headers=ap_headers)
    for index in range(12):
        devices.compare(draw(config, rng, broken=index % 4 == 0))


@pytest.mark.parametrize("kept", [True, False])
def test_a_row_with_a_nan_becomes_zeros_and_the_others_what_they_are_without_it(kept: bool) -> None:
    """By row, where rows before it may have been written when it is met, the instruction writes although it fails."""
    config = MACHINES["16x16, rows of 32 words are kept" if kept else "8x16, nothing is kept"]
    devices = Devices.of(config)
    op = Quantize(*(5, 24, 0, 0, 0, 0, 0), axis=Axis.ROW)
    values = np.random.default_rng(31).standard_normal((op.m, op.n)).astype(np.float32)
    whole = devices.written(place(config, np.random.default_rng(37), op, values))
    values[3, 2] = np.nan
    q, scales = devices.written(place(config, np.random.default_rng(37), op, values))
    others = [0, 1, 2, 4]
    np.testing.assert_array_equal(q[others], whole[0][others])
    np.testing.assert_array_equal(scales[others], whole[1][others])
    assert whole[0][3].any()
    assert not q[3].any()
    assert np.isnan(scales[3])


@pytest.mark.parametrize("axis", [Axis.TENSOR, Axis.COLUMN])
def test_by_tensor_or_column_a_nan_leaves_everything_as_it_was(axis: Axis) -> None:
    config = MACHINES["16x16, rows of 32 words are kept"]
    devices = Devices.of(config)
    op = Quantize(*(5, 24, 0, 0, 0, 0, 0), axis=axis)
    drawn = place(config, np.random.default_rng(37), op, np.full((5, 24), np.inf, np.float32))
    devices.compare(drawn)
    memory = devices.after(drawn)
    np.testing.assert_array_equal(memory.bytes[OPERANDS:], drawn.image[OPERANDS:])
