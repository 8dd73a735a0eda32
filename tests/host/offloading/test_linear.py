"""One call of the offloaded linear layer against torch: values, gradients kind by kind, types, shapes, settings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Axis
from systolora.offloading.linear import Adapter, offloaded_linear
from systolora.offloading.quantization import GEMM_KINDS, QuantizationConfig
from systolora.offloading.session import NonFiniteTensorError
from systolora.sim.functional import reference
from torch.nn import functional

from .problem import IN, OUT, SCALING, Problem, make_layer, relative

# Largest relative error (2-norm) of what depends on each kind when it alone runs in INT8, on the tensors of `problem`.
ERROR = {
    "forward_base": 0.010,
    "forward_down": 0.012,
    "forward_up": 0.005,
    "grad_hidden": 0.012,
    "grad_up": 0.012,
    "grad_down": 0.012,
    "grad_input_base": 0.011,
    "grad_input_low_rank": 0.005,
}

ALL_KINDS_ERROR = {"y": 0.014, "x": 0.014, "bias": 1e-6, "down": 0.02, "up": 0.02}


def test_everything_in_float32_is_torch() -> None:
    problem = Problem()
    layer = make_layer(QuantizationConfig.in_float32())
    got, expected = problem.offloaded(layer), problem.in_torch()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-5, atol=1e-5)
    assert set(layer.float32) == set(GEMM_KINDS)
    assert not layer.int8


@pytest.mark.parametrize("weight_scales", ["tensor", "channel"])
def test_all_kinds_in_int8_are_close(weight_scales: str) -> None:
    problem = Problem()
    layer = make_layer(QuantizationConfig(weight_scales=weight_scales))
    got, expected = problem.offloaded(layer), problem.in_torch()
    for name, value in expected.items():
        assert relative(got[name], value) < ALL_KINDS_ERROR[name], name
    assert layer.int8 == dict.fromkeys(GEMM_KINDS, 1)
    assert not layer.float32


@pytest.mark.parametrize("kind", GEMM_KINDS)
@pytest.mark.parametrize("weight_scales", ["tensor", "channel"])
def test_one_kind_in_int8_costs_what_is_stated(kind: str, weight_scales: str) -> None:
    """Only what depends on the kind changes, by no more than the stated error, and it does change."""
    problem = Problem()
    expected = problem.offloaded(make_layer(QuantizationConfig.in_float32()))
    layer = make_layer(QuantizationConfig(int8_kinds=frozenset({kind}), weight_scales=weight_scales))
    got = problem.offloaded(layer)
    touched = {
        "forward_base": {"y"},
        "forward_down": {"y", "up"},
        "forward_up": {"y"},
        "grad_hidden": {"x", "down"},
        "grad_up": {"up"},
        "grad_down": {"down"},
        "grad_input_base": {"x"},
        "grad_input_low_rank": {"x"},
    }[kind]
    assert layer.int8 == {kind: 1}
    for name, value in expected.items():
        error = relative(got[name], value)
        if name in touched:
            assert 1e-5 < error < ERROR[kind], (name, error)
        else:
            torch.testing.assert_close(got[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("left_out", GEMM_KINDS)
def test_any_kind_can_be_left_in_float32(left_out: str) -> None:
    problem = Problem()
    layer = make_layer(QuantizationConfig.in_float32([left_out]))
    got, expected = problem.offloaded(layer), problem.in_torch()
    for name, value in expected.items():
        assert relative(got[name], value) < 0.02, name
    assert set(layer.float32) == {left_out}


@pytest.mark.parametrize("scales", ["activation_scales", "gradient_scales", "factor_scales"])
def test_one_scale_per_tensor_is_coarser_but_close(scales: str) -> None:
    problem = Problem()
    got = problem.offloaded(make_layer(QuantizationConfig(**{scales: "tensor"})))
    expected = problem.in_torch()
    assert all(relative(got[name], value) < 0.04 for name, value in expected.items())
    assert not torch.equal(got["y"], problem.offloaded(make_layer())["y"]) or scales == "gradient_scales"


def quantized_gemm(a: np.ndarray, b: np.ndarray, **epilogue: object) -> np.ndarray:
    """a [m, k] and b [k, n] quantized along m and n, multiplied; the table of docs/arithmetic.md in one line."""
    qa, sa = reference.quantize(np.ascontiguousarray(a), Axis.ROW)
    qb, sb = reference.quantize(np.ascontiguousarray(b), Axis.COLUMN)
    return reference.epilogue(reference.gemm_int32(qa, qb), 1, scale_a=sa, scale_b=sb, **epilogue)


@pytest.mark.parametrize("weight_scales", ["tensor", "channel"])
def test_all_results_are_the_contracts_bits(weight_scales: str) -> None:
    """The whole layer from the reference's functions alone."""
    problem = Problem()
    x, g = problem.x.detach().reshape(-1, IN).numpy(), problem.grad_y.reshape(-1, OUT).numpy()
    weight, bias = problem.weight.numpy(), problem.bias.detach().numpy()
    down, up = problem.down.detach().numpy(), problem.up.detach().numpy()
    per_channel = weight_scales == "channel"
    qx, sx = reference.quantize(x, Axis.ROW)
    qw, sw = reference.quantize(weight, Axis.ROW if per_channel else Axis.TENSOR)
    qg, sg = reference.quantize(g, Axis.ROW, column_factor=sw if per_channel else None)
    y = reference.epilogue(reference.gemm_int32(qx, qw.T), 1, scale_a=sx, scale_b=sw, bias=bias)
    h = quantized_gemm(x, down.T)
    y = quantized_gemm(h, up.T, alpha=SCALING, c=y)
    grad_h = quantized_gemm(g, up, alpha=SCALING)
    product = reference.gemm_int32(qg, qw)
    grad_x = reference.epilogue(product, 1, scale_a=sg, scale_b=None if per_channel else sw)
    expected = {
        "y": y,
        "x": quantized_gemm(grad_h, down, c=grad_x),
        "down": quantized_gemm(grad_h.T, x),
        "up": quantized_gemm(g.T, h, alpha=SCALING),
    }
    got = problem.offloaded(make_layer(QuantizationConfig(weight_scales=weight_scales)))
    for name, value in expected.items():
        assert np.array_equal(got[name].numpy().reshape(value.shape), value), name


@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3, 7)])
def test_any_leading_shape(shape: tuple[int, ...]) -> None:
    problem = Problem(shape)
    got, expected = problem.offloaded(make_layer()), problem.in_torch()
    assert all(got[name].shape == value.shape for name, value in expected.items())
    assert all(relative(got[name], value) < 0.03 for name, value in expected.items())


def test_zero_tokens() -> None:
    problem = Problem((0, 7))
    layer = make_layer()
    got = problem.offloaded(layer)
    assert got["y"].shape == (0, 7, OUT)
    assert got["x"].shape == (0, 7, IN)
    assert not got["down"].any()
    assert not got["up"].any()
    assert not got["bias"].any()
    assert not layer.int8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_in_and_out(dtype: torch.dtype) -> None:
    problem = Problem()
    problem.x = problem.x.detach().to(dtype).requires_grad_()
    problem.leaves["x"] = problem.x
    got = problem.offloaded(make_layer())
    assert got["y"].dtype == got["x"].dtype == dtype
    assert got["down"].dtype == torch.float32
    full = Problem()
    full.x = problem.x.detach().float().requires_grad_()
    full.leaves["x"] = full.x
    assert torch.equal(full.forward(make_layer()).to(dtype), got["y"]), "float32 inside, whatever the type outside"


def test_autocast_gives_the_type_that_torch_gives() -> None:
    problem = Problem()
    with torch.autocast("cpu", torch.bfloat16):
        y = problem.forward(make_layer())
        plain = functional.linear(problem.x, problem.weight)
    assert y.dtype == plain.dtype == torch.bfloat16
    y.float().sum().backward()
    assert problem.x.grad is not None
    assert problem.x.grad.dtype == torch.float32


def test_only_gradients_that_are_wanted_are_computed() -> None:
    problem = Problem()
    layer = make_layer()
    frozen_x = problem.x.detach()
    y = offloaded_linear(layer, frozen_x, problem.weight, None, Adapter(problem.down, problem.up, SCALING))
    y.backward(problem.grad_y)
    assert set(layer.int8) == set(GEMM_KINDS) - {"grad_input_base", "grad_input_low_rank"}
    layer.int8.clear()
    with torch.no_grad():
        problem.forward(layer)
    assert set(layer.int8) == {"forward_base", "forward_down", "forward_up"}


def test_a_frozen_layer_has_two_gemms() -> None:
    problem = Problem()
    layer = make_layer()
    y = offloaded_linear(layer, problem.x, problem.weight, problem.bias)
    grad_x, grad_bias = torch.autograd.grad(y, [problem.x, problem.bias], problem.grad_y)
    plain = functional.linear(problem.x, problem.weight, problem.bias)
    expected = torch.autograd.grad(plain, [problem.x, problem.bias], problem.grad_y)
    assert relative(y.detach(), plain.detach()) < 0.014
    assert relative(grad_x, expected[0]) < 0.014
    torch.testing.assert_close(grad_bias, expected[1])
    assert layer.int8 == {"forward_base": 1, "grad_input_base": 1}


def test_dropout_sends_another_x_to_the_adapter() -> None:
    problem = Problem()
    mask = (torch.rand(problem.x.shape, generator=torch.Generator().manual_seed(1)) > 0.3) / 0.7
    masked = problem.x * mask
    layer = make_layer()
    y = offloaded_linear(layer, problem.x, problem.weight, problem.bias, Adapter(problem.down, problem.up, 1.0, masked))
    plain = (
        functional.linear(problem.x, problem.weight, problem.bias) + (problem.x * mask) @ problem.down.T @ problem.up.T
    )
    got, expected = problem.results(y), problem.results(plain)
    assert all(relative(got[name], value) < 0.03 for name, value in expected.items())


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ("x", r"layer 'blocks.0.to_k': x holds a NaN or an infinity"),
        ("weight", r"layer 'blocks.0.to_k': weight holds"),
        ("down", r"layer 'blocks.0.to_k': down holds"),
    ],
)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named(tensor: str, message: str, bad: float) -> None:
    problem = Problem()
    with torch.no_grad():
        getattr(problem, tensor).view(-1)[5] = bad
    with pytest.raises(NonFiniteTensorError, match=message):
        problem.offloaded(make_layer())


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        (ArrayConfig(rows=5, cols=7, input_bytes=2560, weight_bytes=3584, output_bytes=14336), 33),
        # 256 scales are the most that one QUANTIZE makes here, so 300 tokens are quantized in two parts.
        (ArrayConfig(rows=4, cols=4, input_bytes=512, weight_bytes=512, output_bytes=2048), 300),
    ],
)
def test_a_small_odd_array_gives_the_same_bits(config: ArrayConfig, tokens: int) -> None:
    problem = Problem((tokens,))
    quantization = QuantizationConfig(gradient_rounding="stochastic", activation_rounding="stochastic")
    small = problem.offloaded(make_layer(quantization, config=config, tiled=True))
    large = problem.offloaded(make_layer(quantization))
    assert all(torch.equal(small[name], large[name]) for name in large)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"int8_kinds": {"forward_bass"}}, "no GEMM kind forward_bass"),
        ({"weight_scales": "row"}, "weight_scales = 'row': allowed are tensor, channel"),
        ({"gradient_rounding": "up"}, "allowed are nearest, stochastic"),
    ],
)
def test_bad_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuantizationConfig(**settings)
