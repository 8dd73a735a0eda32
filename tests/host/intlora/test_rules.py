"""IntLoRA's rules: the integers against the paper's formulas written in float, and what each remedy mends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from systolora.errors import UserError
from systolora.intlora.auxiliary import auxiliary, layer_seed, matching_factor
from systolora.intlora.rules import INT8_LIMIT, MulRule, ShiftRule, make_rule
from systolora.intlora.settings import DISTRIBUTIONS, METHODS, RATIOS, REMEDIES, IntLoraSettings, parse_remedies

some_remedies = st.lists(st.sampled_from(sorted(REMEDIES)), unique=True).map(tuple)


def tensors(seed: int, out: int = 12, inner: int = 20, strength: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """A weight, and a low-rank product of `strength` times its deviation."""
    generator = np.random.default_rng(seed)
    weight = (0.05 * generator.standard_normal((out, inner))).astype(np.float32)
    product = generator.standard_normal((out, 3)) @ generator.standard_normal((3, inner))
    return weight, (product * (strength * weight.std() / product.std())).astype(np.float32)


def term_in_float(rule: MulRule | ShiftRule, weight: np.ndarray, product: np.ndarray, name: str) -> np.ndarray:
    """U = s + (R + AB) / Wi from the formulas, with R made anew from the seed."""
    chosen = rule.settings
    r0 = auxiliary(layer_seed(chosen.seed, name), *weight.shape, chosen.distribution, chosen.spread)
    r = (matching_factor(weight, r0, chosen.ratio, chosen.exponent)[:, None] * r0).astype(np.float32)
    integers = rule.frozen.integers
    return rule.frozen.grid.scale[:, None] + (r + product) / np.where(integers == 0, 1, integers).astype(np.float32)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 1000),
    bits=st.integers(2, 8),
    remedies=some_remedies,
    symmetric=st.booleans(),
    distribution=st.sampled_from(DISTRIBUTIONS),
    ratio=st.sampled_from(RATIOS),
)
def test_mul_is_the_formula_of_the_paper(
    seed: int, bits: int, remedies: tuple[str, ...], symmetric: bool, distribution: str, ratio: str
) -> None:
    weight, product = tensors(seed)
    chosen = IntLoraSettings(
        "mul", bits, seed, distribution=distribution, ratio=ratio, symmetric=symmetric, remedies=remedies
    )
    rule = make_rule(weight, chosen, "layer")
    assert isinstance(rule, MulRule)
    term, grid = term_in_float(rule, weight, product, "layer"), rule.term_grid
    level = np.clip(np.rint(term / grid.scale[:, None]) + grid.zero[:, None], 0, 2**bits - 1) - grid.zero[:, None]
    value = level * rule.frozen.integers
    if "range" in remedies:
        value = np.clip(np.floor(value / 2.0 ** rule.narrowing[:, None] + 0.5), -INT8_LIMIT, INT8_LIMIT)
    scale = np.ldexp(grid.scale, rule.narrowing)
    adapted = rule.apply(product)
    assert (adapted.weight.real() == value.astype(np.float32) * scale[:, None]).all()
    merged = rule.merge(rule.codes(product))
    assert (merged.values == adapted.weight.values).all() and (merged.scale == adapted.weight.scale).all()


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), bits=st.integers(2, 8), remedies=some_remedies, span=st.integers(0, 12))
def test_shift_is_the_formula_of_the_paper_with_bounded_exponents(
    seed: int, bits: int, remedies: tuple[str, ...], span: int
) -> None:
    weight, product = tensors(seed)
    rule = make_rule(weight, IntLoraSettings("shift", bits, seed, remedies=remedies, span=span), "layer")
    assert isinstance(rule, ShiftRule)
    term = term_in_float(rule, weight, product, "layer")
    ratio = np.abs(term / rule.row_scale[:, None])
    top = rule.top[:, None]
    exponent = np.clip(np.rint(np.log2(np.maximum(ratio, 1e-30))), top - rule.settings.shift_span, top)
    real = np.sign(term) * rule.row_scale[:, None] * 2.0**exponent * rule.frozen.integers
    adapted = rule.apply(product)
    if "range" in remedies:
        unit = adapted.weight.scale[:, None]
        real = np.clip(np.floor(real / unit + 0.5), -INT8_LIMIT, INT8_LIMIT) * unit
    assert np.allclose(adapted.weight.real(), real, rtol=1e-6, atol=0)
    merged = rule.merge(rule.codes(product))
    assert (merged.values == adapted.weight.values).all() and (merged.scale == adapted.weight.scale).all()


@pytest.mark.parametrize("method", METHODS)
def test_the_gain_is_the_slope_of_the_weight(method: str) -> None:
    """Averaged over many small steps of AB, the weight moves as the straight-through gradient says."""
    weight, product = tensors(5, 40, 200, 0.05)
    rule = make_rule(weight, IntLoraSettings(method, 8, remedies=("scale",)), "layer")
    inside = np.abs(rule.frozen.integers) >= 8
    step = np.float32(weight.std())
    before, after = (rule.apply(product + sign * step) for sign in (np.float32(-1), np.float32(1)))
    inside &= (before.gain > 0) & (after.gain > 0)
    slope = (after.weight.real() - before.weight.real())[inside] / (2 * step)
    assert inside.mean() > 0.5
    assert slope.mean() == pytest.approx(rule.apply(product).gain[inside].mean(), rel=0.06)


def test_the_papers_form_has_dead_weights_and_the_remedy_has_none() -> None:
    weight, product = tensors(1, 64, 128)
    paper = make_rule(weight, IntLoraSettings("mul", 4).paper(), "layer")
    dead = paper.frozen.integers == 0
    assert 0.08 < dead.mean() < 0.3
    adapted = paper.apply(product)
    assert (adapted.weight.values[dead] == 0).all() and (adapted.gain[dead] == 0).all()
    mended = make_rule(weight, IntLoraSettings("mul", 4, remedies=("zeros", "scale")), "layer")
    assert (mended.frozen.integers != 0).all()
    assert (mended.apply(product).weight.values == 0).mean() < dead.mean() / 3


@pytest.mark.parametrize("bits", [4, 8])
def test_shift_starts_off_and_the_remedy_brings_it_near(bits: int) -> None:
    weight, product = tensors(2, 64, 128, 0)
    errors = {}
    for remedies in ((), ("scale",)):
        rule = make_rule(weight, IntLoraSettings("shift", bits, remedies=remedies, exponent=2.0), "layer")
        errors[remedies] = relative(rule.apply(product).weight.real(), weight)
    assert errors[()] > 0.12 and errors["scale",] < 0.8 * errors[()]


@pytest.mark.parametrize("method", METHODS)
def test_the_range_remedy_keeps_the_product_in_int8(method: str) -> None:
    weight, product = tensors(3, 32, 64)
    wide = make_rule(weight, IntLoraSettings(method, 8).paper(), "layer").apply(product).weight
    narrow = make_rule(weight, IntLoraSettings(method, 8), "layer").apply(product).weight
    assert np.abs(wide.values).max() > 1000 and np.abs(narrow.values).max() <= INT8_LIMIT
    assert relative(narrow.real(), weight + product) < (0.1 if method == "mul" else 0.25)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("method", METHODS)
def test_headroom_leaves_room_for_products_to_come(method: str, bits: int) -> None:
    """Where AB has gone as far as was expected, the weights follow it better, and fewer of them get no gradient."""
    weight, _ = tensors(6, 64, 128)
    reach = IntLoraSettings(method, bits).reach
    assert reach == (0.25 if bits == 4 else 0.5)
    signs = np.random.default_rng(6).choice([-1, 1], weight.shape)
    product = (signs * reach * weight.std(1, keepdims=True)).astype(np.float32)
    errors, stopped = {}, {}
    for remedies in (("zeros", "scale", "range"), ("zeros", "scale", "range", "headroom")):
        adapted = make_rule(weight, IntLoraSettings(method, bits, remedies=remedies), "layer").apply(product)
        errors[remedies] = relative(adapted.weight.real(), weight + product)
        stopped[remedies] = (adapted.gain == 0).mean()
    (error, error_with), (none, none_with) = errors.values(), stopped.values()
    assert error_with < error and none_with < none


def test_a_calibration_with_the_product_follows_it() -> None:
    weight, product = tensors(4, 32, 64, 2.0)
    rule = make_rule(weight, IntLoraSettings("mul", 4), "layer")
    before = relative(rule.apply(product).weight.real(), weight + product)
    rule.calibrate(product)
    assert relative(rule.apply(product).weight.real(), weight + product) < 0.7 * before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 9}, "bits = 9: allowed are 2 to 8"),
        ({"method": "add"}, "method = 'add': allowed are mul, shift"),
        ({"distribution": "cauchy"}, "distribution = 'cauchy'"),
        ({"ratio": "max"}, "ratio = 'max': allowed are range, variance"),
        ({"spread": 0.0}, "spread = 0.0 must be above 0"),
        ({"span": 16}, "span = 16 from 0 to 15"),
        ({"headroom": -0.5}, "headroom = -0.5 not below 0"),
    ],
)
def test_bad_settings_get_one_line(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        IntLoraSettings(**change)


def test_remedies_are_read_from_text() -> None:
    assert parse_remedies("all") == tuple(REMEDIES) and parse_remedies("none") == ()
    assert parse_remedies("zeros, range") == ("zeros", "range")
    with pytest.raises(UserError, match="there is no 'zero'; allowed are all, none"):
        parse_remedies("zero")


def test_settings_survive_a_file() -> None:
    chosen = IntLoraSettings("shift", 5, 3, remedies=("range",), exponent=1.25, span=4)
    assert IntLoraSettings.from_dict(chosen.as_dict()) == chosen
