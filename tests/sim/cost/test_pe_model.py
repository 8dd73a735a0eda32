"""The PE-stepping model: its products are exact, and its clocks are those of the closed formulas."""

import numpy as np
import pytest
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Dataflow
from systolora.sim.cost.pe_model import ArrayControl, PeArray, TileRun, run_output_stationary, run_weight_stationary
from systolora.sim.functional.counts import array_time

CASES = 300
RUN = {Dataflow.WEIGHT_STATIONARY: run_weight_stationary, Dataflow.OUTPUT_STATIONARY: run_output_stationary}


def _random_matrix(random, shape):
    """int8 values of the whole range, with more extremes than chance gives."""
    values = random.integers(-128, 128, shape)
    return np.where(random.random(shape) < 0.1, random.choice([-128, 127, 0], shape), values).astype(np.int8)


def _config(rows, cols, bus=16):
    sizes = {"input_bytes": 2048 * rows, "weight_bytes": 8192 * cols, "output_bytes": 32768 * cols}
    return ArrayConfig(rows=rows, cols=cols, bus_bytes=bus, **sizes)


def _check(run: TileRun, a, b, config, dataflow):
    case = (config.rows, config.cols, config.bus_bytes, a.shape, b.shape, dataflow)
    expected = array_time(config, dataflow, a.shape[0], b.shape[1], a.shape[1])
    assert run.c.dtype == np.int32
    np.testing.assert_array_equal(run.c, a.astype(np.int32) @ b.astype(np.int32), err_msg=str(case))
    assert (run.cycles, run.busy) == (expected.cycles, expected.busy), case


@pytest.mark.parametrize("dataflow", list(RUN))
def test_products_and_clocks_on_random_tiles(dataflow):
    random = np.random.default_rng(20_261_122)
    for _ in range(CASES):
        rows, cols = int(random.choice([4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 24])), int(random.integers(4, 9))
        tile_m, tile_k, tile_n = random.integers(1, 40, 3)
        a, b = _random_matrix(random, (tile_m, tile_k)), _random_matrix(random, (tile_k, tile_n))
        config = _config(rows, cols)
        _check(RUN[dataflow](a, b, config), a, b, config, dataflow)


@pytest.mark.parametrize("dataflow", list(RUN))
@pytest.mark.parametrize(("rows", "bus"), [(32, 16), (64, 16), (64, 32), (64, 64), (40, 16), (17, 4)])
def test_larger_arrays_and_wider_bands(dataflow, rows, bus):
    random = np.random.default_rng(rows + bus)
    config = _config(rows, 4, bus)
    for tile_m, tile_k, tile_n in ((1, 1, 1), (rows + 1, rows + 1, 5), (2 * rows, 77, 4), (3, 3 * rows, 9)):
        a, b = _random_matrix(random, (tile_m, tile_k)), _random_matrix(random, (tile_k, tile_n))
        _check(RUN[dataflow](a, b, config), a, b, config, dataflow)


@pytest.mark.parametrize("dataflow", list(RUN))
@pytest.mark.parametrize("value", [-128, 127])
def test_extreme_operands(dataflow, value):
    a, b = np.full((9, 40), value, np.int8), np.full((40, 13), -128, np.int8)
    _check(RUN[dataflow](a, b, _config(8, 6)), a, b, _config(8, 6), dataflow)


def test_a_load_and_a_swap_go_down_a_row_a_clock():
    array = PeArray(_config(4, 4))
    word, ones = np.zeros(4, np.int8), np.ones(4, np.int8)
    for row in range(4):
        array.step(word, (row + 1) * ones, ArrayControl(False, load=row == 0))
    assert array.shadow[:, 0].tolist() == [1, 2, 3, 4]
    assert not array.active.any()
    for row in range(4):
        array.step(word, ones, ArrayControl(False, swap=row == 0))
        assert array.active.any(axis=1).tolist() == [r <= row for r in range(4)]


def test_shadow_weights_are_read_before_they_are_loaded():
    array = PeArray(_config(4, 4))
    ones = np.ones(4, np.int8)
    array.step(ones, ones, ArrayControl(False, load=True))
    array.step(ones, 5 * ones, ArrayControl(False, load=True, swap=True))
    assert array.active[0].tolist() == [1] * 4
    assert array.shadow[0].tolist() == [5] * 4


def test_a_sum_is_at_the_bottom_after_a_chain_and_an_adder_a_group():
    config = _config(17, 4)
    array = PeArray(config)
    word, weight = np.zeros(17, np.int8), np.zeros(4, np.int8)
    tags = [array.step(word, weight, ArrayControl(False, tag=clock)).tag for clock in range(20)]
    assert tags == [-1] * config.pass_clocks + list(range(20 - config.pass_clocks))
    assert config.pass_clocks == 8 + 3
