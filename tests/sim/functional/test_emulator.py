"""The emulator against the reference, to the bit: whole instructions, tile by tile, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from systolora.hls.check import STATUS_BYTES
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import (
    INSTRUCTION_BYTES,
    Axis,
    End,
    ErrorCode,
    Fence,
    Gemm,
    Quantize,
    Result,
    Rounding,
    ScaleMode,
    decode,
    encode_program,
)
from systolora.hls.registers import Counters, Status
from systolora.sim.functional import reference
from systolora.sim.functional.compiled import CompiledExecutor
from systolora.sim.functional.counts import count_instruction
from systolora.sim.functional.device import DeviceError, Program
from systolora.sim.functional.emulator import EmulatorDevice
from systolora.sim.functional.memory import BufferMisuseError
from systolora.sim.functional.native import Unit, best_unit, load_library
from systolora.sim.functional.randoms import FLOAT_PATTERNS, GEMM_PATTERNS, random_gemm, random_patches, random_quantize
from systolora.sim.functional.tiled import TiledExecutor
from systolora.sim.functional.trials import Trial, gemm_trial, join, quantize_trial
from systolora.sim.functional.whole import Executor, NumpyExecutor

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


def executors(config: ArrayConfig) -> list[Executor]:
    """Every way there is on this computer to execute an instruction; two to five."""
    ways: list[Executor] = [TiledExecutor(config), NumpyExecutor(config)]
    library = load_library()
    if library is not None:
        ways += [CompiledExecutor(config, library, unit) for unit in Unit if unit <= best_unit(library)]
    return ways


def prove(config: ArrayConfig, make: Callable[[EmulatorDevice], Trial]) -> None:
    """Runs the same trial in every way; the whole device memory must be as the reference says."""
    for executor in executors(config):
        with EmulatorDevice(config, CAPACITY, executor=executor) as device:
            check_trial(device, make(device))


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
    prove(config, lambda device: quantize_trial(device, np.random.default_rng(seed), op, pattern))


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_several_instructions_in_one_program(seed: int) -> None:
    rng = np.random.default_rng(seed)
    config = small_config(rng)
    with EmulatorDevice(config, CAPACITY) as device:
        trials = [gemm_trial(device, rng, random_gemm(config, rng, *rng.integers(1, 40, 3))) for _ in range(3)]
        trials.append(quantize_trial(device, rng, random_quantize(rng, *rng.integers(1, 40, 2)), "normal"))
        check_trial(device, join(trials))


@pytest.mark.parametrize("tiled", [False, True])
def test_a_reused_operand_gives_the_same_bits_and_is_not_loaded_again(tiled: bool) -> None:
    rng = np.random.default_rng(5)
    with EmulatorDevice(ArrayConfig(rows=8, cols=4), CAPACITY, tiled) as device:
        op = replace(random_gemm(device.config, rng, 20, 30, 40), tile_m=20, tile_k=40, accumulate=False)
        trial = gemm_trial(device, rng, op)
        once = device.run(trial.program).counters
        placed = decode(trial.program.code[:INSTRUCTION_BYTES])
        assert isinstance(placed, Gemm)
        twice = device.run(Program(encode_program([placed, replace(placed, reuse_a=True), End()]))).counters
        assert trial.mismatch() == ""
        assert twice.input_words == once.input_words > 0
        assert twice.weight_words == 2 * once.weight_words


def test_a_result_can_be_quantized_and_multiplied_in_the_same_program() -> None:
    """x is quantized, multiplied by a weight and the result quantized again: each step sees what the last one stored."""
    rng = np.random.default_rng(3)
    m, n, k = 10, 12, 16
    x = rng.standard_normal((m, k)).astype(np.float32)
    weight = rng.integers(-127, 128, (n, k)).astype(np.int8)
    with EmulatorDevice(ArrayConfig(rows=8, cols=8), CAPACITY) as device:
        x_in, q, s, w, y, y_q, y_s = (device.allocate(4096) for _ in range(7))
        x_in.write()[: x.nbytes] = x.view(np.uint8).reshape(-1)
        w.write()[: weight.nbytes] = weight.view(np.uint8).reshape(-1)
        gemm = Gemm(
            *(m, n, k, m, n, k, q.address, w.address, y.address, k, k, 48),
            transpose_b=True,
            result=Result.FLOAT32,
            scale_a=ScaleMode.VECTOR,
            scale_a_address=s.address,
        )
        code = encode_program(
            [
                Quantize(m, k, x_in.address, q.address, 64, k, s.address),
                Fence(),
                gemm,
                Quantize(m, n, y.address, y_q.address, 48, 16, y_s.address, axis=Axis.COLUMN),
                End(),
            ]
        )
        status = device.run(Program(code, (x_in, w), (q, s, y, y_q, y_s)))
        x_q, x_s = reference.quantize(x, Axis.ROW)
        wanted = reference.epilogue(reference.gemm_int32(x_q, weight.T), Result.FLOAT32, scale_a=x_s)
        wanted_q, wanted_s = reference.quantize(wanted, Axis.COLUMN)
        assert np.array_equal(y.read()[: 4 * m * n].view(np.float32).reshape(m, n), wanted)
        assert np.array_equal(y_q.read()[: 16 * m].view(np.int8).reshape(m, 16)[:, :n], wanted_q)
        assert np.array_equal(y_s.read()[: 4 * n].view(np.float32), wanted_s)
        assert status.executed == 5


def test_the_status_block_in_memory_is_the_one_returned() -> None:
    with EmulatorDevice(capacity_bytes=CAPACITY) as device:
        controller, memory = device._controller, device.memory
        program, block = memory.allocate(512), memory.allocate(STATUS_BYTES)
        code = encode_program([Fence(), End(), End()])
        program.write()[: len(code)] = np.frombuffer(code, np.uint8)
        status = controller.run(memory.window, program.address, 3, block.address, 77)
        assert Status.decode(block.read().tobytes()) == status
        assert (status.error, status.error_index, status.executed, status.sequence) == (ErrorCode.OK, 0, 2, 77)
        assert status.fingerprint == device.config.fingerprint
        assert status.counters == Counters(program_words=2 * 128 // 16)


def test_counters_are_the_sum_of_the_programs() -> None:
    rng = np.random.default_rng(1)
    with EmulatorDevice(capacity_bytes=CAPACITY) as device:
        trials = [gemm_trial(device, rng, random_gemm(device.config, rng, 30, 40, 50)) for _ in range(2)]
        total = Counters()
        for trial in trials:
            total = total + device.run(trial.program).counters
        assert device.counters == total
        placed = decode(trials[0].program.code[:INSTRUCTION_BYTES])
        expected = count_instruction(device.config, placed) + count_instruction(device.config, End())
        assert device.run(trials[0].program).counters == expected


def test_trace_sees_every_instruction_that_is_executed() -> None:
    seen = []
    with EmulatorDevice(capacity_bytes=CAPACITY) as device:
        device.trace = lambda program, index, instruction: seen.append((program, index, instruction))
        program = Program(encode_program([Fence(tag=4), End(), Fence()]))
        device.run(program)
    assert seen == [(program, 0, Fence(tag=4)), (program, 1, End())]


def test_stochastic_rounding_does_not_depend_on_the_split() -> None:
    """Two halves of a matrix, with the element indices continued, round like the whole."""
    rng = np.random.default_rng(8)
    x = rng.standard_normal((8, 16)).astype(np.float32)
    with EmulatorDevice(capacity_bytes=CAPACITY) as device:
        source, q, s = (device.allocate(1024) for _ in range(3))
        source.write()[: x.nbytes] = x.view(np.uint8).reshape(-1)

        def run(ops: list[Quantize]) -> bytes:
            device.run(Program(encode_program([*ops, End()])))
            return q.read()[: x.size].tobytes()

        common = {"axis": Axis.ROW, "rounding": Rounding.STOCHASTIC, "seed": 9, "index_stride": 16}
        whole = run([Quantize(8, 16, source.address, q.address, 64, 16, s.address, **common)])
        upper = Quantize(4, 16, source.address, q.address, 64, 16, s.address, **common)
        lower = Quantize(
            *(4, 16, source.address + 256, q.address + 64, 64, 16, s.address + 16), index_base=64, **common
        )
        assert run([upper, lower]) == whole
        assert run([upper, replace(lower, index_base=0)]) != whole


def test_a_freed_or_foreign_buffer_in_a_program_is_refused() -> None:
    with EmulatorDevice(capacity_bytes=CAPACITY) as device, EmulatorDevice(capacity_bytes=CAPACITY) as other:
        buffer = device.allocate(64, "x")
        foreign = other.allocate(64, "y")
        buffer.free()
        with pytest.raises(BufferMisuseError, match="'x' of 64 bytes .* was used after it was freed"):
            device.submit(Program(encode_program([End()]), (buffer,)))
        with pytest.raises(BufferMisuseError, match="'y' of 64 bytes belongs to another device"):
            device.submit(Program(encode_program([End()]), (), (foreign,)))


def test_a_closed_device_says_so() -> None:
    device = EmulatorDevice(capacity_bytes=CAPACITY)
    view = device.allocate(64).read()
    device.close()
    device.close()
    assert not view.any()
    with pytest.raises(DeviceError, match="the device is closed; open it again"):
        device.allocate(64)
    with pytest.raises(DeviceError, match="closed"):
        device.submit(Program(encode_program([End()])))


def test_a_program_longer_than_the_last_one_gets_more_room() -> None:
    with EmulatorDevice(capacity_bytes=CAPACITY) as device:
        for length in (1, 10, 1000, 10):
            assert device.run(Program(encode_program([Fence()] * length + [End()]))).executed == length + 1


def test_half_an_instruction_is_no_program() -> None:
    with (
        EmulatorDevice(capacity_bytes=CAPACITY) as device,
        pytest.raises(ValueError, match="130 bytes.*multiple of 128"),
    ):
        device.submit(Program(bytes(130)))
