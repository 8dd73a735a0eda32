"""The tiling is legal for every shape and array, agrees with the counts, and is not far from the best."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from systolora.hls.check import ErrorCode, Region, Surroundings, check_instruction, round_up
from systolora.hls.config import MAX_K, MAX_MEMORY_WORDS, ArrayConfig
from systolora.hls.isa import MAX_DIMENSION, Dataflow, Gemm, LoopOrder, Result
from systolora.programs.tiling import Tiling, choose_tiling
from systolora.sim.functional.counts import count_instruction

AROUND = Surroundings(Region(0, 1 << 62), Region(0, 128), Region(128, 128))


def instruction(config: ArrayConfig, m: int, n: int, k: int, tiling: Tiling, **options: object) -> Gemm:
    bus = config.bus_bytes
    rows_a, cols_a = (k, m) if options.get("transpose_a") else (m, k)
    rows_b, cols_b = (n, k) if options.get("transpose_b") else (k, n)
    strides = {
        "a_stride": round_up(cols_a, bus),
        "b_stride": round_up(cols_b, bus),
        "c_stride": round_up(4 * n, bus),
    }
    a_address = 1 << 20
    b_address = a_address + round_up(rows_a * strides["a_stride"], 64)
    c_address = b_address + round_up(rows_b * strides["b_stride"], 64)
    return Gemm(
        m=m,
        n=n,
        k=k,
        a_address=a_address,
        b_address=b_address,
        c_address=c_address,
        **strides,
        **vars(tiling),
        **options,  # type: ignore[arg-type]
    )


@st.composite
def configs(draw: st.DrawFn) -> ArrayConfig:
    rows, cols = draw(st.integers(4, 256)), draw(st.integers(4, 256))
    bus = draw(st.sampled_from([4, 8, 16, 32, 64]))
    # Twice the least: output-stationary whole bands need a little more. A half holds at most 65,536 words.
    leasts = [2 * max(16, -(-bus // lanes) * bus) for lanes in (rows, cols, cols)]
    depths = [least * draw(st.integers(1, min(40, MAX_MEMORY_WORDS // least))) for least in leasts]
    return ArrayConfig(
        rows=rows,
        cols=cols,
        bus_bytes=bus,
        input_bytes=2 * rows * depths[0],
        weight_bytes=2 * cols * depths[1],
        output_bytes=8 * cols * depths[2],
    )


dimensions = st.one_of(
    st.integers(1, 300), st.integers(1, 70_000), st.sampled_from([1, 2, 7, 13, 64, 127, 4096, 9973, MAX_DIMENSION])
)


@settings(max_examples=100, deadline=None)
@given(configs(), dimensions, dimensions, st.one_of(dimensions, st.just(MAX_K)), st.booleans(), st.booleans())
def test_every_shape_is_legal_on_every_array(
    config: ArrayConfig, m: int, n: int, k: int, transpose_a: bool, transpose_b: bool
) -> None:
    k = min(k, MAX_K)
    tiling = choose_tiling(config, m, n, k, transpose_a=transpose_a, transpose_b=transpose_b, result=Result.INT32)
    op = instruction(config, m, n, k, tiling, transpose_a=transpose_a, transpose_b=transpose_b)
    assert check_instruction(config, AROUND, op, None) == ErrorCode.OK


@pytest.mark.parametrize("shape", [(77, 320, 768), (77, 4, 768), (4096, 320, 320), (4, 320, 4096), (320, 4, 77)])
@pytest.mark.parametrize("rows", [16, 64])
def test_the_choice_is_near_the_best_cube(shape: tuple[int, int, int], rows: int) -> None:
    """Against every cube of one size that is legal, by a bound on the clocks made from the exact counters."""
    config = ArrayConfig(rows=rows, cols=rows)
    best, chosen = inf, clocks(config, shape, choose_tiling(config, *shape))
    for size in (16, 32, 64, 128, 256, 512, 1024):
        tiles = tuple(min(size, length) for length in shape)
        for flow in Dataflow:
            for order in LoopOrder:
                tiling = Tiling(flow, order, *tiles)
                if check_instruction(config, AROUND, instruction(config, *shape, tiling), None) == ErrorCode.OK:
                    best = min(best, clocks(config, shape, tiling))
    assert chosen <= 1.05 * best


def clocks(config: ArrayConfig, shape: tuple[int, int, int], tiling: Tiling) -> float:
    counters = count_instruction(config, instruction(config, *shape, tiling, result=Result.FLOAT32))
    return max(
        counters.array_cycles, counters.input_words, counters.weight_words, counters.result_words_stored
    ) + 0.02 * (counters.array_cycles + counters.words_read + counters.words_written)


def test_dataflow_follows_the_shape() -> None:
    """Tokens that do not fill the array on m: weights stay, 100 clocks a block against 128. A little more than whole blocks of k:
    sums stay, for k enters by 16 and not by 64."""
    config = ArrayConfig()
    assert choose_tiling(config, 100, 640, 640).dataflow == Dataflow.WEIGHT_STATIONARY
    assert choose_tiling(config, 320, 320, 4112, transpose_a=True).dataflow == Dataflow.OUTPUT_STATIONARY
    assert choose_tiling(config.with_changes(dataflows=("ws",)), 320, 320, 4112).dataflow == Dataflow.WEIGHT_STATIONARY


def test_it_is_cached_per_question() -> None:
    config = ArrayConfig()
    assert choose_tiling(config, 33, 34, 35) is choose_tiling(config, 33, 34, 35)
    assert choose_tiling(config, 33, 34, 35) is not choose_tiling(config, 33, 34, 35, transpose_a=True)


def test_a_dataflow_that_the_hardware_does_not_have_is_refused() -> None:
    alone = ArrayConfig(dataflows=("ws",))
    with pytest.raises(
        ValueError, match=r"^dataflow output-stationary: this hardware is built for weight-stationary alone; choose"
    ):
        choose_tiling(alone, 64, 64, 64, dataflow=Dataflow.OUTPUT_STATIONARY)
    assert choose_tiling(alone, 64, 64, 64, dataflow=Dataflow.WEIGHT_STATIONARY) == choose_tiling(alone, 64, 64, 64)
