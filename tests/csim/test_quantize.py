"""QUANTIZE on the compiled hardware source: pieces, kept rows, lanes and what is not finite, against the emulators."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray
from systolora.hls.check import SOURCE_BYTES, STATUS_BYTES, Region, round_up, scale_count
from systolora.hls.config import ArrayConfig
from systolora.hls.generate import piece_words
from systolora.hls.isa import Axis, End, ErrorCode, Quantize, Rounding, Source, encode_program
from systolora.hls.registers import Status
from systolora.sim.csim.build import build_library
from systolora.sim.csim.device import open_csim
from systolora.sim.functional.controller import Controller
from systolora.sim.functional.memory import DEFAULT_BASE, DeviceMemory
from systolora.sim.functional.tiled import TiledExecutor
from systolora.sim.functional.whole import NumpyExecutor

MEMORY = 1 << 18
PROGRAM, STATUS, OPERANDS = 0, 256, 512


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


def draw(config: ArrayConfig, rng: np.random.Generator, *, broken: bool = False) -> Drawn:
    """A random QUANTIZE; `broken`: with a NaN or an infinity somewhere."""
    bus = config.bus_bytes
    source, axis = Source(int(rng.integers(2))), Axis(int(rng.integers(3)))
    size = SOURCE_BYTES[source]
    piece = piece_words(config) * bus // size
    n = int(rng.choice([rng.integers(1, 4), rng.integers(1, 80), rng.integers(1, 5 * piece + 1), piece, piece + 1]))
    n = min(n, config.quantize_limit, 20_000)
    m = int(min(rng.integers(1, 200), max(1, 40_000 // (n * size)), config.quantize_limit))
    strides = [round_up(n * width, bus) + bus * int(rng.choice([0, 0, 1, 3])) for width in (size, 1)]
    values = (rng.standard_normal((m, n)) * 10.0 ** rng.uniform(-3, 3, (m, 1))).astype(np.float32)
    if broken:
        values[rng.integers(m), rng.integers(n)] = rng.choice(np.array([np.nan, np.inf, -np.inf], np.float32))
    raw = values.view(np.uint32)
    stored = raw if source == Source.FLOAT32 else (raw >> 16).astype(np.uint16)
    image = rng.integers(0, 256, MEMORY).astype(np.uint8)
    a = OPERANDS
    image[a : a + m * strides[0]].reshape(m, -1)[:, : n * size] = stored.view(np.uint8)
    c = a + round_up(m * strides[0], bus)
    scales = c + round_up(m * strides[1], bus)
    factors = scales + round_up(4 * max(m, n), bus)
    image[factors : factors + 4 * n] = rng.uniform(-3, 3, n).astype(np.float32).view(np.uint8)
    op = Quantize(
        *(m, n, DEFAULT_BASE + a, DEFAULT_BASE + c, *strides, DEFAULT_BASE + scales),
        scale_b_address=DEFAULT_BASE + factors,
        source=source,
        axis=axis,
        rounding=Rounding(int(rng.integers(2))),
        multiply=bool(rng.integers(2)),
        seed=int(rng.integers(1 << 32)),
        index_base=int(rng.integers(1 << 32)),
        index_stride=int(rng.integers(1 << 32)),
    )
    code = np.frombuffer(encode_program([op, End()]), np.uint8)
    image[PROGRAM : PROGRAM + len(code)] = code
    return Drawn(op, image)


def compare(config: ArrayConfig, drawn: Drawn, **options: object) -> Status:
    """Runs an instruction on the emulators and on C-simulation; all bytes, errors and counters must be the same."""
    window = Region(DEFAULT_BASE, MEMORY)
    place = (window, DEFAULT_BASE + PROGRAM, 2, DEFAULT_BASE + STATUS, 3)
    memories = {name: DeviceMemory(MEMORY) for name in ("compiled", "numpy", "tiled", "csim")}
    for memory in memories.values():
        memory.bytes[:] = drawn.image
    status = Controller(config, memories["compiled"]).run(*place)
    Controller(config, memories["numpy"], NumpyExecutor(config)).run(*place)
    Controller(config, memories["tiled"], TiledExecutor(config)).run(*place)
    open_csim(build_library(config, **options)).start(memories["csim"], *place)  # type: ignore[arg-type]
    assert Status.decode(memories["csim"].view(DEFAULT_BASE + STATUS, STATUS_BYTES).tobytes()) == status, drawn.op
    for name, memory in memories.items():
        different = np.flatnonzero(memory.bytes != memories["compiled"].bytes)
        assert different.size == 0, f"{name}: {different.size} bytes from {different[0]} on differ: {drawn.op}"
    return status


@pytest.mark.parametrize("name", MACHINES)
def test_all_shapes_give_the_bits_of_the_emulators(name: str) -> None:
    rng = np.random.default_rng(17)
    for _ in range(60):
        assert compare(MACHINES[name], draw(MACHINES[name], rng)).error == ErrorCode.OK


@pytest.mark.parametrize("name", MACHINES)
def test_what_is_not_finite_gives_the_bits_of_the_emulators(name: str) -> None:
    rng = np.random.default_rng(23)
    for _ in range(30):
        assert compare(MACHINES[name], draw(MACHINES[name], rng, broken=True)).error == ErrorCode.NONFINITE
