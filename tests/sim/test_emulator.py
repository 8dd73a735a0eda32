"""The emulator against the reference, to the bit: whole instructions, tile by tile, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Axis, End, Fence, Gemm, Quantize, Rounding, Source, encode, encode_program
from systolora.sim.counts import count_instruction
from systolora.sim.device import DeviceError, Program
from systolora.sim.emulator import EmulatorDevice
from systolora.sim.memory import BufferMisuseError
from systolora.sim.randoms import (
    FLOAT_PATTERNS,
    GEMM_PATTERNS,
    random_gemm,
    random_patches,
    random_quantize,
)
from systolora.sim.trials import Trial, gemm_trial, join, quantize_trial

CAPACITY = 1 << 26
SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.integers(1, 300)


def small_config(rng: np.random.Generator) -> ArrayConfig:
    """A random array, odd and not square as a rule, with memories small enough that tiles matter."""
    rows, cols, bus = int(rng.integers(4, 41)), int(rng.integers(4, 41)), int(rng.choice([4, 8, 16, 32, 64]))
    depth = int(rng.integers(max(64, 2 * bus), 600))
    # Wherever n is one tile, all of its columns must fit: 300 columns are ceil(300 / cols) blocks of at least one bus word of k.
    blocks = -(-300 // min(rows, cols)) * max(bus, 4)
    return ArrayConfig(
        rows=rows,
        cols=cols,
        bus_bytes=bus,
        input_bytes=2 * rows * (depth + blocks),
        weight_bytes=2 * cols * (depth + blocks),
        output_bytes=8 * cols * (depth + blocks),
    )


def prove(config: ArrayConfig, make: object) -> None:
    """Runs the same trial on both executions of the emulator; the whole device memory must be as expected."""
    images = []
    for tiled in (False, True):
        with EmulatorDevice(config, CAPACITY, tiled) as device:
            trial = make(device)  # type: ignore[operator]
            check_trial(device, trial)
            images.append([wanted.tobytes() for _, wanted in trial.expected])
    assert images[0] == images[1]


def check_trial(device: EmulatorDevice, trial: Trial) -> None:
    top = max(buffer.address + buffer.nbytes for buffer, _ in trial.expected) - device.memory.base + 4096
    before = device.memory.bytes[:top].copy()
    device.run(trial.program)
    assert trial.mismatch() == ""
    after = device.memory.bytes[:top].copy()
    for image in (before, after):
        for buffer in (*trial.program.writes, device._status, device._program):
            start = buffer.address - device.memory.base
            image[start : start + buffer.nbytes] = 0
    assert np.array_equal(before, after), "bytes outside the results changed"


@settings(max_examples=150, deadline=None)
@given(seed=SEEDS, m=SIZES, n=SIZES, k=SIZES, pattern=st.sampled_from(GEMM_PATTERNS))
def test_gemm_is_the_reference(seed: int, m: int, n: int, k: int, pattern: str) -> None:
    rng = np.random.default_rng(seed)
    config = small_config(rng)
    op = random_gemm(config, rng, m, n, k)
    prove(config, lambda device: gemm_trial(device, np.random.default_rng(seed), op, pattern))


@settings(max_examples=100, deadline=None)
@given(seed=SEEDS, n=st.integers(1, 80), pattern=st.sampled_from(GEMM_PATTERNS))
def test_convolution_is_the_reference(seed: int, n: int, pattern: str) -> None:
    rng = np.random.default_rng(seed)
    config = small_config(rng)
    op = random_patches(config, rng, n)
    prove(config, lambda device: gemm_trial(device, np.random.default_rng(seed), op, pattern))


@settings(max_examples=150, deadline=None)
@given(seed=SEEDS, m=SIZES, n=SIZES, pattern=st.sampled_from(FLOAT_PATTERNS))
def test_quantize_is_the_reference(seed: int, m: int, n: int, pattern: str) -> None:
    rng = np.random.default_rng(seed)
    config = small_config(rng)
    op = random_quantize(rng, m, n)
    with EmulatorDevice(config, CAPACITY) as device:
        check_trial(device, quantize_trial(device, rng, op, pattern))
