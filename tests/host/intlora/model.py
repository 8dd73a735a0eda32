"""A small model with peft adapters, for the tests of IntLoRA."""

from __future__ import annotations

import torch
from peft import LoraConfig, inject_adapter_in_model
from systolora.intlora.peft import IntLoraHandle, attach
from systolora.intlora.settings import IntLoraSettings
from systolora.sim.functional.device import Device
from torch import Tensor, nn

RANK = 4


class SmallModel(nn.Module):
    """Two layers that are adapted, one with a bias, and one that is not."""

    def __init__(self, inner: int = 48) -> None:
        super().__init__()
        self.to_k = nn.Linear(inner, 40)
        self.to_v = nn.Linear(inner, 32, bias=False)
        self.last = nn.Linear(72, 8)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inner] to [..., 8]."""
        return self.last(torch.cat([self.to_k(x), self.to_v(x)], -1))


def small_model(seed: int = 0, adapted: bool = True, inner: int = 48) -> SmallModel:
    """The model with frozen weights and, if wanted, an adapter of rank 4 and alpha 8."""
    torch.manual_seed(seed)
    model = SmallModel(inner)
    model.requires_grad_(False)
    if adapted:
        config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=["to_k", "to_v"], init_lora_weights="gaussian")
        inject_adapter_in_model(config, model)
    return model


def train_small(
    model: nn.Module, settings: IntLoraSettings, device: Device | None, steps: int, start: int = 0
) -> tuple[IntLoraHandle, list[float]]:
    """Fits the model to random targets; the handle and the loss of each step."""
    generator = torch.Generator().manual_seed(1)
    x, target = torch.randn(16, 48, generator=generator), torch.randn(16, 8, generator=generator)
    handle = attach(model, settings, device)
    parameters = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.SGD(parameters, 0.3)
    losses = []
    for step in range(start, steps):
        handle.step = step
        loss = (model(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return handle, losses
