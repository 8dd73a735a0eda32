"""Integer layers under autograd: values and gradients against torch, training, resuming, wide integers, fallbacks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.tuners.lora.layer import Linear as LoraLinear
from systolora.errors import UserError
from systolora.experiments.baselines import RowRule, quantize_others, quantize_rows
from systolora.hls.isa import Axis
from systolora.intlora.digits import BASE, count_wide, digits, width
from systolora.intlora.engine import DeviceEngine, TorchEngine, low_rank_product
from systolora.intlora.layer import IntegerLayer, integer_linear
from systolora.intlora.peft import attach
from systolora.intlora.quantizers import search_grid
from systolora.intlora.rules import Rule, make_rule
from systolora.intlora.settings import METHODS, REMEDIES, IntLoraSettings
from systolora.offloading.quantization import QuantizationConfig
from systolora.offloading.session import Session
from systolora.sim.functional.device import Device
from systolora.sim.functional.emulator import EmulatorDevice
from systolora.sim.functional.reference import quantize
from torch import Tensor

from .model import RANK, small_model, train_small

OUT, IN, TOKENS, SCALING = 40, 48, 33, 0.5
FORMS = [((), "paper"), (tuple(REMEDIES), "mended")]


@pytest.fixture
def device() -> Iterator[Device]:
    with EmulatorDevice(capacity_bytes=1 << 24) as opened:
        yield opened


class Problem:
    """One layer with random tensors."""

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        self.weight, self.grad_y = 0.1 * normal(OUT, IN), normal(TOKENS, OUT)
        self.x, self.bias = normal(TOKENS, IN).requires_grad_(), normal(OUT).requires_grad_()
        self.down = (0.1 * normal(RANK, IN)).requires_grad_()
        self.up = (0.1 * normal(OUT, RANK)).requires_grad_()

    def rule(self, chosen: IntLoraSettings) -> Rule:
        return make_rule(self.weight.numpy(), chosen, "layer")

    def results(self, layer: IntegerLayer) -> dict[str, Tensor]:
        y = integer_linear(layer, self.x, self.bias, self.down, self.up, SCALING)
        names = ["x", "bias", "down", "up"]
        grads = torch.autograd.grad(y, [getattr(self, name) for name in names], self.grad_y)
        return {"y": y.detach(), **dict(zip(names, grads, strict=True))}


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize(("remedies", "_"), FORMS)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("method", METHODS)
def test_values_and_gradients_are_those_of_the_integer_weight(
    device: Device, method: str, bits: int, remedies: tuple[str, ...], _: str
) -> None:
    problem = Problem()
    rule = problem.rule(IntLoraSettings(method, bits, remedies=remedies))
    found = problem.results(
        IntegerLayer("layer", rule.weight, lambda *_: rule, DeviceEngine(Session(device, QuantizationConfig())))
    )
    adapted = rule.apply(low_rank_product(problem.up, problem.down, SCALING))
    real, gain = torch.from_numpy(adapted.weight.real()), torch.from_numpy(adapted.gain)
    grad_product = gain * (problem.grad_y.T @ problem.x)
    wanted = {
        "y": problem.x @ real.T + problem.bias,
        "bias": problem.grad_y.sum(0),
        "down": SCALING * problem.up.T @ grad_product,
        "up": SCALING * grad_product @ problem.down.T,
    }
    for name, value in wanted.items():
        assert relative(found[name], value.detach()) < 0.02, name
    # A row's scale goes into grad_y before it is quantized by token; so the error grows with the spread of the scales (up to 32
    # for SHIFT, where it is 3 %). What must come out is exactly the product with that quantized grad_y.
    folded, scale = quantize((problem.grad_y.numpy() * adapted.weight.scale).astype(np.float32), Axis.ROW)
    exact = (folded.astype(np.float64) * scale[:, None]) @ adapted.weight.values
    assert relative(found["x"], torch.from_numpy(exact).float()) < 1e-5
    assert relative(found["x"], (problem.grad_y @ real).detach()) < 0.05


def test_the_engines_differ_only_by_the_quantization_of_activations(device: Device) -> None:
    problem = Problem()
    rule = problem.rule(IntLoraSettings("mul", 8))
    on_device = DeviceEngine(Session(device, QuantizationConfig()))
    in_torch = problem.results(IntegerLayer("layer", rule.weight, lambda *_: rule, TorchEngine()))
    found = problem.results(IntegerLayer("layer", rule.weight, lambda *_: rule, on_device))
    assert all(0 < relative(found[name], in_torch[name]) < 0.02 for name in ("y", "x", "down", "up"))
    assert torch.equal(found["bias"], in_torch["bias"])
    product = on_device.product("layer", problem.up, problem.down, SCALING)
    assert np.array_equal(product, low_rank_product(problem.up, problem.down, SCALING))
    kinds = {"product": 2, "forward": 1, "grad_input": 1, "grad_weight": 1, "grad_up": 1, "grad_down": 1}
    assert dict(on_device.gemms) == kinds
    assert on_device.macs["forward"] == TOKENS * OUT * IN


@pytest.mark.parametrize(("remedies", "form"), FORMS)
def test_bfloat16_crosses_with_the_bits_of_float32_on_rounded_tensors(
    device: Device, remedies: tuple[str, ...], form: str
) -> None:
    """Results of a weight that takes several passes are sums on the device, and are not rounded again."""
    found = []
    for chosen in ("float32", "bfloat16"):
        problem = Problem()
        rule = problem.rule(IntLoraSettings("mul", 8, remedies=remedies))
        if chosen == "float32":
            problem.x = problem.x.detach().bfloat16().float().requires_grad_()
            problem.grad_y = problem.grad_y.bfloat16().float()
        engine = DeviceEngine(Session(device, QuantizationConfig(transfer_type=chosen)))
        found.append(problem.results(IntegerLayer("layer", rule.weight, lambda *_, rule=rule: rule, engine)))
    passes = engine.gemms["forward"]
    assert (passes > 1) == (form == "paper")
    plain, half = found
    for name in ("y", "x"):
        wanted = plain[name] if passes > 1 else plain[name].bfloat16().float()
        assert torch.equal(half[name], wanted) and half[name].dtype == torch.float32
    assert all(0 < relative(half[name], plain[name]) < 0.01 for name in ("down", "up"))


@pytest.mark.parametrize("shape", [(IN,), (2, 3, IN), (0, IN)])
def test_leading_dimensions_and_types_are_kept(device: Device, shape: tuple[int, ...]) -> None:
    problem = Problem()
    rule = problem.rule(IntLoraSettings())
    layer = IntegerLayer("layer", rule.weight, lambda *_: rule, DeviceEngine(Session(device, QuantizationConfig())))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    y = integer_linear(layer, x, None, problem.down, problem.up, SCALING)
    assert y.shape == (*shape[:-1], OUT) and y.dtype == torch.bfloat16
    y.sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape and problem.up.grad is not None


@settings(deadline=None, max_examples=80)
@given(st.lists(st.integers(-(2**24), 2**24), min_size=1, max_size=20))
def test_digits_give_every_integer_back(values: list[int]) -> None:
    array = np.array(values, np.int32)
    parts = digits(array)
    assert all(part.dtype == np.int8 for part in parts)
    assert (sum(part.astype(np.int64) * BASE**i for i, part in enumerate(parts)) == array).all()
    assert (len(parts) == 1) == (count_wide(array) == 0)
    bits = width(array)
    assert -(2 ** (bits - 1)) <= min(values) and max(values) < 2 ** (bits - 1)


@pytest.mark.parametrize("largest, passes", [(127, 1), (128, 2), (16319, 2), (16320, 3)])
def test_as_few_passes_as_the_largest_integer_needs(largest: int, passes: int) -> None:
    assert len(digits(np.array([largest, -largest], np.int32))) == passes


@pytest.mark.parametrize("method", METHODS)
def test_training_lowers_the_loss_and_undo_gives_peft_back(device: Device, method: str) -> None:
    model = small_model()
    handle, losses = train_small(model, IntLoraSettings(method, 4), device, 12)
    assert losses[-1] < 0.8 * losses[0]
    assert "0 of 3456 integers" in handle.report() and "layers on emulator" in handle.report()
    names = set(model.state_dict())
    handle.undo()
    handle.undo()
    assert type(model.to_k) is LoraLinear and set(model.state_dict()) == names
    assert device.bytes_in_use < 4096, "only the device's own program memory is left"
    assert torch.isfinite(model(torch.zeros(2, 48))).all()


@pytest.mark.parametrize("refresh", [0, 3])
def test_a_run_that_is_taken_up_again_ends_with_the_same_bits(device: Device, refresh: int) -> None:
    chosen = IntLoraSettings("mul", 4, refresh_every=refresh)
    whole = small_model()
    train_small(whole, chosen, device, 8)
    first = small_model()
    handle, _ = train_small(first, chosen, device, 4)
    state, weights = handle.state_dict(), first.state_dict()
    second = small_model()
    second.load_state_dict(weights)
    again = attach(second, chosen, device)
    again.load_state_dict(state)
    again.undo()
    resumed = attach(second, chosen, device)
    resumed.load_state_dict(state)
    generator = torch.Generator().manual_seed(1)
    x, target = torch.randn(16, 48, generator=generator), torch.randn(16, 8, generator=generator)
    optimizer = torch.optim.SGD([value for value in second.parameters() if value.requires_grad], 0.3)
    for step in range(4, 8):
        resumed.step = step
        (second(x) - target).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in whole.state_dict().items())
    with pytest.raises(ValueError, match="no state of an IntLoRA run"):
        resumed.load_state_dict({"step": 1})


def test_what_cannot_be_integers_runs_in_torch_and_is_counted(device: Device) -> None:
    model = small_model()
    x = torch.randn(3, 48)
    handle = attach(model, IntLoraSettings(), device)
    model.to_k.enable_adapters(False)
    plain = torch.nn.functional.linear(x, model.to_k.base_layer.weight, model.to_k.base_layer.bias)
    assert torch.equal(model.to_k(x), plain)
    assert "fell back to torch: 1 calls" in handle.report()


def test_layers_that_integers_cannot_follow_are_refused() -> None:
    with pytest.raises(UserError, match="no layer with a LoRA adapter"):
        attach(small_model(adapted=False))
    model = small_model()
    model.to_k.lora_dropout["default"] = torch.nn.Dropout(0.1)
    with pytest.raises(UserError, match="'to_k' cannot have integer weights: it has LoRA dropout"):
        attach(model)
    attached = small_model()
    attach(attached)
    with pytest.raises(UserError, match="offloaded already"):
        attach(attached)


def test_quantization_aware_lora_rounds_the_sum(device: Device) -> None:
    problem = Problem()
    rule = RowRule(problem.weight.numpy(), 4)
    product = low_rank_product(problem.up, problem.down, SCALING)
    grid = search_grid(problem.weight.numpy(), 4)
    adapted = rule.apply(product)
    total = problem.weight.numpy() + product
    assert np.array_equal(adapted.weight.real(), grid.decode(grid.encode(total)))
    outside = np.abs(adapted.weight.real() - total) > 0.51 * grid.scale[:, None]
    assert outside.any() and (adapted.gain[outside] == 0).all() and adapted.gain.mean() > 0.8
    handle = attach(small_model(), device=device, make=lambda weight, name: RowRule(weight, 4))
    assert handle.settings is None and set(handle.weights()) == {"to_k", "to_v"}


def test_other_layers_are_put_on_their_grid() -> None:
    model = small_model(adapted=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert quantize_others(model, 4, ["to_k"]) == 2
    assert torch.equal(model.to_k.weight, before["to_k.weight"])
    expected = quantize_rows(before["to_v.weight"].numpy(), 4).real()
    assert np.array_equal(model.to_v.weight.numpy(), expected)
    assert all(len(np.unique(row)) <= 16 for row in expected)
