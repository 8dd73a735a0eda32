"""Frozen weights that exist only as INT8 on the device: the float copy is given up, which is most of a model's memory.

A stand-in takes its place (stand_ins.py), so the model cannot be saved in that state (its adapter can). A weight that is loaded or
assigned then is quantized as well. `restore_weights` puts the integers times their scales back: the weight that training saw, not
the one that was loaded. A parameter that several modules own stays one.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from systolora.programs.transfers import element_type
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .convolution_programs import ConvolutionWeightPlan
from .convolution_shapes import ConvolutionShape
from .layer import OffloadedLayer
from .layer_programs import weight_plan
from .layer_writer import LayerShape
from .peft_layers import frozen_reason
from .session import Plan
from .stand_ins import base_layer, is_stand_in, stand_in


def release_weights(model: nn.Module, modules: Iterable[nn.Module]) -> None:
    """Quantizes the frozen weights of a model's offloaded modules now, and drops the float copies.

    A weight stays if it is not frozen, if a module that is not offloaded owns it as well, or if it is made anew before each forward
    (torch's parametrizations, and its old `spectral_norm` and `weight_norm`).
    """
    owners = Counter(id(weight) for module in model.modules() for weight in module._parameters.values())
    for group in _by_weight(modules):
        bases = [base_layer(module) for module in group]
        weight = bases[0]._parameters.get("weight")
        if weight is None:
            continue
        kept = weight.requires_grad or any(frozen_reason(base) for base in bases)
        if kept or owners[id(weight)] > len(group):
            continue
        released = nn.Parameter(stand_in(weight), requires_grad=False)
        for module, base in zip(group, bases, strict=True):
            _release(module, weight)
            base.weight = released


def restore_weights(modules: Iterable[nn.Module]) -> None:
    """Gives modules whose weights were released float weights again: the integers times their scales."""
    for group in _by_weight(modules):
        weight = _parameter(base_layer(group[0]))
        layers: list[OffloadedLayer] = [module.systolora_layer for module in group]  # type: ignore[misc]
        if layers[0].released and weight is not None and (weight.is_meta or is_stand_in(weight)):
            restored = nn.Parameter(_read(group[0]).to(_device(weight), weight.dtype), requires_grad=False)
            for module in group:
                _put_back(base_layer(module), restored)
        for layer in layers:
            layer.released = False
            for hook in layer.hooks:
                hook.remove()
            layer.hooks.clear()


def return_memory(layer: OffloadedLayer) -> None:
    """Gives what releasing left behind back: buffers in which weights were uploaded, and pages that the C library keeps."""
    layer.session.pool.trim()
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # a C library that is not glibc
        ctypes.CDLL(None).malloc_trim(0)


def _by_weight(modules: Iterable[nn.Module]) -> list[list[nn.Module]]:
    """Modules, together with those whose weight is the same parameter."""
    groups: dict[int, list[nn.Module]] = defaultdict(list)
    for module in modules:
        base = base_layer(module)
        weight = _parameter(base)
        groups[id(base if weight is None else weight)].append(module)
    return list(groups.values())


def _parameter(base: Any) -> Tensor | None:
    """The parameter behind a module's weight; None where hooks make the weight of others."""
    if parametrize.is_parametrized(base, "weight"):
        return getattr(base.parametrizations.weight, "original", None)
    return base._parameters.get("weight")


def _put_back(base: Any, weight: nn.Parameter) -> None:
    if parametrize.is_parametrized(base, "weight"):
        base.parametrizations.weight.original = weight
    else:
        base.weight = weight


def _release(module: nn.Module, weight: Tensor) -> None:
    """Quantizes a weight into the device memory of a module; the caller drops the float copy."""
    layer: OffloadedLayer = module.systolora_layer  # type: ignore[assignment]
    base = base_layer(module)
    shape = _convolution(base, layer)
    if shape is None:
        layer.place_weight(weight.view(len(weight), -1), _plan(base, layer))
    else:
        layer.place_weight(weight, _plan(base, layer), shape.weight_matrix)
    layer.released = True
    if not layer.hooks:
        _accept_loading(module, base, layer)


def _accept_loading(module: nn.Module, base: nn.Module, layer: OffloadedLayer) -> None:
    """Has `load_state_dict` work: a stand-in in the file leaves the weight as it is, another weight is quantized."""

    def before(base: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
        if layer.released and f"{prefix}weight" in state and is_stand_in(base.weight):
            base.weight.data = base.weight.data.contiguous()  # nothing can be copied into one element

    def after(base: Any, _: Any) -> None:
        if not layer.released:
            return
        if not is_stand_in(base.weight):
            _release(module, base.weight)
        base.weight.data = stand_in(base.weight)

    layer.hooks += [
        base.register_load_state_dict_pre_hook(before),
        base.register_load_state_dict_post_hook(after),
    ]


def _read(module: nn.Module) -> Tensor:
    """The integers times their scales, float32 in the shape of the weight."""
    layer: OffloadedLayer = module.systolora_layer  # type: ignore[assignment]
    base = base_layer(module)
    integers, scales = layer.read_weight(_plan(base, layer))
    shape = _convolution(base, layer)
    if shape is None:
        return (integers.float() * scales[:, None]).view(base.weight.shape)
    return shape.weight_of(integers.float() * scales)


def _device(weight: Tensor) -> torch.device:
    """Where a restored weight goes: a weight on the meta device had left the model."""
    return torch.device("cpu") if weight.is_meta else weight.device


def _plan(base: Any, layer: OffloadedLayer) -> Plan:
    """Of the program that quantizes the weight."""
    shape, source = _convolution(base, layer), element_type(base.weight.dtype)
    if shape is not None:
        return ConvolutionWeightPlan(shape, source)
    out, width = base.weight.flatten(1).shape
    return weight_plan(LayerShape(width, out, 0, False), source)


def _convolution(base: Any, layer: OffloadedLayer) -> ConvolutionShape | None:
    """The shape of a convolution that is none of the pixels alone."""
    if not isinstance(base, nn.Conv2d):
        return None
    shape = ConvolutionShape.of(base, layer.session.device.config.bus_bytes)
    return None if shape.pixelwise else shape
