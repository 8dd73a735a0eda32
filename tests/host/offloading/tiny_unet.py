"""A tiny U-Net of diffusers with an adapter, and how it is trained."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor, nn
from torch.nn import functional

KEY_VALUE = ["attn2.to_k", "attn2.to_v"]
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
ADAPTED_OUTPUT_ERROR = 0.01
"""Largest relative difference between the INT8 model's output and that of float32 with the same adapter."""
GRADIENT_ERROR = 0.05
"""Largest relative error of any factor's gradient through the whole U-Net."""


def make_unet() -> UNet2DConditionModel:
    torch.manual_seed(1)
    return UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(32, 64),
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
    )


def adapted(modules: list[str] | None = None, *, trained: bool = False, **settings: Any) -> UNet2DConditionModel:
    """A tiny U-Net with an adapter of rank 4; `trained`: `up` is not zero."""
    unet = make_unet()
    unet.requires_grad_(False)
    torch.manual_seed(7)
    options = {"r": 4, "lora_alpha": 4, "init_lora_weights": "gaussian", "target_modules": modules or ATTENTION}
    unet.add_adapter(LoraConfig(**{**options, **settings}))
    if trained:
        randomize(unet)
    return unet


def randomize(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05, generator=generator)


def batch(index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 + index)
    noise = torch.randn(2, 4, 8, 8, generator=generator)
    timesteps = torch.randint(0, 1000, (2,), generator=generator)
    return torch.randn(2, 4, 8, 8, generator=generator), timesteps, torch.randn(2, 7, 32, generator=generator), noise


def loss_of(unet: nn.Module, index: int) -> Tensor:
    x, timesteps, text, noise = batch(index)
    return functional.mse_loss(unet(x, timesteps, text).sample, noise)


def output_of(unet: nn.Module) -> Tensor:
    x, timesteps, text, _ = batch(99)
    with torch.no_grad():
        return unet(x, timesteps, text).sample


def train(unet: nn.Module, steps: int = 4, start: int = 0) -> list[float]:
    parameters = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=5e-3)
    losses = []
    for index in range(start, start + steps):
        loss = loss_of(unet, index)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def gradients(unet: nn.Module) -> dict[str, Tensor]:
    loss_of(unet, 0).backward()
    found = {name: p.grad.clone() for name, p in unet.named_parameters() if p.grad is not None}
    unet.zero_grad()
    return found


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())
