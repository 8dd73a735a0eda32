"""IntLoRA's quantizers against brute force, and the auxiliary matrix's bits."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from systolora.intlora.auxiliary import auxiliary, layer_seed, matching_factor
from systolora.intlora.powers import ERROR_POWER
from systolora.intlora.quantizers import FACTORS, code_range, grid_of_range, rounded_log2, search_grid

# blake2b of the bytes of auxiliary(123456789, 40, 56, distribution, 0.5); a change breaks every stored adapter.
GOLDEN = {
    "laplace": "1440874d5e3f0d63e486f2e969914587",
    "normal": "ed9df87e20378dfe5b575fd6c559cf7b",
    "uniform": "69680679fff05ea2935fa1491c49e42a",
}
# Standard deviation over spread.
DEVIATION = {"laplace": math.sqrt(2), "normal": 1.0, "uniform": 1 / math.sqrt(3)}


def rows(seed: int, shape: tuple[int, int] = (6, 40)) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", range(2, 9))
def test_codes_are_the_nearest_that_exist(bits: int, symmetric: bool, odd: bool) -> None:
    x = rows(bits)
    grid = search_grid(x, bits, symmetric=symmetric, odd=odd)
    codes = grid.encode(x)
    every = np.arange(grid.low, grid.high + 1)
    assert len(every) <= 2**bits and codes.min() >= grid.low and codes.max() <= grid.high
    integers = grid.integers(np.broadcast_to(every.astype(np.int32), (len(x), len(every))))
    assert not odd or (integers % 2 != 0).all()
    distance = np.abs(x[:, :, None] - (integers * grid.scale[:, None].astype(np.float64))[:, None, :])
    chosen = np.take_along_axis(distance, (codes - grid.low)[:, :, None], 2)[:, :, 0]
    assert (chosen <= distance.min(2) * (1 + 1e-5) + 1e-7).all()


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_search_takes_the_least_error_of_all_candidates(bits: int, odd: bool) -> None:
    x = rows(1) ** 3
    found = search_grid(x, bits, odd=odd)
    for row, single in enumerate(x):
        errors = []
        for factor in FACTORS:
            low, high = (np.array([end * factor], np.float32) for end in (single.min(), single.max()))
            grid = grid_of_range(low, high, bits, False, odd)
            errors.append((np.abs(grid.decode(grid.encode(single[None])) - single) ** ERROR_POWER).sum())
        error = (np.abs(found.decode(found.encode(x))[row] - single) ** ERROR_POWER).sum()
        assert error == pytest.approx(min(errors), rel=1e-5)
    # Heavy tails are cut where codes are few.
    assert bits > 2 or min(errors) < errors[0]


@pytest.mark.parametrize("value", [0.0, 3.25, -3.25])
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_row_of_one_value_is_exact(value: float, symmetric: bool) -> None:
    x = np.full((2, 8), value, np.float32)
    grid = search_grid(x, 4, symmetric=symmetric)
    assert np.allclose(grid.decode(grid.encode(x)), x, rtol=1e-6)


def test_a_code_range_has_two_to_the_bits_codes() -> None:
    assert code_range(4, False, False) == (0, 15)
    assert code_range(4, True, False) == (-7, 7)
    assert code_range(4, True, True) == (-8, 7)


@settings(deadline=None, max_examples=300)
@given(st.floats(width=32, min_value=2.0**-120, max_value=2.0**120))
def test_rounded_log2_is_exact(value: float) -> None:
    assert rounded_log2(np.array([value], np.float32))[0] == round(math.log2(value))


def test_rounded_log2_at_the_edges() -> None:
    values = np.array([1, 2, 0.5, 1.4142135, 1.4142137, 0.0], np.float32)
    assert rounded_log2(values).tolist() == [0, 1, -1, 0, 1, -149]


@pytest.mark.parametrize("distribution", GOLDEN)
def test_the_auxiliary_matrix_has_the_pinned_bits(distribution: str) -> None:
    r = auxiliary(123456789, 40, 56, distribution)
    assert r.dtype == np.float32 and r.shape == (40, 56)
    assert hashlib.blake2b(r.astype("<f4").tobytes(), digest_size=16).hexdigest() == GOLDEN[distribution]


@pytest.mark.parametrize("distribution", GOLDEN)
def test_the_auxiliary_matrix_has_the_distribution_it_is_named_for(distribution: str) -> None:
    r = auxiliary(7, 400, 500, distribution, 0.5).astype(np.float64).ravel() / 0.5
    deviation = DEVIATION[distribution]
    assert abs(r.mean()) < 0.01 and r.std() == pytest.approx(deviation, rel=0.01)
    median = {"laplace": math.log(2), "normal": 0.6745, "uniform": 0.5}[distribution]
    assert np.median(np.abs(r)) == pytest.approx(median, rel=0.01)
    again = auxiliary(7, 400, 500, distribution, 0.5).ravel()
    other = auxiliary(8, 400, 500, distribution, 0.5).ravel()
    assert (again / 0.5 == r).all() and abs(np.corrcoef(again, other)[0, 1]) < 0.01


def test_layers_get_seeds_of_their_own() -> None:
    names = ["to_k", "to_v", "to_q"]
    assert len({layer_seed(seed, name) for seed in (0, 1) for name in names}) == 6


@pytest.mark.parametrize("ratio", ["range", "variance"])
def test_variance_matching_is_the_stated_power_of_the_stated_ratio(ratio: str) -> None:
    weight, r0 = 0.05 * rows(3), auxiliary(1, 6, 40)
    factor = matching_factor(weight, r0, ratio, 1.5)
    if ratio == "variance":
        wanted = np.array([(weight.std() / r0.std()) ** 1.5])
    else:
        wanted = (np.abs(weight).max(1) / np.minimum(r0.max(1), -r0.min(1))) ** 1.5
    assert factor == pytest.approx(wanted, rel=2**-8)
    mantissa, _ = np.frexp(factor)
    assert (mantissa * 256 == np.rint(mantissa * 256)).all()
