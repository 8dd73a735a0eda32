"""The checks: what they let through stays inside its memory, and each limit is where it should be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from systolora.hls.check import (
    STATUS_BYTES,
    Region,
    Surroundings,
    check_instruction,
    check_program,
    gemm_reads,
    gemm_writes,
    input_words,
    program_region,
    quantize_reads,
    quantize_writes,
    reusable,
    round_up,
    status_writable,
    stored_shape_a,
    stored_shape_b,
    weight_words,
)
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import (
    Axis,
    Dataflow,
    End,
    ErrorCode,
    Fence,
    Gemm,
    OperandA,
    OperandB,
    Quantize,
    Result,
    ScaleMode,
    Source,
)

CONFIG = ArrayConfig(rows=16, cols=16)
WINDOW = Region(0x10000, 0x100000)
AROUND = Surroundings(WINDOW, program_region(0x10000, 4), Region(0x10400, STATUS_BYTES))
GEMM = Gemm(
    *(20, 30, 40, 20, 30, 40, 0x20000, 0x30000, 0x40000, 48, 32, 128),
    result=Result.FLOAT32,
    scale_a=ScaleMode.VECTOR,
    scale_b=ScaleMode.TENSOR,
    bias=True,
    scale_a_address=0x50000,
    scale_b_address=0x51000,
    bias_address=0x52000,
)
QUANTIZE = Quantize(20, 30, 0x20000, 0x30000, 128, 32, 0x40000)


def code(op: object, around: Surroundings = AROUND, previous: object = None, config: ArrayConfig = CONFIG) -> ErrorCode:
    return check_instruction(config, around, op, previous)  # type: ignore[arg-type]


def test_good_instructions_pass() -> None:
    assert [code(op) for op in (GEMM, QUANTIZE, Fence(), End())] == [ErrorCode.OK] * 4


REGION = st.builds(Region, st.integers(0, 60), st.integers(0, 20))


@given(REGION, REGION)
def test_regions_by_their_bytes(one: Region, two: Region) -> None:
    bytes_one, bytes_two = (set(range(r.address, r.address + r.size)) for r in (one, two))
    if one.size and two.size:
        assert one.overlaps(two) == two.overlaps(one) == bool(bytes_one & bytes_two)
        assert one.inside(two) == (bytes_one <= bytes_two)


@given(st.integers(0, 10**6), st.integers(1, 1000))
def test_round_up(value: int, unit: int) -> None:
    found = round_up(value, unit)
    assert found % unit == 0 and value <= found < value + unit


@pytest.mark.parametrize(
    ("program", "count", "status", "error"),
    [
        (0x10000, 1, 0x10080, ErrorCode.OK),
        (0x10000, CONFIG.max_instructions + 1, 0x10080, ErrorCode.BAD_PROGRAM),
        (0x10000, 0, 0x10080, ErrorCode.BAD_PROGRAM),
        (0x10008, 1, 0x10100, ErrorCode.BAD_PROGRAM),
        (0x10000, 1, 0x10088, ErrorCode.BAD_PROGRAM),
        (0x0FFF0, 1, 0x10100, ErrorCode.BAD_PROGRAM),
        (0x10000, 1, WINDOW.address + WINDOW.size - 112, ErrorCode.BAD_PROGRAM),
        (0x10000, 2, 0x10080, ErrorCode.BAD_PROGRAM),
    ],
)
def test_programs(program: int, count: int, status: int, error: ErrorCode) -> None:
    around = Surroundings(WINDOW, program_region(program, count), Region(status, STATUS_BYTES))
    assert check_program(CONFIG, around, count) == error


def test_the_window_is_aligned() -> None:
    around = Surroundings(Region(WINDOW.address + 8, WINDOW.size), program_region(0x10100, 1), Region(0x10400, 128))
    assert check_program(CONFIG, around, 1) == ErrorCode.BAD_PROGRAM
    assert not status_writable(CONFIG, around)


def test_where_the_status_block_can_be_written() -> None:
    def writable(status: int) -> bool:
        return status_writable(CONFIG, Surroundings(WINDOW, program_region(0x10000, 2), Region(status, STATUS_BYTES)))

    assert writable(0x10100) and writable(WINDOW.address + WINDOW.size - STATUS_BYTES)
    assert not any(map(writable, (0x10000, 0x10080, 0x100F0, 0x10108, 0xFF80, WINDOW.address + WINDOW.size - 112)))


@pytest.mark.parametrize("source", Source)
@pytest.mark.parametrize("axis", Axis)
def test_quantize_regions_are_exact(source: Source, axis: Axis) -> None:
    op = replace(QUANTIZE, source=source, axis=axis, multiply=True, scale_b_address=0x60000)
    row = {Source.FLOAT32: 128, Source.BFLOAT16: 64}[source]
    scales = {Axis.TENSOR: 16, Axis.ROW: 80, Axis.COLUMN: 128}[axis]
    assert quantize_reads(CONFIG, op) == [Region(0x20000, 19 * 128 + row), Region(0x60000, 128)]
    assert quantize_writes(CONFIG, op) == [Region(0x30000, 20 * 32), Region(0x40000, scales)]


def test_gemm_regions_are_exact() -> None:
    assert gemm_reads(CONFIG, GEMM) == [
        Region(0x20000, 20 * 48),
        Region(0x30000, 40 * 32),
        Region(0x50000, 80),
        Region(0x51000, 16),
        Region(0x52000, 128),
    ]
    assert gemm_writes(CONFIG, GEMM) == [Region(0x40000, 20 * 128)]
    half = replace(GEMM, result=Result.BFLOAT16, transpose_a=True, transpose_b=True, bias=False)
    assert gemm_reads(CONFIG, half)[:2] == [Region(0x20000, 39 * 48 + 32), Region(0x30000, 29 * 32 + 48)]
    assert gemm_writes(CONFIG, half) == [Region(0x40000, 19 * 128 + 64)]


def test_the_regions_of_a_convolution() -> None:
    op = replace(
        GEMM,
        m=2 * 3 * 5,
        n=20,
        k=2 * 3 * 32,
        transpose_b=True,
        a_form=OperandA.PATCHES,
        b_form=OperandB.REVERSED_BLOCKS,
        image_height=7,
        image_width=9,
        channels=32,
        out_height=3,
        out_width=5,
        kernel_height=2,
        kernel_width=3,
        step=1,
        block_step=1,
        block_row_step=3,
    )
    assert stored_shape_a(op) == (2 * 7 * 9, 32)
    assert stored_shape_b(CONFIG, op) == (6 * 32, 32)
    assert stored_shape_b(CONFIG, replace(op, b_form=OperandB.MATRIX)) == (20, 192)
    # Every second position of a larger kernel: from the first block that is read to the end of the last.
    assert stored_shape_b(CONFIG, replace(op, block_step=2, block_row_step=10)) == (15 * 32, 32)


@pytest.mark.parametrize(("n", "error"), [(256, ErrorCode.BAD_TILE), (257, ErrorCode.BAD_SHAPE)])
def test_blocks_beyond_the_largest_matrix_are_refused(n: int, error: ErrorCode) -> None:
    """65,536 blocks of 256 rows are 2**24; of the next n it is the shape that is wrong, of this one the tile (0)."""
    image = {"image_height": 2, "image_width": 2, "channels": 16, "out_height": 1, "out_width": 1}
    kernel = {"kernel_height": 2, "kernel_width": 1, "step": 1, "block_row_step": 65535, "block_step": 0}
    forms = {"a_form": OperandA.PATCHES, "b_form": OperandB.REVERSED_BLOCKS, "transpose_b": True}
    assert code(replace(GEMM, m=1, n=n, k=32, tile_m=0, **image, **kernel, **forms)) == error


@pytest.mark.parametrize("name", ["a_address", "b_address", "c_address", "scale_a_address", "bias_address"])
def test_every_address_is_checked(name: str) -> None:
    assert code(replace(GEMM, **{name: getattr(GEMM, name) + 8})) == ErrorCode.ALIGNMENT
    assert code(replace(GEMM, **{name: 0})) == ErrorCode.WINDOW
    assert code(replace(GEMM, **{name: WINDOW.address + WINDOW.size - 16})) in (ErrorCode.WINDOW, ErrorCode.OK)
    assert code(replace(GEMM, **{name: 2**64 - 16})) == ErrorCode.WINDOW


def test_a_region_may_end_where_the_window_ends() -> None:
    end = WINDOW.address + WINDOW.size
    assert code(replace(GEMM, c_address=end - 20 * 128)) == ErrorCode.OK
    assert code(replace(GEMM, c_address=end - 20 * 128 + 16)) == ErrorCode.WINDOW
    assert code(replace(GEMM, a_address=WINDOW.address)) == ErrorCode.OK  # it may read the program


def test_results_must_not_touch_what_is_read() -> None:
    for start in (0x20000 - 16, 0x20000 + 19 * 48 + 32, 0x30000, 0x50000, 0x51000, 0x52000 + 112, 0x10000, 0x10400):
        assert code(replace(GEMM, c_address=start)) == ErrorCode.OVERLAP
    assert code(replace(GEMM, c_address=0x20000 + 20 * 48)) == ErrorCode.OK
    assert code(replace(GEMM, c_address=0x20000 - 20 * 128)) == ErrorCode.OK


def test_addresses_of_what_is_not_used_are_not_checked() -> None:
    op = replace(GEMM, scale_a=ScaleMode.NONE, scale_b=ScaleMode.NONE, bias=False)
    assert code(replace(op, scale_a_address=3, scale_b_address=5, bias_address=7)) == ErrorCode.OK


@pytest.mark.parametrize(("dataflow", "fits"), [(Dataflow.WEIGHT_STATIONARY, 256), (Dataflow.OUTPUT_STATIONARY, 256)])
def test_the_largest_tile_that_fits(dataflow: Dataflow, fits: int) -> None:
    config = ArrayConfig(
        rows=16, cols=16, input_bytes=2 * 16 * 256, weight_bytes=2 * 16 * 1024, output_bytes=8 * 16 * 512
    )
    window = Surroundings(Region(0, 1 << 30), Region(0, 0), Region(0, 0))
    base = Gemm(*(16, 16, fits, 16, 16, fits, 0, 1 << 20, 2 << 20, 4096, 16, 64), dataflow=dataflow)
    assert code(base, window, config=config) == ErrorCode.OK
    for m, k in ((32, fits), (16, 272)):
        wide = replace(base, m=m, tile_m=m, k=k, tile_k=k)
        needed = input_words(config, dataflow, m, k)
        assert (code(wide, window, config=config) == ErrorCode.BAD_TILE) == (needed > config.input_depth)
    assert weight_words(config, 17, 5) == 10


@settings(max_examples=300)
@given(st.integers(0, 2**32 - 1))
def test_what_passes_touches_only_the_window(seed: int) -> None:
    """Random instructions, mostly wrong ones: none that passes reads or writes a byte outside, or one that is guarded."""
    rng = np.random.default_rng(seed)
    small = lambda high: int(rng.integers(0, high))  # noqa: E731
    address = lambda: 16 * small(200) + small(2) * small(2) * 8  # noqa: E731
    around = Surroundings(Region(256, 2048), Region(256, 256), Region(512, 128))
    if small(2):
        op: Gemm | Quantize = Gemm(
            *(small(9), small(9), small(40), 16 + small(20), 16 + small(20), 16 + small(40)),
            *(address(), address(), address(), 16 * small(5), 16 * small(5), 16 * small(5)),
            transpose_a=bool(small(2)),
            transpose_b=bool(small(2)),
            result=Result(small(3)),
        )
        reads, writes = gemm_reads(CONFIG, op), gemm_writes(CONFIG, op)
    else:
        op = Quantize(
            small(9), small(20), address(), address(), 16 * small(6), 16 * small(4), address(), axis=Axis(small(3))
        )
        reads, writes = quantize_reads(CONFIG, op), quantize_writes(CONFIG, op)
    if code(op, around) == ErrorCode.OK:
        taken = np.zeros(4096, int)
        for region in (*reads, *writes):
            assert region.address >= 256 and region.address + region.size <= 2304
        for region in (*reads, around.program, around.status):
            taken[region.address : region.address + region.size] = 1
        for region in writes:
            taken[region.address : region.address + region.size] += 1
        assert taken.max() <= 1


def test_reuse() -> None:
    again = replace(GEMM, reuse_a=True)
    assert code(again, previous=GEMM) == ErrorCode.OK
    assert code(again, previous=None) == ErrorCode.REUSE
    assert code(again, previous=Fence()) == ErrorCode.REUSE
    assert code(again, previous=QUANTIZE) == ErrorCode.REUSE
    for change in ({"a_address": 0x21000}, {"a_stride": 64}, {"k": 39}, {"m": 19}, {"dataflow": 1}, {"tile_k": 32}):
        assert not reusable(again, replace(GEMM, **change))
    assert not reusable(replace(again, tile_m=16), GEMM)
    assert reusable(again, replace(GEMM, n=16, b_address=0, c_address=0, tile_n=16, bias=False))
    # The placement error comes before the reuse error, as in the hardware.
    assert code(replace(again, c_address=0x20000), previous=None) == ErrorCode.OVERLAP


def test_the_first_failing_check_gives_the_code() -> None:
    op = replace(GEMM, alpha=float("inf"), m=0, tile_n=0, a_address=1, a_stride=0, b_address=0)
    for change, expected in (
        ({}, ErrorCode.BAD_FIELD),
        ({"alpha": 1.0}, ErrorCode.BAD_SHAPE),
        ({"m": 20}, ErrorCode.BAD_TILE),
        ({"tile_n": 30}, ErrorCode.ALIGNMENT),
        ({"a_address": 0x20000}, ErrorCode.STRIDE),
        ({"a_stride": 48}, ErrorCode.WINDOW),
        ({"b_address": 0x30000}, ErrorCode.OK),
    ):
        op = replace(op, **change)
        assert code(op) == expected
