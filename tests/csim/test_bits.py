"""C-simulation gives the bits, the errors and the counters of the emulator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from systolora.hls.check import STATUS_BYTES, round_up
from systolora.hls.config import MAX_K, ArrayConfig, board_config
from systolora.hls.isa import Dataflow, ErrorCode, Gemm
from systolora.hls.registers import Status
from systolora.sim.csim.build import build_library
from systolora.sim.csim.device import open_csim
from systolora.sim.functional.controller import Controller

from .random_programs import Case, ProgramBuilder, random_case

SIZES = {"4x4": (4, 4), "8x16": (8, 16), "16x16": (16, 16), "64x64": (64, 64)}


def small_memories(rows: int, cols: int, **changes: object) -> ArrayConfig:
    """Memories so small that programs of a few hundred rows need many tiles."""
    values: dict[str, object] = {
        "rows": rows,
        "cols": cols,
        "input_bytes": 2 * rows * 512,
        "weight_bytes": 2 * cols * 512,
        "output_bytes": 8 * cols * 512,
    }
    return ArrayConfig(**(values | changes))  # type: ignore[arg-type]


def compare(config: ArrayConfig, case: Case, **options: object) -> Status:
    """Runs a case on emulator and C-simulation and compares all of memory; returns the status."""
    expected, got = case.memory(), case.memory()
    place = (case.window, case.program_address, case.count, case.status_address, 7)
    status = Controller(config, expected).run(*place)
    error, index = open_csim(build_library(config, **options)).start(got, *place)  # type: ignore[arg-type]
    assert (error, index) == (status.error, status.error_index)
    written = Status.decode(got.view(case.status_address, STATUS_BYTES).tobytes())
    assert written == status
    different = np.flatnonzero(expected.bytes != got.bytes)
    assert different.size == 0, f"{different.size} bytes differ, the first at {different[0] + case.window.address:#x}"
    return status


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("size", SIZES)
def test_random_programs(size: str, seed: int) -> None:
    config = small_memories(*SIZES[size])
    compare(config, random_case(config, seed))


ODD = {
    "5x7": small_memories(5, 7),
    "6x10 not packed": small_memories(6, 10, packed_dsp=False),
    "12x20 bus 4": small_memories(12, 20, bus_bytes=4),
    "4x8 bus 8": small_memories(4, 8, bus_bytes=8),
    "8x4 bus 32": small_memories(8, 4, bus_bytes=32),
    "16x6 bus 64": small_memories(16, 6, bus_bytes=64, weight_bytes=16_896, output_bytes=33_792),
    "32x16 bus 32, lanes of 2 and 16": small_memories(32, 16, bus_bytes=32, quantize_lanes=2, epilogue_lanes=16),
    "16x16 lanes of 8 and 1": small_memories(16, 16, quantize_lanes=8, epilogue_lanes=1),
    "large memories": ArrayConfig(rows=8, cols=8),
    # Odd rows of C through the port of programs: tiles that begin with an odd row, tiles of one row.
    "8x16 two output ports": small_memories(8, 16, output_ports=2),
    "32x12 bus 32, two output ports": small_memories(32, 12, bus_bytes=32, output_ports=2, epilogue_lanes=4),
    # Chains and bands: a short last chain, three bands of two chains, a band of two segments, one dataflow.
    "17x9": small_memories(17, 9),
    "48x4": small_memories(48, 4),
    "16x8 bus 8": small_memories(16, 8, bus_bytes=8),
    "32x6 ws": small_memories(32, 6, dataflows=("ws",)),
    "7x5 ws": small_memories(7, 5, dataflows=("ws",), packed_dsp=False),
}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ODD)
def test_odd_sizes_and_bus_widths(name: str, seed: int) -> None:
    compare(ODD[name], random_case(ODD[name], 100 + seed))


@pytest.mark.parametrize("name", ["zcu104", "zcu102"])
def test_presets_with_wide_ports(name: str) -> None:
    """Words of 32 bytes, one band of 32 rows, 16 lanes of QUANTIZE, results through two ports."""
    config = board_config(name)
    assert (config.bus_bytes, config.output_ports, config.band_rows) == (32, 2, 32)
    compare(config, random_case(config, 500))


@pytest.mark.parametrize("size", ["4x4", "8x16"])
def test_ap_int_gives_the_same_bits(size: str, ap_headers: Path) -> None:
    config = small_memories(*SIZES[size])
    for seed in range(3):
        compare(config, random_case(config, 200 + seed, length=4), native=False, ap_headers=ap_headers)


def test_a_dataflow_that_is_not_built_is_refused() -> None:
    """By the emulator and the hardware alike, before anything is written."""
    both = small_memories(8, 16)
    builder = ProgramBuilder(both, np.random.default_rng(0))
    a, b = builder.place(np.ones((4, 16), np.int8), 4, 16), builder.place(np.ones((16, 16), np.int8), 16, 16)
    c = builder.reserve(4 * 64)
    assert builder.add(Gemm(4, 16, 16, 4, 16, 16, a, b, c, 16, 16, 64, dataflow=Dataflow.OUTPUT_STATIONARY))
    assert compare(both, builder.case()).error == ErrorCode.OK
    assert compare(both.with_changes(dataflows=("ws",)), builder.case()).error == ErrorCode.BAD_FIELD


def test_programs_one_after_the_other_share_nothing() -> None:
    """On-chip memories and registers keep what the last program left there; no program may see it."""
    config = small_memories(8, 16)
    cases = [random_case(config, 300 + seed) for seed in range(3)]
    first = [compare(config, case) for case in cases]
    again = [compare(config, case) for case in reversed(cases)]
    assert first == again[::-1]


@pytest.mark.parametrize("dataflow", list(Dataflow))
@pytest.mark.parametrize("value", [-128, 127])
def test_the_largest_sum_does_not_overflow(dataflow: Dataflow, value: int) -> None:
    """k = 131,071 of -128 x -128: 2^31 - 2^14."""
    config = small_memories(8, 16)
    builder = ProgramBuilder(config, np.random.default_rng(0))
    stride = round_up(MAX_K, 16)
    # One row of extremes serves as both operands: A as [1, k], B as [n, k] transposed with n = 1.
    row = builder.place(np.full((1, MAX_K), value, np.int8), 1, stride)
    other = builder.place(np.full((1, MAX_K), -128, np.int8), 1, stride)
    c = builder.reserve(16)
    op = Gemm(
        m=1,
        n=1,
        k=MAX_K,
        tile_m=1,
        tile_n=1,
        tile_k=256,
        a_address=row,
        b_address=other,
        c_address=c,
        a_stride=stride,
        b_stride=stride,
        c_stride=16,
        transpose_b=True,
        dataflow=dataflow,
    )
    assert builder.add(op)
    case = builder.case()
    compare(config, case)
    memory = case.memory()
    library = open_csim(build_library(config))
    library.start(memory, case.window, case.program_address, case.count, case.status_address)
    assert memory.view(c, 4).view(np.int32)[0] == MAX_K * value * -128
