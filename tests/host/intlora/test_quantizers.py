"""IntLoRA's quantizers against brute force, and the auxiliary matrix's bits."""

from __future__ import annotations

import hashlib
import math
from decimal import Context, Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from systolora.intlora.auxiliary import LARGEST_SHARE, auxiliary, layer_seed, limited_factor, matching_factor
from systolora.intlora.powers import ERROR_POWER, exact_power, row_error
from systolora.intlora.quantizers import FACTORS, code_range, grid_of_range, rounded_log2, search_grid
from systolora.intlora.rules import make_rule
from systolora.intlora.settings import METHODS, IntLoraSettings

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
@pytest.mark.parametrize("odd", [False, True])
def test_a_row_of_one_value_is_exact(value: float, symmetric: bool, odd: bool) -> None:
    if odd and not value:
        pytest.skip("a grid of odd integers has no zero")
    x = np.full((2, 8), value, np.float32)
    grid = search_grid(x, 4, symmetric=symmetric, odd=odd)
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


@settings(deadline=None, max_examples=200)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20))
def test_row_errors_are_the_stated_power(values: list[float]) -> None:
    """Against the power in 40 digits, from the least normal float32 to the largest: where float32's own is 0 or infinite too."""
    found = row_error(np.array([values], np.float32))[0]
    if any(math.isinf(value) for value in values):
        assert math.isinf(found)
        return
    context = Context(prec=40)
    parts = [context.power(abs(Decimal(value)), Decimal(12) / 5) for value in values if abs(value) >= 2.0**-126]
    assert found == pytest.approx(float(sum(parts, Decimal(0))), rel=3e-8)


def test_row_errors_have_the_pinned_bits_in_every_shape() -> None:
    """No power of numpy's is in it, whose last bits depend on the CPU's vector instructions; so these bits hold everywhere."""
    x = np.random.default_rng(0).integers(-(2**24), 2**24, (70, 300)).astype(np.float32) * np.float32(2.0**-20)
    errors = row_error(x)
    assert (
        hashlib.blake2b(errors.astype("<f8").tobytes(), digest_size=16).hexdigest()
        == "d32d08acee108d115c50617bc047a407"
    )
    assert all(np.array_equal(row_error(x[row : row + 1]), errors[row : row + 1]) for row in (0, 53, 54, 69))
    assert row_error(np.zeros((0, 3), np.float32)).shape == (0,)


def test_merged_integers_have_the_pinned_bits() -> None:
    """From seed to integers, with every remedy; a change breaks every stored adapter."""
    weight = np.random.default_rng(1).integers(-1000, 1000, (24, 40)).astype(np.float32) * np.float32(2.0**-13)
    state = hashlib.blake2b(digest_size=16)
    for method in METHODS:
        for chosen in (IntLoraSettings(method, 4), IntLoraSettings(method, 8).paper()):
            found = make_rule(weight, chosen, "layer").apply(np.zeros_like(weight)).weight
            state.update(found.values.astype("<i4").tobytes())
            state.update(found.scale.astype("<f4").tobytes())
    assert state.hexdigest() == "d72dbff7e88ad8696218ee5ecc057336"


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.5, 100.0])
def test_powers_of_the_matching_are_exact(exponent: float) -> None:
    x = np.array([0.0, 2.0**-60, 0.25, 1.0, 4.0, 2.0**60])
    wanted = [float(value) ** exponent if exponent < 100 or value <= 4 else math.inf for value in x]
    assert exact_power(x, exponent).tolist() == wanted


def test_a_factor_is_limited_to_its_row() -> None:
    weight, r0 = 0.05 * rows(3), auxiliary(1, 6, 40)
    factor = matching_factor(weight, r0, "variance", 1.5)
    assert (limited_factor(factor, weight, r0, 1.5) == factor).all()
    weight[2, 7], weight[4] = 1e6, 0
    factor = matching_factor(weight, r0, "variance", 1.5)
    r = limited_factor(factor, weight, r0, 1.5)[:, None] * r0
    assert (np.abs(r).max(1) <= LARGEST_SHARE * np.maximum(np.abs(weight).max(1), 0.2)).all() and np.abs(r[4]).max() > 0


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
