"""Every error code is reached by some program, and what stops writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from systolora.hls.check import STATUS_BYTES, Region
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import (
    INSTRUCTION_BYTES,
    Axis,
    End,
    ErrorCode,
    Fence,
    Gemm,
    OperandA,
    OperandB,
    Quantize,
    Result,
    ScaleMode,
    encode,
    encode_program,
)
from systolora.hls.registers import Counters
from systolora.sim.functional.device import Buffer, DeviceError, Program
from systolora.sim.functional.emulator import EmulatorDevice

CONFIG = ArrayConfig(rows=8, cols=8, input_bytes=4096, weight_bytes=4096, output_bytes=16384, max_instructions=50)
M, N, K = 8, 16, 32


@pytest.fixture(params=[False, True], ids=["whole", "tiled"])
def device(request: pytest.FixtureRequest) -> Iterator[EmulatorDevice]:
    with EmulatorDevice(CONFIG, 1 << 20, request.param) as opened:
        yield opened


def good_gemm(device: EmulatorDevice) -> Gemm:
    a, b, c, scale = (device.allocate(4096) for _ in range(4))
    return Gemm(
        *(M, N, K, M, N, K, a.address, b.address, c.address, K, N, 4 * N),
        result=Result.FLOAT32,
        scale_a=ScaleMode.VECTOR,
        scale_b=ScaleMode.VECTOR,
        scale_a_address=scale.address,
        scale_b_address=scale.address,
    )


def good_quantize(device: EmulatorDevice) -> Quantize:
    return placed_quantize(device)[0]


def placed_quantize(device: EmulatorDevice) -> tuple[Quantize, tuple[Buffer, ...]]:
    """A QUANTIZE by row, and what it writes: integers and scales."""
    a, c, scale = (device.allocate(4096) for _ in range(3))
    return Quantize(M, N, a.address, c.address, 4 * N, N, scale.address), (c, scale)


PATCH = {
    "a_form": OperandA.PATCHES,
    **{"image_height": 2, "image_width": 4, "channels": 32, "out_height": 2, "out_width": 4},
    **{"kernel_height": 1, "kernel_width": 1, "step": 1},
}

BAD_GEMMS: dict[str, tuple[ErrorCode, dict[str, object]]] = {
    "infinite alpha": (ErrorCode.BAD_FIELD, {"alpha": float("inf")}),
    "alpha that is no number": (ErrorCode.BAD_FIELD, {"alpha": float("nan")}),
    "scales of an int32 result": (ErrorCode.BAD_FIELD, {"result": Result.INT32}),
    "transposed patches": (ErrorCode.BAD_FIELD, {**PATCH, "transpose_a": True}),
    "reversed blocks of a matrix": (
        ErrorCode.BAD_FIELD,
        {"b_form": OperandB.REVERSED_BLOCKS, "transpose_b": True},
    ),
    "no rows": (ErrorCode.BAD_SHAPE, {"m": 0}),
    "no columns": (ErrorCode.BAD_SHAPE, {"n": 0}),
    "nothing to contract": (ErrorCode.BAD_SHAPE, {"k": 0}),
    "sums that could overflow": (ErrorCode.BAD_SHAPE, {"k": 131_072}),
    "too many rows": (ErrorCode.BAD_SHAPE, {"m": (1 << 24) + 1}),
    "patches without step": (ErrorCode.BAD_SHAPE, {**PATCH, "step": 0}),
    "patches that do not make k": (ErrorCode.BAD_SHAPE, {**PATCH, "kernel_width": 2}),
    "patches that do not make m": (ErrorCode.BAD_SHAPE, {**PATCH, "out_width": 3}),
    "channels that cut a bus word": (ErrorCode.BAD_SHAPE, {**PATCH, "channels": 8, "kernel_width": 4}),
    "empty tile": (ErrorCode.BAD_TILE, {"tile_n": 0}),
    "tile that cuts a bus word": (ErrorCode.BAD_TILE, {"tile_k": 24}),
    "A larger than its memory": (ErrorCode.BAD_TILE, {"m": 80, "tile_m": 80}),
    "B larger than its memory": (ErrorCode.BAD_TILE, {"n": 80, "tile_n": 80}),
    "C larger than its memory": (ErrorCode.BAD_TILE, {"m": 144, "tile_m": 144, "k": 8, "tile_k": 8}),
    "unaligned stride": (ErrorCode.ALIGNMENT, {"c_stride": 72}),
    "rows on top of each other": (ErrorCode.STRIDE, {"a_stride": 16}),
    "A outside the window": (ErrorCode.WINDOW, {"a_address": 0}),
    "B beyond the window": (ErrorCode.WINDOW, {"b_address": 2**64 - 16}),
    "reuse without a GEMM before": (ErrorCode.REUSE, {"reuse_a": True}),
}


def expect(
    device: EmulatorDevice, code: bytes, error: ErrorCode, index: int = 0, written: tuple[Buffer, ...] = ()
) -> DeviceError:
    """Runs a program that must stop there; all memory but program, status block and `written` stays as it is."""
    own = [device._program, device._status, *written]
    before = device.memory.bytes.copy()
    with pytest.raises(DeviceError, match=error.name) as caught:
        device.run(Program(code, labels={index: "the culprit"}))
    after = device.memory.bytes.copy()
    for buffer in [*own, device._program]:
        start = buffer.address - device.memory.base
        before[start : start + buffer.nbytes] = after[start : start + buffer.nbytes] = 0
    assert np.array_equal(before, after)
    assert caught.value.code == error
    assert caught.value.index == index
    return caught.value


@pytest.mark.parametrize("name", BAD_GEMMS)
def test_a_bad_gemm_stops_the_program(device: EmulatorDevice, name: str) -> None:
    error, changes = BAD_GEMMS[name]
    op = replace(good_gemm(device), **changes)  # type: ignore[arg-type]
    caught = expect(device, encode_program([Fence(), op, End()]), error, 1)
    assert "instruction 1 (the culprit) stopped the program" in str(caught)
    assert device.counters == Counters(program_words=16)


def test_the_good_gemm_is_good(device: EmulatorDevice) -> None:
    assert device.run(Program(encode_program([good_gemm(device), End()]))).executed == 2


Change = Callable[[Quantize, EmulatorDevice], Quantize]
BAD_QUANTIZES: dict[str, tuple[ErrorCode, Change]] = {
    "no rows": (ErrorCode.BAD_SHAPE, lambda op, device: replace(op, m=0)),
    "more scales than fit": (ErrorCode.BAD_TILE, lambda op, device: replace(op, m=2049)),
    "more factors than fit": (ErrorCode.BAD_TILE, lambda op, device: replace(op, multiply=True, m=1, n=2049)),
    "unaligned scales": (ErrorCode.ALIGNMENT, lambda op, device: replace(op, scale_a_address=op.scale_a_address + 4)),
    "rows on top of each other": (ErrorCode.STRIDE, lambda op, device: replace(op, n=17)),
    "result outside the window": (ErrorCode.WINDOW, lambda op, device: replace(op, c_address=1 << 40)),
    "result on its input": (ErrorCode.OVERLAP, lambda op, device: replace(op, c_address=op.a_address)),
    "result on its scales": (ErrorCode.OVERLAP, lambda op, device: replace(op, c_address=op.scale_a_address)),
    "scales on the factors": (
        ErrorCode.OVERLAP,
        lambda op, device: replace(op, multiply=True, scale_b_address=op.scale_a_address),
    ),
    "result on the program": (ErrorCode.OVERLAP, lambda op, device: replace(op, c_address=device._program.address)),
    "scales on the status block": (
        ErrorCode.OVERLAP,
        lambda op, device: replace(op, scale_a_address=device._status.address),
    ),
}


@pytest.mark.parametrize("name", BAD_QUANTIZES)
def test_a_bad_quantize_stops_the_program(device: EmulatorDevice, name: str) -> None:
    error, change = BAD_QUANTIZES[name]
    device.run(Program(encode_program([Fence(), End()])))  # so that the program's place does not move any more
    expect(device, encode_program([change(good_quantize(device), device), End()]), error)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("axis", Axis)
def test_a_value_that_is_not_finite_stops_quantize(device: EmulatorDevice, value: float, axis: Axis) -> None:
    op, results = placed_quantize(device)
    op = replace(op, axis=axis)
    device.memory.view(op.a_address, 4 * M * N).view(np.float32)[M * N - 1] = value
    written = results if axis == Axis.ROW else ()
    expect(device, encode_program([op, End()]), ErrorCode.NONFINITE, written=written)
    words = M * N // 16 + M // 4 if written else 0
    passes = 2 if written else 1  # too few rows of PEs to keep a row
    assert device.counters == Counters(source_words=passes * M * N // 4, quantized_words=words, program_words=8)


def test_by_row_only_the_row_that_is_not_finite_is_lost(device: EmulatorDevice) -> None:
    op, (c, scale) = placed_quantize(device)
    device.memory.view(op.a_address, 4 * M * N).view(np.float32)[:] = 2
    device.memory.view(op.a_address, 4 * M * N).view(np.float32)[N + 3] = np.inf
    expect(device, encode_program([op, End()]), ErrorCode.NONFINITE, written=(c, scale))
    q = c.read()[: M * N].view(np.int8).reshape(M, N)
    scales = scale.read()[: 4 * M].view(np.float32)
    assert not q[1].any()
    assert scales.view(np.uint32)[1] == 0x7FC00000
    assert (np.delete(q, 1, axis=0) == 127).all()
    assert (np.delete(scales, 1) == np.float32(2) / np.float32(127)).all()


def test_a_product_that_overflows_stops_quantize(device: EmulatorDevice) -> None:
    factor = device.allocate(64)
    factor.write().view(np.float32)[:] = 1e30
    op = replace(good_quantize(device), axis=Axis.TENSOR, multiply=True, scale_b_address=factor.address)
    device.memory.view(op.a_address, 64).view(np.float32)[:] = 1e30
    expect(device, encode_program([op, End()]), ErrorCode.NONFINITE)
    assert device.counters == Counters(vector_words=4, source_words=M * N // 4, program_words=8)


def test_an_unknown_opcode_and_reserved_bits_stop_the_program(device: EmulatorDevice) -> None:
    expect(device, bytes(128), ErrorCode.BAD_OPCODE)
    broken = bytearray(encode(Fence()))
    broken[127] = 1
    expect(device, encode(Fence()) + bytes(broken) + encode(End()), ErrorCode.BAD_FIELD, 1)
    broken = bytearray(encode(good_gemm(device)))
    broken[1] |= 3 << 4  # result = 3
    expect(device, bytes(broken) + encode(End()), ErrorCode.BAD_FIELD)


def test_a_gemm_must_not_write_on_its_operands(device: EmulatorDevice) -> None:
    op = good_gemm(device)
    for address in (op.a_address, op.b_address, op.scale_a_address, op.b_address - 4 * N * (M - 1)):
        expect(device, encode_program([replace(op, c_address=address), End()]), ErrorCode.OVERLAP)


def test_reuse_needs_the_same_operand_right_before(device: EmulatorDevice) -> None:
    op = good_gemm(device)
    again = replace(op, reuse_a=True)
    device.run(Program(encode_program([op, again, again, End()])))
    for before in (
        [op, Fence()],
        [replace(op, a_address=op.a_address + 16)],
        [replace(op, tile_m=16, m=16)],
        [replace(op, transpose_a=True)],
    ):
        with pytest.raises(DeviceError) as caught:
            device.run(Program(encode_program([*before, again, End()])))
        assert caught.value.code == ErrorCode.REUSE


def test_a_program_without_end_is_executed_and_reported(device: EmulatorDevice) -> None:
    with pytest.raises(DeviceError, match="instruction 2 stopped the program: NO_END") as caught:
        device.run(Program(encode_program([Fence(), Fence()])))
    assert (caught.value.code, caught.value.index) == (ErrorCode.NO_END, 2)


def test_what_came_before_the_error_is_done(device: EmulatorDevice) -> None:
    op = good_quantize(device)
    device.memory.view(op.a_address, 4 * M * N).view(np.float32)[:] = 3
    with pytest.raises(DeviceError) as caught:
        device.run(Program(encode_program([op]) + bytes(128)))
    assert (caught.value.code, caught.value.index) == (ErrorCode.BAD_OPCODE, 1)
    assert (device.memory.view(op.c_address, M * N) == 127).all()


def test_an_empty_or_too_long_program_is_refused(device: EmulatorDevice) -> None:
    expect(device, b"", ErrorCode.BAD_PROGRAM)
    expect(device, encode_program([Fence()] * 50 + [End()]), ErrorCode.BAD_PROGRAM)
    assert device.counters == Counters()


def test_program_and_status_must_lie_in_the_window(device: EmulatorDevice) -> None:
    memory, run = device.memory, device._controller.run
    block, code = memory.allocate(4096), memory.allocate(4096)
    code.write()[:INSTRUCTION_BYTES] = np.frombuffer(encode(End()), np.uint8)
    window = Region(memory.base, memory.capacity)
    assert run(window, code.address, 1, block.address).error == ErrorCode.OK

    def refused(program: int, status: int, around: Region = window) -> bool:
        """Whether the program is refused; returns whether the status block was written."""
        block.write()[:] = code.write()[2048:] = 0
        result = run(around, program, 1, status)
        assert (result.error, result.error_index, result.executed) == (ErrorCode.BAD_PROGRAM, 0, 0)
        return bool(block.read().any() or code.read()[2048:].any())

    assert refused(code.address + 4, block.address)
    assert refused(memory.base - 128, block.address)
    assert refused(code.address, block.address, Region(block.address, 4096))
    assert not refused(code.address, block.address + 4)
    assert not refused(code.address, block.address, Region(code.address, 4096))
    assert not refused(code.address, code.address)
    assert not refused(code.address, window.address + window.size - STATUS_BYTES + 16)


def test_the_window_itself_must_be_device_memory(device: EmulatorDevice) -> None:
    with pytest.raises(ValueError, match="is not inside the device memory"):
        device._controller.run(Region(0, 64), 0, 1, 0)


def test_a_smaller_window_is_kept(device: EmulatorDevice) -> None:
    """The same instruction is accepted and refused, as the window says: what is remembered of it does not leak."""
    memory = device.memory
    op = good_gemm(device)
    program, block = memory.allocate(1024), memory.allocate(STATUS_BYTES)
    data = encode_program([op, End()])
    program.write()[: len(data)] = np.frombuffer(data, np.uint8)
    small = Region(op.b_address, memory.base + memory.capacity - op.b_address)
    for window, error in ((memory.window, ErrorCode.OK), (small, ErrorCode.WINDOW), (memory.window, ErrorCode.OK)):
        assert device._controller.run(window, program.address, 2, block.address).error == error
