"""The reference against first principles: exact rationals, torch, and the statistics of its random numbers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from systolora.hls.isa import Axis, Result, Rounding, ScaleMode
from systolora.sim.functional import reference

FLOATS = st.floats(width=32, allow_subnormal=True)
NAN_BITS = 0x7FC00000


def bits(x: np.ndarray) -> list[int]:
    return np.asarray(x, np.float32).reshape(-1).view(np.uint32).tolist()


def exact_float32(value: Fraction) -> np.float32:
    """The float32 nearest to a rational, half to even, denormals to zero: by integer arithmetic alone."""
    if value == 0:
        return np.float32(0)
    magnitude = abs(value)
    exponent = max(-149, magnitude.numerator.bit_length() - magnitude.denominator.bit_length() - 25)
    while magnitude / Fraction(2) ** exponent >= 2**24:
        exponent += 1
    whole = round(magnitude / Fraction(2) ** exponent)  # Python rounds a half to even
    rounded = whole * Fraction(2) ** exponent
    if rounded >= 2**128:
        rounded = None
    elif rounded < Fraction(2) ** -126:
        rounded = Fraction(0)
    number = np.float32(np.inf) if rounded is None else np.float32(float(rounded))
    return -number if value < 0 else number


@given(FLOATS, FLOATS)
def test_multiply_and_add_are_one_rounding_of_the_exact_result(x: float, y: float) -> None:
    a, b = np.float32(x), np.float32(y)
    flushed = [reference.canonical(value) for value in (a, b)]
    if not all(np.isfinite(flushed)):
        return
    exact = [Fraction(float(value)) for value in flushed]
    product, total = reference.multiply(a, b), reference.add(a, b)
    assert abs(product) == abs(exact_float32(exact[0] * exact[1]))
    assert np.signbit(product) == (np.signbit(a) != np.signbit(b))
    assert total == exact_float32(exact[0] + exact[1])


@pytest.mark.parametrize(
    ("given_bits", "canonical_bits"),
    [
        (0x00000001, 0x00000000),
        (0x807FFFFF, 0x80000000),
        (0x00800000, 0x00800000),
        (0x80000000, 0x80000000),
        (0x7F800000, 0x7F800000),
        (0x7F800001, NAN_BITS),
        (0xFFFFFFFF, NAN_BITS),
        (0x3F800000, 0x3F800000),
    ],
)
def test_canonical(given_bits: int, canonical_bits: int) -> None:
    x = np.array([given_bits], np.uint32).view(np.float32)
    assert bits(reference.canonical(x)) == [canonical_bits]


def test_operands_and_results_are_flushed() -> None:
    tiny, one = np.float32(1e-40), np.float32(1)
    assert bits(reference.multiply(tiny, np.float32(1e30))) == [0]
    assert bits(reference.multiply(np.float32(-1e-20), np.float32(1e-25))) == [0x80000000]
    assert bits(reference.add(np.float32(1.5e-38), np.float32(-1.2e-38))) == [0]
    assert bits(reference.add(-tiny, -tiny)) == [0x80000000]
    assert reference.add(tiny, one) == one


def test_every_nan_is_the_same() -> None:
    infinite = np.float32(np.inf)
    assert bits(reference.multiply(infinite, np.float32(0))) == [NAN_BITS]
    assert bits(reference.add(infinite, -infinite)) == [NAN_BITS]


@given(FLOATS)
def test_bfloat16_is_torchs(x: float) -> None:
    value = reference.canonical(np.array([x], np.float32))
    wanted = torch.from_numpy(value.copy()).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    found = reference.bfloat16_bits(value)
    assert found[0] == (0x7FC0 if np.isnan(value[0]) else wanted[0])
    assert bits(reference.from_bfloat16(found)) == bits((found.astype(np.uint32) << 16).view(np.float32))


def test_bfloat16_rounds_half_to_even() -> None:
    halves = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x7F7FFFFF], np.uint32).view(np.float32)
    assert reference.bfloat16_bits(halves).tolist() == [0x3F80, 0x3F82, 0x3F81, 0x7F80]


@pytest.mark.parametrize("axis", Axis)
def test_quantize_is_the_nearest_integer_of_its_scale(axis: Axis) -> None:
    x = np.random.default_rng(0).standard_normal((40, 30)).astype(np.float32) * 5
    q, scale = reference.quantize(x, axis)
    groups = {Axis.TENSOR: np.abs(x).max()[None], Axis.ROW: np.abs(x).max(1), Axis.COLUMN: np.abs(x).max(0)}[axis]
    assert np.array_equal(scale, groups / np.float32(127))
    spread = scale.reshape({Axis.TENSOR: (1, 1), Axis.ROW: (-1, 1), Axis.COLUMN: (1, -1)}[axis])
    assert np.abs(q * spread - x).max() <= 0.5001 * scale.max()
    assert (np.abs(q * spread - x) <= 0.5001 * spread).all()
    wanted = torch.round(torch.from_numpy(x * (np.float32(127) / groups).reshape(spread.shape))).numpy()
    assert np.array_equal(q, wanted.astype(np.int8))
    assert np.abs(q).max() == 127


def test_quantize_rounds_half_to_even() -> None:
    x = np.array([[0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, 127]], np.float32)
    q, scale = reference.quantize(x, Axis.ROW)
    assert scale.tolist() == [1.0]
    assert q.tolist() == [[0, 2, 2, 0, -2, -2, 126, 127]]


def test_a_group_of_zeros_has_scale_one() -> None:
    x = np.array([[0, -0.0], [2**-101, -(2**-101)], [2**-100, 0], [1e-45, 0]], np.float32)
    for rounding in Rounding:
        q, scale = reference.quantize(x, Axis.ROW, rounding=rounding)
        assert q[[0, 1, 3]].any() == False  # noqa: E712 - numpy's bool
        assert scale[[0, 1, 3]].tolist() == [1, 1, 1]
        assert q[2, 0] == 127 and scale[2] == np.float32(2**-100) / np.float32(127)


def test_the_largest_values_do_not_overflow() -> None:
    top = np.finfo(np.float32).max
    q, scale = reference.quantize(np.array([[top, -top, top / 2]], np.float32), Axis.TENSOR)
    assert q.tolist() == [[127, -127, 64]]
    assert scale[0] == top / np.float32(127)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    x = np.ones((2, 2), np.float32)
    x[1, 1] = value
    with pytest.raises(reference.NonFiniteError, match="holds a NaN or an infinity"):
        reference.quantize(x, Axis.ROW)


def test_the_column_factor_comes_first() -> None:
    x = np.array([[1, 2], [3, 4]], np.float32)
    factor = np.array([10, 0.5], np.float32)
    assert reference.quantize(x, Axis.ROW, column_factor=factor)[1].tolist() == [
        np.float32(10) / np.float32(127),
        np.float32(30) / np.float32(127),
    ]
    with pytest.raises(reference.NonFiniteError):
        reference.quantize(x * np.float32(5e37), Axis.ROW, column_factor=factor)


def test_mix_is_a_bijection_and_is_the_documented_one() -> None:
    x = np.arange(1 << 20, dtype=np.uint32)
    assert len(np.unique(reference.mix(x))) == len(x)

    def plain(value: int) -> int:
        value ^= value >> 16
        value = value * 0x7FEB352D & 0xFFFFFFFF
        value ^= value >> 15
        value = value * 0x846CA68B & 0xFFFFFFFF
        return value ^ value >> 16

    for value in (0, 1, 12345, 0xFFFFFFFF):
        assert reference.mix(np.array([value], np.uint32))[0] == plain(value)
        wanted = (plain((value + plain(77)) & 0xFFFFFFFF) >> 8) / 2**24
        assert reference.uniform(77, np.array([value], np.uint32))[0] == wanted


def test_uniform_is_uniform() -> None:
    """Mean, variance and a chi-square of 256 bins over 2**18 draws, each within five standard deviations."""
    count = 1 << 18
    for seed in (0, 1, 2**32 - 1):
        u = reference.uniform(seed, np.arange(count, dtype=np.uint32)).astype(np.float64)
        assert u.min() >= 0 and u.max() < 1
        assert abs(u.mean() - 0.5) < 5 * np.sqrt(1 / 12 / count)
        assert abs(u.var() - 1 / 12) < 5 * np.sqrt(1 / 180 / count)
        bins = np.histogram(u, 256, (0, 1))[0]
        assert abs(((bins - count / 256) ** 2 / (count / 256)).sum() - 255) < 5 * np.sqrt(2 * 255)
    one, two = (reference.uniform(seed, np.arange(count, dtype=np.uint32)) for seed in (1, 2))
    assert abs(np.corrcoef(one, two)[0, 1]) < 5 / np.sqrt(count)


def test_stochastic_rounding_has_no_bias() -> None:
    """A value between two integers goes up as often as it lies above the lower one."""
    count = 1 << 16
    for value in (0.25, -3.75, 100.5):
        x = np.full((count, 2), value, np.float32)
        x[:, 1] = 127
        q, scale = reference.quantize(x, Axis.ROW, rounding=Rounding.STOCHASTIC, seed=5)
        assert scale[0] == 1
        assert set(q[:, 0].tolist()) == {int(np.floor(value)), int(np.floor(value)) + 1}
        assert abs(q[:, 0].mean() - value) < 5 * 0.5 / np.sqrt(count)


def test_stochastic_rounding_depends_on_seed_and_index_alone() -> None:
    x = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    index = np.arange(48, dtype=np.uint32).reshape(6, 8)
    options = {"rounding": Rounding.STOCHASTIC, "seed": 3}
    q, _ = reference.quantize(x, Axis.ROW, **options)
    part, _ = reference.quantize(x[2:4], Axis.ROW, index=index[2:4], **options)
    assert np.array_equal(part, q[2:4])
    other, _ = reference.quantize(x, Axis.ROW, rounding=Rounding.STOCHASTIC, seed=4)
    assert not np.array_equal(other, q)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_gemm_is_the_integer_product(m: int, n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(-128, 128, (m, k)).astype(np.int8), rng.integers(-128, 128, (k, n)).astype(np.int8)
    assert np.array_equal(reference.gemm_int32(a, b), a.astype(np.int64) @ b.astype(np.int64))


def test_the_longest_contraction_does_not_overflow() -> None:
    a = np.full((1, 131_071), -128, np.int8)
    assert reference.gemm_int32(a, a.T)[0, 0] == 131_071 * 2**14


def test_the_epilogue_rounds_in_the_stated_order() -> None:
    """Each step by numpy's own float32, on many values, so that every other order gives other bits somewhere."""
    f = np.float32
    rng = np.random.default_rng(0)
    sums = np.append(rng.integers(-(2**27), 2**27, 499), 2**24 + 1).astype(np.int32)
    a, b, alpha, bias, old = f(1e-7), f(0.3), f(1.7), f(0.7), f(0.123)
    found = reference.epilogue(
        sums.reshape(1, -1),
        Result.FLOAT32,
        scale_a=np.array([a]),
        scale_b=np.array([b]),
        alpha=float(alpha),
        bias=np.full(500, bias),
        c=np.full((1, 500), old),
    )[0]
    converted = sums.astype(f)
    assert converted[-1] == 2**24
    assert np.array_equal(found, converted * a * b * alpha + bias + old)
    others = (
        converted * b * a * alpha + bias + old,
        converted * (a * b) * alpha + bias + old,
        converted * a * b * alpha + (bias + old),
        converted * a * b * alpha + old + bias,
        converted * a * alpha * b + bias + old,
    )
    assert not any(np.array_equal(found, other) for other in others)


def test_the_epilogue_broadcasts_rows_and_columns() -> None:
    sums = np.arange(6, dtype=np.int32).reshape(2, 3)
    rows, columns = np.array([2, 3], np.float32), np.array([1, 10, 100], np.float32)
    found = reference.epilogue(sums, Result.FLOAT32, scale_a=rows, scale_b=columns, bias=columns)
    assert found.tolist() == [[1, 30, 500], [10, 130, 1600]]


def test_integer_results_wrap_and_bfloat16_ones_accumulate_as_float32() -> None:
    top = np.array([[2**31 - 1]], np.int32)
    assert reference.epilogue(top, Result.INT32, c=np.array([[1]], np.int32)).tolist() == [[-(2**31)]]
    old = reference.bfloat16_bits(np.array([[1.0]], np.float32))
    found = reference.epilogue(np.array([[2]], np.int32), Result.BFLOAT16, alpha=0.25, c=old)
    assert reference.from_bfloat16(found).tolist() == [[1.5]]


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_patches_and_reversed_blocks_are_torchs_convolution(seed: int) -> None:
    """Forward and grad-input of a convolution, in exact integers, against torch's float64 convolution."""
    rng = np.random.default_rng(seed)
    kernel, stride = int(rng.integers(1, 4)), int(rng.integers(1, 3))
    pad = int(rng.integers(0, min(kernel, 2)))
    size = kernel + stride * int(rng.integers(1, 4))
    x = rng.integers(-128, 128, (2, size, size, 4)).astype(np.int8)
    w = rng.integers(-128, 128, (3, 4, kernel, kernel)).astype(np.int8)
    x_torch = torch.from_numpy(x.astype(np.float64)).permute(0, 3, 1, 2).requires_grad_()
    y_torch = torch.nn.functional.conv2d(x_torch, torch.from_numpy(w.astype(np.float64)), stride=stride, padding=pad)
    out = tuple(y_torch.shape[2:])

    a = reference.gather_patches(x, out, (kernel, kernel), stride, (pad, pad))
    stored = w.transpose(2, 3, 1, 0).reshape(-1, 3)  # [kernel_height * kernel_width * channels, n]
    y = reference.gemm_int32(a, stored).reshape(2, *out, 3)
    assert np.array_equal(y.transpose(0, 3, 1, 2), y_torch.detach().numpy())

    g = rng.integers(-128, 128, y.shape).astype(np.int8)
    y_torch.backward(torch.from_numpy(g.astype(np.float64)).permute(0, 3, 1, 2))
    # Without offloading's planes: zeros between the pixels, and all of the kernel.
    spread = np.zeros((2, *(stride * (length - 1) + 1 for length in out), 3), np.int8)
    spread[:, ::stride, ::stride] = g
    a = reference.gather_patches(spread, (size, size), (kernel, kernel), 1, (kernel - 1 - pad,) * 2)
    blocks = reference.reversed_blocks(stored.reshape(kernel * kernel, 4, 3), (kernel, kernel), (kernel, 1), 4)
    grad = reference.gemm_int32(a, blocks).reshape(x.shape)
    assert np.array_equal(grad.transpose(0, 3, 1, 2), x_torch.grad.numpy())


def test_no_scale_is_none() -> None:
    values = np.ones(3, np.float32)
    assert reference.scale_vector(values, ScaleMode.NONE) is None
    assert reference.scale_vector(values, ScaleMode.VECTOR) is values
