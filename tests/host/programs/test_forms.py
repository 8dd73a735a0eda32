"""C and C^T = B^T A^T have the same bits: whatever the shape, the scales, the result's type, and what executes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Gemm, decode
from systolora.programs.compiler import ProgramBuilder, gemm_int8
from systolora.programs.requests import RESULTS, CompileError, GemmRequest
from systolora.programs.tensors import DeviceMatrix, DeviceVector, ElementType
from systolora.programs.tiling import faster_transposed
from systolora.sim.csim.device import CsimDevice
from systolora.sim.functional import reference
from systolora.sim.functional.compiled import CompiledExecutor
from systolora.sim.functional.device import Device
from systolora.sim.functional.emulator import EmulatorDevice
from systolora.sim.functional.native import Unit, best_unit, load_library
from systolora.sim.functional.randoms import FLOAT_PATTERNS, GEMM_PATTERNS, random_floats, random_integers
from systolora.sim.functional.whole import NumpyExecutor

SMALL = ArrayConfig(rows=8, cols=12, input_bytes=8192, weight_bytes=12288, output_bytes=49152)
"""Memories so small that the shapes below need several tiles."""

CAPACITY = 1 << 22
FLOATS = (ElementType.FLOAT32, ElementType.BFLOAT16)


def compiled(unit: Unit) -> Device:
    library = load_library()
    if library is None or unit > best_unit(library):
        pytest.skip(f"no {unit.name.lower()} unit here")
    return EmulatorDevice(SMALL, CAPACITY, executor=CompiledExecutor(SMALL, library, unit))


DEVICES: dict[str, Callable[[], Device]] = {
    "tiled": lambda: EmulatorDevice(SMALL, CAPACITY, tiled=True),
    "whole": lambda: EmulatorDevice(SMALL, CAPACITY, executor=NumpyExecutor(SMALL)),
    "compiled without a unit": lambda: compiled(Unit.NONE),
    "compiled, VNNI": lambda: compiled(Unit.VECTOR),
    "compiled, AMX": lambda: compiled(Unit.MATRIX),
    "C-simulation": lambda: CsimDevice(SMALL, CAPACITY),
}


def scales(rng: np.random.Generator, length: int, mode: int) -> np.ndarray | None:
    """None, one, or one per row or column."""
    count = (0, 1, length)[mode]
    return random_floats(rng, (count,), str(rng.choice(FLOAT_PATTERNS))) if count else None


def random_product(rng: np.random.Generator) -> tuple[dict[str, Any], np.ndarray]:
    """Arguments of `gemm_int8` for a random product without bias, and what it must give."""
    m, n, k = (int(size) for size in rng.integers(1, 70, 3))
    left, right = (random_integers(rng, size, str(rng.choice(GEMM_PATTERNS))) for size in ((m, k), (k, n)))
    result = list(RESULTS)[int(rng.integers(len(RESULTS)))]
    scaled = result in FLOATS
    scale_a, scale_b = (scales(rng, size, int(rng.integers(3)) if scaled else 0) for size in (m, n))
    alpha = float(np.float32(rng.choice([1.0, -0.3, 1.7])))
    c = None
    if rng.integers(2):
        c = random_floats(rng, (m, n), "specials")
        c = c.view(np.int32) if not scaled else reference.bfloat16_bits(c) if result is FLOATS[1] else c
    turned_a, turned_b = (bool(rng.integers(2)) for _ in range(2))
    arguments = {
        "a": np.ascontiguousarray(left.T) if turned_a else left,
        "b": np.ascontiguousarray(right.T) if turned_b else right,
        **{"transpose_a": turned_a, "transpose_b": turned_b, "scale_a": scale_a, "scale_b": scale_b},
        **{"alpha": alpha, "c": c, "result": result},
    }
    sums = reference.gemm_int32(left, right)
    wanted = reference.epilogue(sums, RESULTS[result], scale_a=scale_a, scale_b=scale_b, alpha=alpha, c=c)
    return arguments, wanted


@pytest.mark.parametrize("name", DEVICES)
def test_both_forms_have_the_bits_of_the_reference(name: str) -> None:
    rng = np.random.default_rng(13)
    with DEVICES[name]() as device:
        for _ in range(40):
            arguments, wanted = random_product(rng)
            for transpose_c in (False, True):
                got = gemm_int8(device, **arguments, transpose_c=transpose_c)
                assert np.array_equal(got.view(f"u{got.itemsize}"), wanted.view(f"u{wanted.itemsize}"))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 30))
def test_without_the_flag_bits_differ_and_with_it_they_do_not(seed: int, m: int, n: int) -> None:
    """The transposed epilogue by definition: the factors are the same, and so must be their order."""
    rng = np.random.default_rng(seed)
    sums = rng.integers(-(2**31), 2**31, (m, n)).astype(np.int32)
    scale_a, scale_b = (np.exp(rng.normal(0, 20, size)).astype(np.float32) for size in (m, n))
    plain = reference.epilogue(sums, 1, scale_a=scale_a, scale_b=scale_b, alpha=0.7)
    turned = reference.epilogue(sums.T, 1, scale_a=scale_b, scale_b=scale_a, alpha=0.7, scales_swapped=True)
    assert np.array_equal(plain.view(np.uint32), turned.T.view(np.uint32))
    other = reference.epilogue(sums.T, 1, scale_a=scale_b, scale_b=scale_a, alpha=0.7)
    assert m * n < 100 or not np.array_equal(plain.view(np.uint32), other.T.view(np.uint32))


def test_a_turned_instruction_is_the_same_operands_in_each_other_s_place() -> None:
    with EmulatorDevice(SMALL, CAPACITY) as device:
        a, b, c = (device.allocate(4096) for _ in range(3))
        left, right = DeviceMatrix(a, 0, 20, 30, 32, ElementType.INT8), DeviceMatrix(b, 0, 30, 5, 16, ElementType.INT8)
        up = DeviceVector(b, 1024, 20)
        builder = ProgramBuilder(SMALL)
        out = DeviceMatrix(c, 0, 5, 20, 80, ElementType.FLOAT32)
        builder.gemm(left, right, out, scale_a=up, transpose_c=True)
        op = decode(builder.build().code[:128])
    assert isinstance(op, Gemm)
    assert (op.m, op.n, op.k, op.transpose_a, op.transpose_b, op.scales_swapped) == (5, 20, 30, True, True, True)
    assert (op.a_address, op.b_address, op.scale_b_address) == (right.address, left.address, up.address)


def test_a_bias_lies_along_the_rows_of_c() -> None:
    with EmulatorDevice(SMALL, CAPACITY) as device, pytest.raises(CompileError, match="takes none"):
        buffer = device.allocate(4096)
        square = DeviceMatrix(buffer, 0, 8, 8, 16, ElementType.INT8)
        c = DeviceMatrix(buffer, 1024, 8, 8, 32, ElementType.FLOAT32)
        GemmRequest(square, square, c, bias=DeviceVector(buffer, 2048, 8), transpose_c=True)


def test_the_faster_form_depends_on_the_array() -> None:
    """40 columns fill two thirds of 64 and all of 8."""
    wide = ArrayConfig(rows=32, cols=64, bus_bytes=64)
    narrow = ArrayConfig(rows=64, cols=8, bus_bytes=64)
    assert faster_transposed(wide, 4096, 40, 4096)
    assert not faster_transposed(narrow, 4096, 40, 4096)
