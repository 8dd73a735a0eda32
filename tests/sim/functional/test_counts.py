"""The closed formulas against counting one by one: every step, every bus word, every clock of the schedule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from systolora.hls.check import RESULT_BYTES
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import (
    Axis,
    Dataflow,
    End,
    Fence,
    Gemm,
    LoopOrder,
    OperandA,
    Quantize,
    Result,
    ScaleMode,
    Source,
)
from systolora.hls.registers import Counters
from systolora.sim.functional import reference
from systolora.sim.functional.counts import array_time, count_instruction, input_tile_words, tile_steps
from systolora.sim.functional.randoms import random_gemm, random_patches

SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.integers(1, 200)


def words(first: int, last: int, size: int, bus: int) -> int:
    """Bus words that elements first .. last - 1 of an aligned row touch."""
    return (last * size - 1) // bus - first * size // bus + 1


def count_by_hand(config: ArrayConfig, op: Gemm) -> Counters:
    """Takes the steps and looks at every row and vector that each of them moves."""
    bus = config.bus_bytes
    exists = patch_mask(op) if op.a_form == OperandA.PATCHES else None
    total = Counters(program_words=128 // bus)
    for s in tile_steps(op):
        time = array_time(config, op.dataflow, s.m1 - s.m0, s.n1 - s.n0, s.k1 - s.k0)
        a = b = vectors = results = 0
        if s.load_a and exists is not None:
            a = int(exists[s.m0 : s.m1, s.k0 : s.k1 : bus].sum())
        elif s.load_a and op.transpose_a:
            a = sum(words(s.m0, s.m1, 1, bus) for _ in range(s.k0, s.k1))
        elif s.load_a:
            a = sum(words(s.k0, s.k1, 1, bus) for _ in range(s.m0, s.m1))
        if s.load_b and op.transpose_b:
            b = sum(words(s.k0, s.k1, 1, bus) for _ in range(s.n0, s.n1))
        elif s.load_b:
            b = sum(words(s.n0, s.n1, 1, bus) for _ in range(s.k0, s.k1))
        if s.last_k:
            results = sum(words(s.n0, s.n1, RESULT_BYTES[op.result], bus) for _ in range(s.m0, s.m1))
            for mode, span in ((op.scale_a, (s.m0, s.m1)), (op.scale_b, (s.n0, s.n1))):
                vectors += {ScaleMode.NONE: 0, ScaleMode.TENSOR: 1}.get(mode, words(*span, 4, bus))
            vectors += words(s.n0, s.n1, 4, bus) if op.bias else 0
        total += Counters(time.cycles, time.busy, a, b, vectors, results if op.accumulate else 0, results)
    return total


def patch_mask(op: Gemm) -> np.ndarray:
    """Which elements of the implicit GEMM's A come from a pixel that exists."""
    images = op.m // (op.out_height * op.out_width)
    image = np.ones((images, op.image_height, op.image_width, op.channels), np.int8)
    out, kernel = (op.out_height, op.out_width), (op.kernel_height, op.kernel_width)
    return reference.gather_patches(image, out, kernel, op.step, (op.pad_top, op.pad_left)) == 1


def some_config(rng: np.random.Generator) -> ArrayConfig:
    rows, cols = int(rng.integers(4, 33)), int(rng.integers(4, 33))
    return ArrayConfig(
        rows=rows,
        cols=cols,
        bus_bytes=int(rng.choice([4, 8, 16, 32, 64])),
        input_bytes=2 * rows * 4000,
        weight_bytes=2 * cols * 4000,
        output_bytes=8 * cols * 4000,
    )


@settings(max_examples=150, deadline=None)
@given(seed=SEEDS, m=SIZES, n=SIZES, k=SIZES)
def test_gemm_counts_are_the_sum_of_its_steps(seed: int, m: int, n: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    config = some_config(rng)
    op = random_gemm(config, rng, m, n, k)
    assert count_instruction(config, op) == count_by_hand(config, op)


@settings(max_examples=100, deadline=None)
@given(seed=SEEDS, n=st.integers(1, 60))
def test_convolution_counts_only_pixels_that_exist(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    config = some_config(rng)
    op = random_patches(config, rng, n)
    assert count_instruction(config, op) == count_by_hand(config, op)
    m0 = int(rng.integers(op.m))
    part = int(patch_mask(op)[m0:, :: config.bus_bytes].sum())
    assert input_tile_words(config, op, m0, op.m, 0, op.k) == part


@settings(max_examples=100, deadline=None)
@given(seed=SEEDS, m=SIZES, n=SIZES, k=SIZES)
def test_steps_cover_the_gemm_once_and_load_only_what_changed(seed: int, m: int, n: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    op = random_gemm(some_config(rng), rng, m, n, k)
    covered = np.zeros((m, n), int)
    on_chip_a: object = None
    on_chip_b: object = None
    for s in tile_steps(op):
        a, b = (s.m0, s.m1, s.k0, s.k1), (s.k0, s.k1, s.n0, s.n1)
        assert s.load_a == (a != on_chip_a) and s.load_b == (b != on_chip_b)
        on_chip_a, on_chip_b = a, b
        covered[s.m0 : s.m1, s.n0 : s.n1] += s.k1 - s.k0
        assert s.last_k == (s.k1 == k) and s.first_k == (s.k0 == 0)
    assert (covered == k).all()


@pytest.mark.parametrize("dataflow", Dataflow)
@pytest.mark.parametrize("rows", [4, 8, 64])
@pytest.mark.parametrize("tile", [(1, 1, 1), (3, 20, 130), (64, 64, 64), (200, 65, 9)])
def test_array_time_is_the_end_of_the_schedule(dataflow: Dataflow, rows: int, tile: tuple[int, int, int]) -> None:
    """The clock after the last sum is at the bottom, by the schedule that docs/architecture.md gives block by block."""
    tile_m, tile_n, tile_k = tile
    config = ArrayConfig(rows=rows, cols=16)
    column_blocks = -(-tile_n // 16)
    chain, groups, band = {4: (4, 1, 4), 8: (8, 1, 8), 64: (8, 8, 16)}[rows]
    end = busy = 0
    if dataflow == Dataflow.WEIGHT_STATIONARY:
        lead = rows - chain - groups + 2
        for block in range(-(-tile_k // rows) * column_blocks):
            first = lead + block * max(tile_m, rows, 8)
            end = first + (tile_m - 1) + chain + groups + 1
            busy += tile_m
    else:
        in_band, depth = band // chain, -(-tile_k // band) * band
        lead = band - chain - in_band + 2
        for block in range(-(-tile_m // rows) * column_blocks):
            # The first row's sum needs the last round of k; it passes the other bands, and the rows follow one by one.
            round_begins = lead + block * max(depth, rows) + depth - band
            end = round_begins + chain + in_band + (rows // band - 1) + (rows - 1) + 1
            busy += depth
    time = array_time(config, dataflow, tile_m, tile_n, tile_k)
    assert (time.cycles, time.busy) == (end, busy)


def test_a_text_key_projection_by_hand() -> None:
    """77 x 320 x 768 on 64 x 64, one tile: 12 x 5 blocks of 77 clocks, and 64 + 2 to fill and to drain."""
    op = Gemm(
        *(77, 320, 768, 77, 320, 768, 0, 0, 0, 768, 768, 1280),
        transpose_b=True,
        result=Result.FLOAT32,
        scale_a=ScaleMode.VECTOR,
        scale_b=ScaleMode.TENSOR,
    )
    counters = count_instruction(ArrayConfig(), op)
    assert counters == Counters(
        array_cycles=59 * 77 + 77 + 64 + 2,
        busy_cycles=60 * 77,
        input_words=77 * 48,
        weight_words=320 * 48,
        vector_words=20 + 1,
        result_words_stored=77 * 80,
        program_words=8,
    )
    assert counters.words_read == 77 * 48 + 320 * 48 + 21 + 8


def test_reuse_loads_no_a() -> None:
    op = Gemm(8, 64, 16, 8, 16, 16, 0, 0, 0, 16, 64, 256)
    config = ArrayConfig()
    fresh, reused = count_instruction(config, op), count_instruction(config, replace(op, reuse_a=True))
    assert reused == replace(fresh, input_words=0)
    assert not any(step.load_a for step in tile_steps(replace(op, reuse_a=True)))


@pytest.mark.parametrize(("order", "a_passes", "b_passes"), [(LoopOrder.M_OUTER, 1, 4), (LoopOrder.N_OUTER, 2, 1)])
def test_the_outer_loop_keeps_its_operand(order: LoopOrder, a_passes: int, b_passes: int) -> None:
    op = Gemm(64, 32, 16, 16, 16, 16, 0, 0, 0, 16, 32, 128, loop_order=order)
    counters = count_instruction(ArrayConfig(), op)
    assert counters.input_words == a_passes * 64
    assert counters.weight_words == b_passes * 16 * 2


@pytest.mark.parametrize("source", Source)
@pytest.mark.parametrize(("axis", "scale_words"), [(Axis.TENSOR, 1), (Axis.ROW, 3), (Axis.COLUMN, 5)])
def test_quantize_counts(source: Source, axis: Axis, scale_words: int) -> None:
    op = Quantize(10, 18, 0, 0, 80, 32, 0, source=source, axis=axis, multiply=True)
    row = {Source.FLOAT32: 5, Source.BFLOAT16: 3}[source]
    passes = 1 if axis == Axis.ROW else 2
    expected = Counters(
        vector_words=5, source_words=passes * 10 * row, quantized_words=20 + scale_words, program_words=8
    )
    assert count_instruction(ArrayConfig(), op) == expected
    stopped = Counters(vector_words=5, source_words=10 * row, program_words=8)
    assert count_instruction(ArrayConfig(), op, nonfinite=True) == (expected if axis == Axis.ROW else stopped)


@pytest.mark.parametrize("source", Source)
def test_rows_that_the_input_memory_holds_are_read_once(source: Source) -> None:
    config = ArrayConfig(rows=40, cols=8, input_bytes=2 * 40 * 24)
    assert config.row_words == 24 * 2, "a word of 40 bytes keeps two of 16"
    n = 48 * (8 if source == Source.BFLOAT16 else 4)
    for columns, words in ((n, 3 * 48), (n + 1, 2 * 3 * 49)):
        op = Quantize(3, columns, 0, 0, 0, 0, 0, source=source, axis=Axis.ROW)
        assert count_instruction(config, op).source_words == words
    assert config.with_changes(rows=8).row_words == 0, "a word of 8 bytes keeps none"


def test_fence_and_end_cost_their_fetch() -> None:
    for op in (Fence(), End()):
        assert count_instruction(ArrayConfig(bus_bytes=64), op) == Counters(program_words=2)
