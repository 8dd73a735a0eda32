"""C-simulation gives the bits, the errors and the counters of the emulator."""

from __future__ import annotations

import numpy as np
import pytest
from systolora.hls.check import STATUS_BYTES
from systolora.hls.config import ArrayConfig
from systolora.hls.registers import Status
from systolora.sim.controller import Controller
from systolora.sim.csim import open_csim
from systolora.sim.csim_build import build_library

from .random_programs import Case, random_case

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
    "large memories": ArrayConfig(rows=8, cols=8),
}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ODD)
def test_odd_sizes_and_bus_widths(name: str, seed: int) -> None:
    compare(ODD[name], random_case(ODD[name], 100 + seed))
