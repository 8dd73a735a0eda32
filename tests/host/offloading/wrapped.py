"""A small transformer block, and what torch, diffusers, accelerate and peft do to a module."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import systolora
import torch
from accelerate import cpu_offload, dispatch_model
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from diffusers.hooks import apply_group_offloading, apply_layerwise_casting
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import FusedAttnProcessor2_0
from diffusers.training_utils import EMAModel
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm

ERROR = 0.03
"""Largest relative difference (2-norm) from the float model to which the same was done: INT8 through ten layers in a row."""

LINEAR = 11


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


class Scaled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 1.1 * weight


def nothing(model: Net) -> nn.Module:
    return model


def forward_hooks(model: Net) -> nn.Module:
    for layer in leaves(model):
        layer.register_forward_pre_hook(lambda _, inputs: (1.5 * inputs[0],))
        layer.register_forward_hook(lambda _, __, output: 0.7 * output)
    return model


def backward_hooks(model: Net) -> nn.Module:
    for layer in leaves(model):
        layer.register_full_backward_hook(lambda _, grads, __: tuple(None if g is None else 1.2 * g for g in grads))
    return model


def layerwise_casting(model: Net) -> nn.Module:
    skip = ("norm", "lora_A", "lora_B")  # as `enable_layerwise_casting` does
    apply_layerwise_casting(model, torch.float8_e4m3fn, torch.float32, skip_modules_pattern=skip)
    return model


def group_offload(model: Net) -> nn.Module:
    cpu = torch.device("cpu")
    apply_group_offloading(model, onload_device=cpu, offload_device=cpu, offload_type="leaf_level")
    return model


def accelerate_hooks(model: Net) -> nn.Module:
    for layer in leaves(model):
        add_hook_to_module(layer, ModelHook())
        add_hook_to_module(layer, ModelHook(), append=True)
    return model


def accelerate_hooks_removed(model: Net) -> nn.Module:
    remove_hook_from_module(accelerate_hooks(model), recurse=True)
    return model


def dispatched(model: Net) -> nn.Module:
    return dispatch_model(model, {"": "cpu"}, force_hooks=True)


def weights_on_meta(model: Net) -> nn.Module:
    return cpu_offload(model, torch.device("cpu"))


def parametrized(model: Net) -> nn.Module:
    for layer in leaves(model):
        parametrize.register_parametrization(layer, "weight", Scaled())
    return model


def parametrization_removed(model: Net) -> nn.Module:
    for layer in leaves(parametrized(model)):
        parametrize.remove_parametrizations(layer, "weight")
    return model


def weight_norm_new(model: Net) -> nn.Module:
    for layer in leaves(model):
        parametrizations.weight_norm(layer)
    return model.requires_grad_(False)


def weight_norm_old(model: Net) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for layer in leaves(model):
            weight_norm(layer)
    return model.requires_grad_(False)


def spectral_norm_old(model: Net) -> nn.Module:
    for layer in leaves(model):
        spectral_norm(layer, n_power_iterations=50)
        for hook in layer._forward_pre_hooks.values():
            hook(layer, ())  # in training mode it estimates the norm; in evaluation it keeps the estimate
    return model.requires_grad_(False).eval()


def fused(model: Net) -> nn.Module:
    for attention in (model.block.attn1, model.block.attn2):
        attention.fuse_projections()
        attention.set_processor(FusedAttnProcessor2_0())
    return model.requires_grad_(False)


def moving_average(model: Net) -> nn.Module:
    average = EMAModel(model.parameters(), decay=0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.2)
    average.step(model.parameters())
    average.store(model.parameters())
    average.copy_to(model.parameters())
    return model


def copied(model: Net) -> nn.Module:
    return copy.deepcopy(model)


def compiled(model: Net) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


def data_parallel(model: Net) -> nn.Module:
    return nn.DataParallel(model)


def traced(model: Net) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(model, (torch.randn(2, 9, 16), torch.randn(2, 5, 24)), check_trace=False)


def exported(model: Net) -> nn.Module:
    return torch.export.export(model, (torch.randn(2, 9, 16), torch.randn(2, 5, 24))).module()


def in_bfloat16(model: Net) -> nn.Module:
    model.register_forward_pre_hook(lambda _, inputs: tuple(x.bfloat16() for x in inputs))
    return model.to(torch.bfloat16)


def own_forward(model: Net) -> nn.Module:
    """A forward that never comes back to the layer's own."""
    for layer in leaves(model):
        layer.forward = lambda x, layer=layer: nn.functional.linear(x, layer.weight, layer.bias)  # type: ignore[method-assign]
    return model


class Outside(nn.Module):
    """An adapter as kohya's networks have it: outside the model, in the place of a layer's forward, which it calls."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.down = nn.Linear(layer.in_features, 2, bias=False)
        self.up = nn.Linear(2, layer.out_features, bias=False)
        self.org_forward = layer.forward
        layer.forward = self.forward  # type: ignore[method-assign]

    def forward(self, x: Tensor) -> Tensor:
        return self.org_forward(x) + self.up(self.down(x))


def adapted_outside(model: Net) -> nn.Module:
    torch.manual_seed(3)
    for layer in leaves(model):
        Outside(layer)
    return model


HOOKS, WRAPPED, META = (
    "the base layer has hooks",
    "the base layer's forward is wrapped",
    "the weight is on the meta device",
)


def wrap(act: Callable[[Net], nn.Module], when: str, adapted: bool) -> tuple[nn.Module, Any]:
    if when == "before":
        wrapped = act(make(adapted))
        handle = systolora.offload(wrapped, "linear")
        return wrapped, handle
    model = make(adapted)
    handle = systolora.offload(model, "linear")
    return act(model), handle
