"""Operations in place on what offloaded layers return: the same as on a copy of it, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import systolora
import torch
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from systolora.intlora.peft import attach
from systolora.intlora.settings import IntLoraSettings
from systolora.offloading.attention import offloaded_attention
from systolora.offloading.layer import OffloadedLayer
from systolora.offloading.quantization import QuantizationConfig
from systolora.offloading.session import Session
from systolora.sim.functional.emulator import EmulatorDevice
from torch import Tensor, nn


def add_in_place(y: Tensor) -> Tensor:
    y += 1
    return y


def mask_in_place(y: Tensor) -> Tensor:
    return y.masked_fill_(y.detach() > 0.5, 0.0)


def change_a_slice(y: Tensor) -> Tensor:
    y[..., 1:3] *= 2
    return y


def change_a_view(y: Tensor) -> Tensor:
    y.transpose(0, 1).mul_(3)
    return y


OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": nn.ReLU(inplace=True),
    "dropout": nn.Dropout(0.3, inplace=True),
    "silu": nn.SiLU(inplace=True),
    "add": add_in_place,
    "masked_fill": mask_in_place,
    "slice": change_a_slice,
    "view": change_a_view,
}
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(16, 24), (5, 16)),
    "linear of three dimensions": (lambda: nn.Linear(16, 24), (2, 5, 16)),
    "convolution": (lambda: nn.Conv2d(8, 12, 3, padding=1), (2, 8, 5, 5)),
    "convolution of pixels": (lambda: nn.Conv2d(8, 12, 1), (2, 8, 5, 5)),
}


class Holder(nn.Module):
    """A layer, and an operation on what it returns or on a copy of that."""

    def __init__(self, layer: nn.Module, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = layer
        self.operation = operation
        self.copied = False

    def forward(self, x: Tensor) -> Tensor:
        torch.manual_seed(11)  # of dropout
        y: Tensor = self.layer(x)
        return self.operation(y.clone() if self.copied else y)


def value_and_gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = model(x)
    leaves = [x, *(value for value in model.parameters() if value.requires_grad)]
    grads = torch.autograd.grad(y.float().square().sum(), leaves)
    return [y.detach().float(), *(grad.float() for grad in grads)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", LAYERS)
def test_in_place_after_a_layer(kind: str, operation: str, adapted: bool, dtype: torch.dtype) -> None:
    make, shape = LAYERS[kind]
    if adapted and not kind.startswith("linear"):
        pytest.skip("adapted convolutions run in torch")
    torch.manual_seed(2)
    model = Holder(make(), OPERATIONS[operation]).requires_grad_(False)
    if adapted:
        inject_adapter_in_model(LoraConfig(r=2, target_modules=["layer"], init_lora_weights=False), model)
    systolora.offload(model.to(dtype), targets="all")
    x = torch.randn(shape).to(dtype)
    got = value_and_gradients(model, x)
    model.copied = True
    expected = value_and_gradients(model, x)
    assert len(got) == (4 if adapted else 2)
    torch.testing.assert_close(got, expected)


def test_in_place_after_attention() -> None:
    layer = OffloadedLayer(Session(EmulatorDevice(capacity_bytes=1 << 22), QuantizationConfig()), "attention", 0)
    q, k, v = (torch.randn(1, 2, 6, 8).requires_grad_() for _ in range(3))
    plain = torch.autograd.grad((offloaded_attention(layer, q, k, v) * 2).sum(), [q, k, v])
    y = offloaded_attention(layer, q, k, v)
    y *= 2
    assert all(torch.equal(a, b) for a, b in zip(torch.autograd.grad(y.sum(), [q, k, v]), plain, strict=True))


def test_in_place_after_an_integer_layer() -> None:
    torch.manual_seed(0)
    model = Holder(nn.Linear(16, 24), nn.ReLU(inplace=True)).requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["layer"]), model)
    attach(model, IntLoraSettings(), None)
    x = torch.randn(5, 16)
    got = value_and_gradients(model, x)
    model.copied = True
    assert all(torch.equal(a, b) for a, b in zip(got, value_and_gradients(model, x), strict=True))


def test_a_result_changed_in_place_is_another_input() -> None:
    """The result of one layer feeds two, and is changed between them: the second one must not get the first one's copy."""
    torch.manual_seed(4)
    model = nn.ModuleDict({"first": nn.Linear(8, 8), "second": nn.Linear(8, 8), "third": nn.Linear(8, 8)})
    model.requires_grad_(False)
    systolora.offload(model, targets="all")
    y = model["first"](torch.randn(4, 8).requires_grad_())
    model["second"](y)
    y.data.mul_(-1)
    assert torch.equal(model["third"](y), model["third"](y.clone()))
    y += 1
    assert torch.equal(model["third"](y), model["third"](y.clone()))


def test_results_changed_in_place_leave_gradients_and_other_results() -> None:
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(8, 8)).requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["0"], init_lora_weights=False), model)
    systolora.offload(model, targets="all")
    x = torch.randn(4, 8).requires_grad_()
    expected = value_and_gradients(model, x.detach())
    first, second = model(x), model(x)
    kept = second.detach().clone()
    first.detach().zero_()
    assert torch.equal(second, kept)
    leaves = [x, *(value for value in model.parameters() if value.requires_grad)]
    got = torch.autograd.grad(second.square().sum(), leaves)
    assert all(torch.equal(a, b) for a, b in zip(got, expected[1:], strict=True))


def test_mixed_batches_of_peft() -> None:
    """peft adds each adapter's part to rows of the base layer's result, in place."""
    torch.manual_seed(6)
    config = LoraConfig(r=2, target_modules=["layer"], init_lora_weights=False)
    model = get_peft_model(Holder(nn.Linear(16, 24), nn.Identity()), config)
    model.add_adapter("second", config)
    x = torch.randn(4, 16)
    names = {"adapter_names": ["default", "second", "__base__", "default"]}
    model.eval()
    expected = model(x, **names)
    systolora.offload(model, targets="all")
    got = model(x.requires_grad_(), **names)
    torch.testing.assert_close(got, expected)
    got.sum().backward()
