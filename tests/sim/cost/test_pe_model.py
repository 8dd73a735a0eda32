"""The PE-stepping model: its products are exact, and its clocks are those of the closed formulas."""

import numpy as np
import pytest
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Dataflow
from systolora.sim.cost.pe_model import ArrayControl, PeArray, TileRun, run_output_stationary, run_weight_stationary
from systolora.sim.functional.counts import array_time

CASES = 1000
RUN = {Dataflow.WEIGHT_STATIONARY: run_weight_stationary, Dataflow.OUTPUT_STATIONARY: run_output_stationary}


def _random_matrix(random, shape):
    """int8 values of the whole range, with more extremes than chance gives."""
    values = random.integers(-128, 128, shape)
    return np.where(random.random(shape) < 0.1, random.choice([-128, 127, 0], shape), values).astype(np.int8)


def _config(rows, cols):
    return ArrayConfig(rows=rows, cols=cols, input_bytes=128 * rows, weight_bytes=128 * cols, output_bytes=512 * cols)


def _check(run: TileRun, a, b, rows, cols, dataflow):
    case = (rows, cols, a.shape, b.shape, dataflow)
    expected = array_time(_config(rows, cols), dataflow, a.shape[0], b.shape[1], a.shape[1])
    assert run.c.dtype == np.int32
    np.testing.assert_array_equal(run.c, a.astype(np.int32) @ b.astype(np.int32), err_msg=str(case))
    assert (run.cycles, run.busy) == (expected.cycles, expected.busy), case


@pytest.mark.parametrize("dataflow", list(RUN))
def test_products_and_clocks_on_random_tiles(dataflow):
    random = np.random.default_rng(20_261_122)
    for _ in range(CASES):
        rows, cols = random.integers(4, 13, 2)
        tile_m, tile_k, tile_n = random.integers(1, 30, 3)
        a, b = _random_matrix(random, (tile_m, tile_k)), _random_matrix(random, (tile_k, tile_n))
        _check(RUN[dataflow](a, b, int(rows), int(cols)), a, b, int(rows), int(cols), dataflow)


@pytest.mark.parametrize("dataflow", list(RUN))
@pytest.mark.parametrize("value", [-128, 127])
def test_extreme_operands(dataflow, value):
    a, b = np.full((9, 40), value, np.int8), np.full((40, 13), -128, np.int8)
    _check(RUN[dataflow](a, b, 8, 6), a, b, 8, 6, dataflow)


def test_a_swap_moves_down_with_its_word():
    array = PeArray(4, 4)
    word, ones = np.zeros(4, np.int8), np.ones(4, np.int8)
    for row in range(4):
        array.step(word, ones, ArrayControl(False, load_row=row))
    assert not array.active.any()
    for row in range(4):
        array.step(word, ones, ArrayControl(False, swap=row == 0))
        assert array.active.any(axis=1).tolist() == [r <= row for r in range(4)]


def test_shadow_weights_are_read_before_they_are_loaded():
    array = PeArray(4, 4)
    ones = np.ones(4, np.int8)
    array.step(ones, ones, ArrayControl(False, load_row=0))
    array.step(ones, 5 * ones, ArrayControl(False, load_row=0, swap=True))
    assert array.active[0].tolist() == [1] * 4
    assert array.shadow[0].tolist() == [5] * 4


def test_sums_drain_while_the_next_block_accumulates():
    array = PeArray(4, 4)
    ones = np.ones(4, np.int8)
    array.step(ones, ones, ArrayControl(True, first=True))
    lanes = np.arange(4, dtype=np.int8)
    bottoms = [array.step(lanes, ones, ArrayControl(True, last=True))]
    bottoms += [array.step(ones, ones, ArrayControl(True, first=clock == 0)) for clock in range(3)]
    assert [bottom.tolist() for bottom in bottoms] == [[1 + row] * 4 for row in (3, 2, 1, 0)]
    assert array.accumulator.tolist() == [[3] * 4] * 4
