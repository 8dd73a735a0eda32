"""What torch, diffusers, accelerate and peft do to a module, before and after `offload`: results, what ran, and `undo`.

The table of docs/training.md is this one.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import systolora
import torch
from accelerate import cpu_offload, dispatch_model
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from diffusers.hooks import apply_group_offloading, apply_layerwise_casting
from diffusers.models.attention import BasicTransformerBlock
from diffusers.training_utils import EMAModel
from peft import LoraConfig, inject_adapter_in_model
from systolora.offloading.peft_layers import is_offloaded
from systolora.offloading.report import OffloadReport
from torch import Tensor, nn
from torch.nn.utils import parametrize, parametrizations, spectral_norm, weight_norm

ERROR = 0.03
"""Largest relative difference (2-norm) from the float model to which the same was done: INT8 through ten layers in a row."""
LINEAR = 11


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class Net(nn.Module):
    """A transformer block of diffusers between two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 16)
        self.block = BasicTransformerBlock(16, 2, 8, cross_attention_dim=24, activation_fn="gelu")

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        return self.block(self.head(x), encoder_hidden_states=text)


def make(adapted: bool = False) -> Net:
    torch.manual_seed(0)
    model = Net().requires_grad_(False)
    if adapted:
        torch.manual_seed(1)
        config = LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
        inject_adapter_in_model(config, model)
    return model


def run(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Output, and gradient of the input."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(2, 9, 16, generator=generator, requires_grad=True)
    text = torch.randn(2, 5, 24, generator=generator)
    y = model(x, text)
    y.float().square().mean().backward()
    assert x.grad is not None
    return y.detach().float(), x.grad.float()


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def leaves(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.Linear)]
