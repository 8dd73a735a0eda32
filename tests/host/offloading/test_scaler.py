"""float16 with a loss scaler: gradients that overflow reach the scaler, which skips the step, as without an offload."""

from __future__ import annotations

import copy

import pytest
import systolora
import torch
from peft import LoraConfig, inject_adapter_in_model
from systolora.intlora.peft import attach
from systolora.intlora.settings import IntLoraSettings
from systolora.offloading.attention import offloaded_attention
from systolora.offloading.layer import OffloadedLayer
from systolora.offloading.quantization import QuantizationConfig
from systolora.offloading.session import NonFiniteTensorError, Session
from systolora.sim.functional.emulator import EmulatorDevice
from torch import Tensor, nn

LARGE = 2.0**24
"""A scale with which the loss's gradient leaves the range of float16."""


class Model(nn.Module):
    """An adapted linear layer between frozen ones, and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1)
        self.to_k = nn.Linear(8, 16)
        self.last = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.to_k(self.conv(x).flatten(2).transpose(1, 2)))


def adapted(*layers: str) -> Model:
    torch.manual_seed(1)
    model = Model().requires_grad_(False)
    inject_adapter_in_model(
        LoraConfig(r=4, target_modules=list(layers or ("conv", "to_k")), init_lora_weights=False), model
    )
    return model


def train(model: nn.Module, steps: int, scale: float) -> tuple[list[float], list[list[Tensor]]]:
    """Scale before each step, and the factors after it."""
    generator = torch.Generator().manual_seed(3)
    x, target = torch.randn(2, 4, 4, 4, generator=generator), torch.randn(2, 16, 8, generator=generator)
    parameters = [value for value in model.parameters() if value.requires_grad]
    optimizer, scaler = torch.optim.SGD(parameters, 0.05), torch.amp.GradScaler("cpu", init_scale=scale)
    scales, factors = [], []
    for _ in range(steps):
        scales.append(scaler.get_scale())
        with torch.autocast("cpu", torch.float16):
            loss = (model(x).float() - target).square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        factors.append([value.detach().clone() for value in parameters])
    return scales, factors


@pytest.mark.parametrize("way", ["offload", "intlora"])
def test_steps_that_overflow_are_skipped_as_in_torch(way: str) -> None:
    model = adapted() if way == "offload" else adapted("to_k")  # integers are made for Linear layers alone
    start = [value.detach().clone() for value in model.parameters() if value.requires_grad]
    scales_in_torch, factors_in_torch = train(copy.deepcopy(model), 16, LARGE)
    if way == "offload":
        systolora.offload(model, targets="all")
    else:
        attach(model, IntLoraSettings(), EmulatorDevice(capacity_bytes=1 << 24))
    scales, factors = train(model, 16, LARGE)
    assert scales_in_torch[1] == scales[1] == LARGE / 2
    assert all(torch.equal(a, b) for a, b in zip(start, factors[0], strict=True))
    if way == "offload":
        assert scales == scales_in_torch
    else:  # IntLoRA's model is another one than the float model, with gradients of its own size
        assert all(after in (before, before / 2) for before, after in zip(scales, scales[1:], strict=False))
    assert min(scales) == scales[-1] < LARGE / 4, "the scale became small enough, and training went on"
    moved = [
        (mine - first).norm() / (other - first).norm()
        for mine, other, first in zip(factors[-1], factors_in_torch[-1], start, strict=True)
    ]
    least, most = (0.9, 1.1) if way == "offload" else (0.1, 10)
    assert all(least < float(share) < most for share in moved)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_gradients_of_what_is_not_finite_are_nan(bad: float) -> None:
    model = adapted()
    systolora.offload(model, targets="all")
    x = torch.randn(2, 4, 4, 4).requires_grad_()
    y = model(x)
    grad_y = torch.ones_like(y)
    grad_y[0, 3, 2] = bad
    y.backward(grad_y)
    assert x.grad is not None and not x.grad.isfinite().any()
    for name, value in model.named_parameters():
        if value.requires_grad:
            assert value.grad is not None and value.grad.shape == value.shape
            assert not value.grad.isfinite().any(), name
    with pytest.raises(NonFiniteTensorError, match="x holds a NaN"):
        model(x.detach() * bad)


def test_attention_passes_it_on_as_well() -> None:
    layer = OffloadedLayer(Session(EmulatorDevice(capacity_bytes=1 << 22), QuantizationConfig()), "attention", 0)
    q, k, v = (torch.randn(1, 2, 6, 8).requires_grad_() for _ in range(3))
    y = offloaded_attention(layer, q, k, v)
    y.backward(torch.full_like(y, torch.inf))
    assert all(x.grad is not None and x.grad.isnan().all() for x in (q, k, v))
    with torch.no_grad(), pytest.raises(NonFiniteTensorError):
        offloaded_attention(layer, q * torch.inf, k, v)


def test_without_a_scaler_the_next_forward_says_so() -> None:
    """Gradients that are not finite make factors that are not: training does not go on with them unseen."""
    model = adapted()
    systolora.offload(model, targets="all")
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], 0.1)
    (model(torch.randn(2, 4, 4, 4)).sum() * torch.inf).backward()
    optimizer.step()
    with pytest.raises(NonFiniteTensorError, match="cannot be quantized"):
        model(torch.randn(2, 4, 4, 4))
