"""Tensors that change by every means that there is, against an offload without any sharing: the same bits, values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pytest
import systolora
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from peft import LoraConfig, inject_adapter_in_model
from systolora.offloading import shared_inputs
from systolora.offloading.attention import offloaded_attention
from systolora.offloading.layer import OffloadedLayer
from systolora.offloading.quantization import QuantizationConfig
from systolora.offloading.session import Session
from systolora.sim.functional.emulator import EmulatorDevice
from torch import Tensor, nn

TOKENS, WIDTH, OUT = 6, 16, 12
LAYERS = ("frozen", "other", "adapted", "attention", "conv", "pixels")


class Layers(nn.Module):
    """Two frozen Linear, one with an adapter, a convolution of 3 x 3 and one of 1 x 1."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(WIDTH, OUT)
        self.other = nn.Linear(WIDTH, OUT, bias=False)
        self.adapted = nn.Linear(WIDTH, OUT)
        self.conv = nn.Conv2d(WIDTH, OUT, 3, padding=1)
        self.pixels = nn.Conv2d(WIDTH, OUT, 1)


class Offloaded:
    """The layers on a device of their own, and an attention on the same one."""

    def __init__(self, state: dict[str, Tensor] | None = None) -> None:
        torch.manual_seed(3)
        self.model = Layers().requires_grad_(False)
        config = LoraConfig(r=2, target_modules=["adapted"], init_lora_weights=False)
        inject_adapter_in_model(config, self.model)
        if state is not None:
            self.model.load_state_dict(state)
        self.device = EmulatorDevice(capacity_bytes=1 << 22)
        self.handle = systolora.offload(self.model, targets="all", device=self.device)
        self._attention = OffloadedLayer(Session(self.device, QuantizationConfig()), "attention", 9)

    def run(self, name: str, x: Tensor) -> Tensor:
        """One layer's y of x [tokens, width]; images are two pixels high."""
        if name == "attention":
            return offloaded_attention(self._attention, x[None], x[None], x[None])
        if name in ("conv", "pixels"):
            x = x.t().reshape(1, WIDTH, 2, TOKENS // 2)
        layer: nn.Module = getattr(self.model, name)
        return layer(x)

    def trained(self, name: str) -> list[Tensor]:
        """What of a layer gets gradients."""
        return [value for value in self.model.adapted.parameters() if value.requires_grad and name == "adapted"]


def gradients(y: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    grad_y = torch.linspace(-1, 2, y.numel()).sin().view(y.shape)
    return list(torch.autograd.grad(y, leaves, grad_y))


def without_sharing(state: dict[str, Tensor], name: str, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Value and gradients from layers that were never used before, of a tensor that nobody else has."""
    fresh, own = Offloaded({key: value.clone() for key, value in state.items()}), x.detach().clone().requires_grad_()
    y = fresh.run(name, own)
    found = y.detach().clone(), [grad.clone() for grad in gradients(y, [own, *fresh.trained(name)])]
    fresh.device.close()
    return found


def by_numpy(target: Tensor, values: Tensor) -> None:
    target.detach().numpy()[...] = values.numpy()


def one_element_by_numpy(target: Tensor, values: Tensor) -> None:
    target.detach().numpy().reshape(-1)[values.numel() // 3] = float(values.view(-1)[0])


def two_elements_swapped(target: Tensor, values: Tensor) -> None:
    flat: NDArray[np.float32] = target.detach().numpy().reshape(-1)
    flat[[1, -2]] = flat[[-2, 1]]


def by_data(target: Tensor, values: Tensor) -> None:
    target.data.copy_(values)


def by_new_data(target: Tensor, values: Tensor) -> None:
    target.data = values


def by_copy(target: Tensor, values: Tensor) -> None:
    with torch.no_grad():
        target.copy_(values)


def by_view(target: Tensor, values: Tensor) -> None:
    with torch.no_grad():
        target.view(-1)[3:9].mul_(-1.5)


def by_optimizer(target: Tensor, values: Tensor) -> None:
    required = target.requires_grad
    target.requires_grad_(True).grad = values
    torch.optim.SGD([target], lr=0.5).step()
    target.grad = None
    target.requires_grad_(required)


UNSEEN_BY_TORCH = (by_numpy, one_element_by_numpy, two_elements_swapped, by_data)
WAYS: tuple[Callable[[Tensor, Tensor], None], ...] = (*UNSEEN_BY_TORCH, by_new_data, by_copy, by_view, by_optimizer)
PARAMETERS = (
    *("frozen.weight", "frozen.bias", "other.weight", "conv.weight", "conv.bias", "pixels.weight"),
    *("adapted.base_layer.weight", "adapted.lora_A.default.weight", "adapted.lora_B.default.weight"),
)


@dataclass(frozen=True)
class Change:
    """One tensor is filled anew: "x", a parameter, or all of them by load_state_dict."""

    target: str
    way: Callable[[Tensor, Tensor], None]
    seed: int


@dataclass(frozen=True)
class Slice:
    """x becomes another slice of the same storage, a new tensor object."""

    start: int


@dataclass(frozen=True)
class Use:
    """One layer forward, a change of x in between, and backward; or forward without gradients."""

    layer: str
    mode: str
    between: Callable[[Tensor, Tensor], None] | None


SEEDS = st.integers(0, 99)
CHANGES_OF_X = st.builds(Change, st.just("x"), st.sampled_from(WAYS), SEEDS)
CHANGES = st.one_of(
    CHANGES_OF_X,
    st.builds(Change, st.sampled_from((*PARAMETERS, "state")), st.sampled_from(WAYS), SEEDS),
    st.builds(Slice, st.integers(0, 2)),
)
USES = st.builds(
    Use,
    st.sampled_from(LAYERS),
    st.sampled_from(("grad", "no_grad", "inference")),
    st.sampled_from((None, *UNSEEN_BY_TORCH)),
)
ROUNDS = st.tuples(CHANGES_OF_X, USES, CHANGES, USES)


def random_like(tensor: Tensor, seed: int) -> Tensor:
    return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed))


def change(offloaded: Offloaded, x: Tensor, step: Change) -> None:
    parameters = dict(offloaded.model.named_parameters())
    if step.target == "state":
        offloaded.model.load_state_dict({key: random_like(value, step.seed) for key, value in parameters.items()})
        return
    target = x if step.target == "x" else parameters[step.target]
    step.way(target, random_like(target, step.seed))


def use(offloaded: Offloaded, x: Tensor, step: Use) -> None:
    state = {key: value.clone() for key, value in offloaded.model.state_dict().items()}
    value, grads = without_sharing(state, step.layer, x)
    if step.mode != "grad":
        with torch.no_grad() if step.mode == "no_grad" else torch.inference_mode():
            assert torch.equal(offloaded.run(step.layer, x), value)
        return
    y = offloaded.run(step.layer, x)
    assert torch.equal(y, value)
    # Attention's floats are saved as torch's own kernel saves them: a change that torch cannot see reaches its gradients as it does there.
    if step.between and step.layer != "attention":
        step.between(x, random_like(x, 5))
    got = gradients(y, [x, *offloaded.trained(step.layer)])
    assert all(torch.equal(mine, other) for mine, other in zip(got, grads, strict=True))


@pytest.mark.parametrize("small", [shared_inputs._SMALL, 0], ids=["at once", "when seen twice"])
def test_refills_reach_every_layer(small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_inputs, "_SMALL", small)

    @settings(max_examples=30, deadline=None, derandomize=True)
    @given(rounds=st.lists(ROUNDS, min_size=1, max_size=3))
    def check(rounds: list[tuple[Change, Use, Change | Slice, Use]]) -> None:
        offloaded = Offloaded()
        buffer = np.random.default_rng(0).standard_normal((TOKENS + 2, WIDTH)).astype(np.float32)
        x = torch.from_numpy(buffer[:TOKENS]).requires_grad_()
        for step in chain.from_iterable(rounds):
            if isinstance(step, Slice):
                x = torch.from_numpy(buffer[step.start : step.start + TOKENS]).requires_grad_()
            elif isinstance(step, Change):
                change(offloaded, x, step)
            else:
                use(offloaded, x, step)
        offloaded.device.close()

    check()


@pytest.mark.parametrize("refill", [by_numpy, by_data, one_element_by_numpy])
@pytest.mark.parametrize("layer", LAYERS)
def test_a_refilled_buffer_is_read_again(layer: str, refill: Callable[[Tensor, Tensor], None]) -> None:
    offloaded, x = Offloaded(), torch.from_numpy(np.ones((TOKENS, WIDTH), np.float32))
    offloaded.run(layer, x)
    refill(x, random_like(x, 1))
    expected = Offloaded().run(layer, x.clone())
    assert torch.equal(offloaded.run(layer, x), expected)


@pytest.mark.parametrize("index", [1, 100, WIDTH * OUT - 1])
def test_one_element_of_a_weight_is_enough(index: int) -> None:
    """64 samples of a weight were compared once: a merge that changes a few elements was not seen."""
    offloaded, x = Offloaded(), torch.randn(TOKENS, WIDTH)
    offloaded.run("frozen", x)
    offloaded.model.frozen.weight.data.view(-1)[index] += 3
    expected = Offloaded(offloaded.model.state_dict()).run("frozen", x)
    assert torch.equal(offloaded.run("frozen", x), expected)


def test_factors_that_change_before_backward_leave_its_gradients() -> None:
    """What waits for backward is what forward saw, also where torch cannot see the change."""
    offloaded, x = Offloaded(), torch.randn(TOKENS, WIDTH).requires_grad_()
    _, expected = without_sharing(offloaded.model.state_dict(), "adapted", x)
    y = offloaded.run("adapted", x)
    for factor in offloaded.trained("adapted"):
        factor.data.mul_(-2)
    offloaded.run("adapted", x)
    got = gradients(y, [x, *offloaded.trained("adapted")])
    assert all(torch.equal(mine, other) for mine, other in zip(got, expected, strict=True))


def test_weights_that_torch_saw_change_are_an_error_as_in_torch() -> None:
    offloaded, x = Offloaded(), torch.randn(TOKENS, WIDTH).requires_grad_()
    y = offloaded.run("frozen", x)
    with torch.no_grad():
        offloaded.model.frozen.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_layers_of_one_input_share_its_copy() -> None:
    """Three layers quantize what they all use once; a large input from the second model forward on."""
    offloaded, x = Offloaded(), torch.randn(TOKENS, WIDTH)
    session = offloaded.model.frozen.systolora_layer.session
    made = [session.shared.copies(x, name) for name in ("frozen", "other", "adapted")]
    assert made[0] is made[1] is made[2]
    large = [torch.randn(shared_inputs._SMALL // 4 + 1) for _ in range(2)]
    first = [session.shared.copies(large[0], name) for name in ("to_q", "to_k", "to_v")]
    assert first[0] is not first[1] and first[1] is first[2]
    second = [session.shared.copies(large[1], name) for name in ("to_q", "to_k", "to_v")]
    assert second[0] is second[1] is second[2]
