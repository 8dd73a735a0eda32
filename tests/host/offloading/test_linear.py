"""The offloaded linear layer against torch: values, gradients kind by kind, types, shapes, errors, buffers."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Axis
from systolora.offloading.layer import OffloadedLayer
from systolora.offloading.linear import Adapter, offloaded_linear
from systolora.offloading.quantization import GEMM_KINDS, QuantizationConfig
from systolora.offloading.session import NonFiniteTensorError, Session
from systolora.sim.functional import reference
from systolora.sim.functional.emulator import EmulatorDevice
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

OUT, IN, RANK, SCALING = 48, 40, 4, 0.5

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


class Problem:
    """A layer with random weights, as leaves, and its reference in torch."""

    def __init__(self, tokens: tuple[int, ...] = (3, 11), seed: int = 0, rank: int = RANK) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        self.x = normal(*tokens, IN).requires_grad_()
        self.weight, self.bias = normal(OUT, IN), normal(OUT).requires_grad_()
        self.down, self.up = normal(rank, IN).requires_grad_(), normal(OUT, rank).requires_grad_()
        self.grad_y = normal(*tokens, OUT)
        self.leaves = {"x": self.x, "bias": self.bias, "down": self.down, "up": self.up}

    def results(self, y: Tensor) -> dict[str, Tensor]:
        grads = torch.autograd.grad(y, list(self.leaves.values()), self.grad_y.to(y.dtype))
        return {"y": y.detach(), **dict(zip(self.leaves, grads, strict=True))}

    def in_torch(self) -> dict[str, Tensor]:
        low = SCALING * (self.x @ self.down.T) @ self.up.T
        return self.results(functional.linear(self.x, self.weight, self.bias) + low)

    def offloaded(self, layer: OffloadedLayer) -> dict[str, Tensor]:
        return self.results(self.forward(layer))

    def forward(self, layer: OffloadedLayer) -> Tensor:
        return offloaded_linear(layer, self.x, self.weight, self.bias, Adapter(self.down, self.up, SCALING))


def make_layer(quantization: QuantizationConfig | None = None, index: int = 0, **device: object) -> OffloadedLayer:
    options = {"capacity_bytes": 1 << 24, **device}
    return OffloadedLayer(
        Session(EmulatorDevice(**options), quantization or QuantizationConfig()), "blocks.0.to_k", index
    )


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


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


def test_after_an_error_the_layer_works_again() -> None:
    problem, layer = Problem(), make_layer()
    expected = problem.offloaded(layer)
    with torch.no_grad():
        good = problem.up[0, 0].item()
        problem.up[0, 0] = float("nan")
        with pytest.raises(NonFiniteTensorError):
            problem.forward(layer)
        problem.up[0, 0] = good
    got = problem.offloaded(layer)
    assert all(torch.equal(got[name], value) for name, value in expected.items())


def test_changed_tensors_are_noticed() -> None:
    """In-place changes, `.data` edits and another tensor all reach the device."""
    problem, layer = Problem(), make_layer()
    problem.forward(layer)

    def same_as_fresh() -> bool:
        return torch.equal(problem.forward(layer), problem.forward(make_layer()))

    with torch.no_grad():
        problem.down.mul_(0.5)
    assert same_as_fresh()
    problem.up.data.add_(0.25)
    assert same_as_fresh()
    problem.weight.data *= 1.5
    assert same_as_fresh()
    problem.weight = problem.weight.clone() + 1
    assert same_as_fresh()
    problem.bias.data.zero_()
    assert same_as_fresh()


def test_two_adapters_in_turn_keep_their_gradients() -> None:
    """The factors in device memory are those of the other adapter when the first one's backward begins."""
    first, second, layer = Problem(seed=0), Problem(seed=1, rank=2), make_layer()
    second.weight = first.weight
    y_first, y_second = first.forward(layer), second.forward(layer)
    got = first.results(y_first)
    expected = first.offloaded(make_layer())
    assert all(torch.equal(got[name], value) for name, value in expected.items())
    again = second.results(y_second)
    assert all(torch.equal(again[name], value) for name, value in second.offloaded(make_layer()).items())


def test_stochastic_rounding_repeats_with_step_and_layer() -> None:
    quantization = QuantizationConfig(activation_rounding="stochastic", gradient_rounding="stochastic", seed=3)
    problem = Problem()

    def at(step: int, index: int) -> dict[str, Tensor]:
        layer = make_layer(quantization, index)
        layer.session.step = step
        return problem.offloaded(layer)

    first, again = at(7, 2), at(7, 2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    for other in (at(8, 2), at(7, 3)):
        assert not torch.equal(first["y"], other["y"])
        assert not torch.equal(first["down"], other["down"])
    assert relative(first["down"], problem.in_torch()["down"]) < 0.04


def test_gradient_checkpointing_is_bit_identical_and_keeps_nothing() -> None:
    for reentrant in (False, True):
        problem, layer = Problem(), make_layer()
        expected = problem.offloaded(layer)

        def run(x: Tensor, problem: Problem = problem, layer: OffloadedLayer = layer) -> Tensor:
            return problem.forward(layer)

        y = checkpoint(run, problem.x, use_reentrant=reentrant)
        assert not layer.session.pool._kept
        y.backward(problem.grad_y)
        got = {"y": y.detach(), **{name: leaf.grad for name, leaf in problem.leaves.items()}}
        assert all(torch.equal(got[name], value) for name, value in expected.items()), reentrant


def test_several_micro_batches_alive_at_once() -> None:
    problems, layer = [Problem(seed=seed) for seed in range(3)], make_layer()
    for problem in problems:
        problem.weight = problems[0].weight
        problem.down, problem.up = problems[0].down, problems[0].up
        problem.leaves |= {"down": problem.down, "up": problem.up}
    outputs = [problem.forward(layer) for problem in problems]
    for problem, y in zip(problems, outputs, strict=True):
        got, expected = problem.results(y), problem.offloaded(make_layer())
        assert all(torch.equal(got[name], value) for name, value in expected.items())


def test_retain_graph_and_buffers_that_come_back() -> None:
    problem, layer = Problem(), make_layer()
    y = problem.forward(layer)
    first = torch.autograd.grad(y, [problem.down], problem.grad_y, retain_graph=True)[0]
    assert layer.session.pool._kept
    second = torch.autograd.grad(y, [problem.down], problem.grad_y)[0]
    assert torch.equal(first, second)
    assert not layer.session.pool._kept, "the saved activations go when autograd drops them, though y lives"
    del y
    used = 0
    for _ in range(5):
        problem.offloaded(layer)
        problem.forward(layer)  # a graph that is never used backward
        gc.collect()
        used = used or layer.session.device.bytes_in_use
    assert layer.session.device.bytes_in_use == used


def test_programs_are_the_same_bytes_again() -> None:
    codes: list[bytes] = []
    problem, layer = Problem(), make_layer()
    device = layer.session.device
    run = device.run
    device.run = lambda program: (codes.append(program.code), run(program))[1]  # type: ignore[method-assign]
    problem.offloaded(layer)
    codes.clear()
    problem.offloaded(layer)
    first = list(codes)
    codes.clear()
    problem.offloaded(layer)
    assert codes == first
    assert len(codes) == 2, "one program forward, one backward"


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


def test_inference_mode() -> None:
    problem, layer = Problem(), make_layer()
    expected = problem.forward(layer).detach()
    with torch.inference_mode():
        problem.weight = problem.weight.clone()
        assert torch.equal(problem.forward(layer), expected)


def test_undone_layers_and_copied_activations_say_so() -> None:
    problem, layer = Problem(), make_layer()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.clone(), lambda tensor: tensor):
        y = problem.forward(layer)
    with pytest.raises(RuntimeError, match="save_on_cpu"):
        y.backward(problem.grad_y)
    y = problem.forward(layer)
    layer.session.close()
    with pytest.raises(RuntimeError, match="its offload was undone"):
        y.backward(problem.grad_y)
    with pytest.raises(RuntimeError, match="its offload was undone"):
        problem.forward(layer)


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
