"""Programs from the compiler compute what numpy computes, whatever the shape, and fence their hazards."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from systolora.hls.config import MAX_K, ArrayConfig
from systolora.hls.isa import INSTRUCTION_BYTES, Axis, End, Fence, Gemm, Instruction, Quantize, Rounding, decode
from systolora.programs.compiler import ProgramBuilder, gemm_int8
from systolora.programs.requests import CompileError
from systolora.programs.tensors import DeviceMatrix, DeviceVector, ElementType, matrix_bytes, row_stride
from systolora.sim.functional import reference
from systolora.sim.functional.device import DeviceError, Program
from systolora.sim.functional.emulator import EmulatorDevice

SMALL = ArrayConfig(rows=8, cols=12, input_bytes=4096, weight_bytes=3072, output_bytes=12288)
"""Memories so small that most shapes below need several tiles in each dimension."""


def matrix(device: EmulatorDevice, rows: int, cols: int, dtype: ElementType) -> DeviceMatrix:
    bus = device.config.bus_bytes
    buffer = device.allocate(max(1, matrix_bytes(rows, cols, dtype, bus)))
    buffer.write()[:] = 0xA5
    return DeviceMatrix(buffer, 0, rows, cols, row_stride(cols, dtype, bus), dtype)


def vector(device: EmulatorDevice, length: int) -> DeviceVector:
    return DeviceVector(device.allocate(max(4 * length, 64)), 0, length)


def integers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, shape, np.int8)


def instructions(program: Program) -> list[Instruction]:
    code = program.code
    return [decode(code[i : i + INSTRUCTION_BYTES]) for i in range(0, len(code), INSTRUCTION_BYTES)]


@settings(max_examples=80, deadline=None)
@given(
    st.tuples(*[st.integers(0, 200)] * 3),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([4, 8, 16, 32, 64]),
    st.integers(0, 2**31),
)
def test_any_shape_equals_numpy(
    shape: tuple[int, int, int], transpose_a: bool, transpose_b: bool, accumulate: bool, bus: int, seed: int
) -> None:
    m, n, k = shape
    config = ArrayConfig(rows=5, cols=7, bus_bytes=bus, input_bytes=16640, weight_bytes=17920, output_bytes=71680)
    a = integers(seed, k, m) if transpose_a else integers(seed, m, k)
    b = integers(seed + 1, n, k) if transpose_b else integers(seed + 1, k, n)
    c = np.random.default_rng(seed).integers(-(2**31), 2**31, (m, n), np.int64).astype(np.int32)
    with EmulatorDevice(config, capacity_bytes=1 << 20, tiled=True) as device:
        got = gemm_int8(device, a, b, transpose_a=transpose_a, transpose_b=transpose_b, c=c if accumulate else None)
    left, right = a.T if transpose_a else a, b.T if transpose_b else b
    expected = left.astype(np.int64) @ right.astype(np.int64) + (c if accumulate else 0)
    assert np.array_equal(got, expected.astype(np.int32))


@pytest.mark.parametrize("k", [MAX_K, MAX_K + 1, 2 * MAX_K + 77])
def test_a_long_contraction_is_split_and_adds_up(k: int) -> None:
    a, b = np.full((3, k), -128, np.int8), np.full((k, 2), -128, np.int8)
    with EmulatorDevice(capacity_bytes=1 << 24) as device:
        got = gemm_int8(device, a, b)
    expected = np.full((3, 2), k << 14, np.int64)
    assert np.array_equal(got, expected.astype(np.int32))


def test_scales_bias_and_alpha_are_the_reference_epilogue() -> None:
    random = np.random.default_rng(3)
    a, b = integers(1, 33, 70), integers(2, 70, 45)
    scale_a, scale_b, bias = (random.normal(size=size).astype(np.float32) for size in (33, 45, 45))
    c = random.normal(size=(33, 45)).astype(np.float32)
    expected = reference.epilogue(
        *(reference.gemm_int32(a, b), 1), scale_a=scale_a, scale_b=scale_b, alpha=0.3, bias=bias, c=c
    )
    with EmulatorDevice(SMALL, capacity_bytes=1 << 20) as device:
        got = gemm_int8(
            *(device, a, b), scale_a=scale_a, scale_b=scale_b, alpha=0.3, bias=bias, c=c, result=ElementType.FLOAT32
        )
        one = gemm_int8(device, a, b, scale_a=scale_a[:1], result=ElementType.BFLOAT16)
    assert np.array_equal(got, expected)
    tensor = reference.epilogue(reference.gemm_int32(a, b), 2, scale_a=scale_a[:1])
    assert np.array_equal(one, tensor)


def test_several_gemms_in_one_program_with_the_fences_they_need() -> None:
    """x -> int8, two GEMMs that share it (no fence, no second load), then one that reads what the first wrote."""
    with EmulatorDevice(capacity_bytes=1 << 20) as device:
        x, q = matrix(device, 20, 40, ElementType.FLOAT32), matrix(device, 20, 40, ElementType.INT8)
        scales = vector(device, 20)
        w1, w2 = matrix(device, 30, 40, ElementType.INT8), matrix(device, 10, 40, ElementType.INT8)
        y1, y2 = matrix(device, 20, 30, ElementType.FLOAT32), matrix(device, 20, 10, ElementType.FLOAT32)
        values = np.random.default_rng(0).normal(size=(20, 40)).astype(np.float32)
        x.write(values)
        w1.write(integers(1, 30, 40))
        w2.write(integers(2, 10, 40))
        builder = ProgramBuilder(device.config)
        builder.quantize(x, q, scales)
        builder.gemm(q, w1, y1, transpose_b=True, scale_a=scales)
        builder.gemm(q, w2, y2, transpose_b=True, scale_a=scales)
        builder.quantize(y1, matrix(device, 20, 30, ElementType.INT8), vector(device, 20), label="y1 again")
        program = builder.build()
        device.run(program)
        integer, scale = reference.quantize(values, Axis.ROW)
        expected = reference.epilogue(reference.gemm_int32(integer, integers(2, 10, 40).T), 1, scale_a=scale)
        assert np.array_equal(y2.read(), expected)
    kinds = [type(op) for op in instructions(program)]
    assert kinds == [Quantize, Fence, Gemm, Gemm, Fence, Quantize, End]
    first, second = (op for op in instructions(program) if isinstance(op, Gemm))
    assert (first.reuse_a, second.reuse_a) == (False, first.dataflow == second.dataflow)
    assert program.labels == {5: "y1 again"}
    assert {x.buffer, q.buffer, y1.buffer} <= {*program.reads, *program.writes}


@pytest.mark.parametrize("axis", [Axis.ROW, Axis.COLUMN])
@pytest.mark.parametrize("rounding", list(Rounding))
def test_quantize_splits_along_the_axis_and_keeps_the_random_indices(axis: Axis, rounding: Rounding) -> None:
    config = ArrayConfig(rows=4, cols=4, input_bytes=512, weight_bytes=512, output_bytes=2048)
    rows, cols = (700, 9) if axis == Axis.ROW else (9, 700)
    values = np.random.default_rng(5).normal(size=(rows, cols)).astype(np.float32)
    with EmulatorDevice(config, capacity_bytes=1 << 20) as device:
        source, target = matrix(device, rows, cols, ElementType.FLOAT32), matrix(device, rows, cols, ElementType.INT8)
        scales = vector(device, 700)
        source.write(values)
        builder = ProgramBuilder(config)
        builder.quantize(source, target, scales, axis=axis, rounding=rounding, seed=77)
        program = builder.build()
        device.run(program)
        integer, scale = reference.quantize(values, axis, rounding=rounding, seed=77)
        assert np.array_equal(target.read(), integer)
        assert np.array_equal(scales.read(), scale)
    assert sum(isinstance(op, Quantize) for op in instructions(program)) == -(-700 // config.quantize_limit)


def test_quantize_of_what_cannot_be_split_says_so() -> None:
    config = ArrayConfig(rows=4, cols=4, input_bytes=512, weight_bytes=512, output_bytes=2048)
    with EmulatorDevice(config, capacity_bytes=1 << 20) as device:
        source, target = matrix(device, 2, 700, ElementType.FLOAT32), matrix(device, 2, 700, ElementType.INT8)
        with pytest.raises(CompileError, match="too large for one instruction"):
            ProgramBuilder(config).quantize(source, target, vector(device, 2), factors=vector(device, 700))


def test_empty_gemms() -> None:
    with EmulatorDevice(capacity_bytes=1 << 20) as device:
        assert gemm_int8(device, integers(0, 0, 5), integers(0, 5, 3)).shape == (0, 3)
        assert gemm_int8(device, integers(0, 4, 5), integers(0, 5, 0)).shape == (4, 0)
        assert not gemm_int8(device, integers(0, 4, 0), integers(0, 0, 3)).any()
        kept = np.arange(12, dtype=np.int32).reshape(4, 3)
        assert np.array_equal(gemm_int8(device, integers(0, 4, 0), integers(0, 0, 3), c=kept), kept)
        with pytest.raises(CompileError, match="k = 0 with a bias"):
            gemm_int8(
                *(device, integers(0, 4, 0), integers(0, 0, 3)),
                bias=np.zeros(3, np.float32),
                result=ElementType.FLOAT32,
            )
        assert device.bytes_in_use <= 1024, "gemm_int8 frees what it took"


def test_bad_operands_get_one_clear_line() -> None:
    with EmulatorDevice(SMALL, capacity_bytes=1 << 20) as device:
        builder = ProgramBuilder(SMALL)
        a, b, c = (matrix(device, *shape, ElementType.INT8) for shape in ((4, 5), (6, 7), (4, 7)))
        result = matrix(device, 4, 7, ElementType.FLOAT32)
        with pytest.raises(CompileError, match=r"\[4, 5\] times \[6, 7\] into \[4, 7\]"):
            builder.gemm(a, b, result)
        with pytest.raises(CompileError, match="c is int8"):
            builder.gemm(a, b, c)
        with pytest.raises(CompileError, match="a is float32"):
            builder.gemm(result, b, result)
        with pytest.raises(CompileError, match=r"scale_a has 3 values; \[1, 4\]"):
            builder.gemm(a, matrix(device, 5, 7, ElementType.INT8), result, scale_a=vector(device, 3))
        with pytest.raises(CompileError, match="int32 result takes no scales"):
            gemm_int8(device, integers(0, 4, 5), integers(0, 5, 7), scale_a=np.ones(4, np.float32))
        with pytest.raises(CompileError, match="3 scales for"):
            builder.quantize(result, c, vector(device, 3))
        with pytest.raises(ValueError, match="cannot take float64"):
            result.write(np.zeros((4, 7)))


def test_a_program_longer_than_the_controller_accepts_is_refused() -> None:
    builder = ProgramBuilder(SMALL.with_changes(max_instructions=2))
    builder.fence()
    builder.fence()
    with pytest.raises(CompileError, match="3 instructions: 2 are allowed"):
        builder.build()


def test_the_label_reaches_the_error() -> None:
    with EmulatorDevice(SMALL, capacity_bytes=1 << 20) as device:
        source, target = matrix(device, 2, 3, ElementType.FLOAT32), matrix(device, 2, 3, ElementType.INT8)
        source.write(np.full((2, 3), np.inf, np.float32))
        builder = ProgramBuilder(SMALL)
        builder.quantize(source, target, vector(device, 2), label="x of layer 7")
        with pytest.raises(DeviceError, match=r"x of layer 7.*NaN or an infinity"):
            device.run(builder.build())
