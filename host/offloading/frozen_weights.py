"""Frozen weights that exist only as INT8 on the device: the float copy is given up, which is most of a model's memory.

The parameter keeps its name, shape and type, but all its elements are one NaN: whatever computes with it shows that at once. So the
model cannot be saved in that state (its adapter can). `restore_weight` puts the integers times their scales in its place: the
weight that training saw, not the one that was loaded.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
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


def release_weight(module: nn.Module) -> None:
    """Quantizes the frozen weight of an offloaded module now, and drops the float copy; does nothing if it is not frozen, or is
    made anew by hooks before each forward (torch's old `spectral_norm` and `weight_norm`)."""
    layer: OffloadedLayer = module.systolora_layer  # type: ignore[assignment]
    base = _base(module)
    weight: Tensor = base.weight
    if layer.released or weight.requires_grad or "weight" not in base._parameters or frozen_reason(base):
        return
    shape = _convolution(base, layer)
    if shape is None:
        layer.place_weight(weight.view(len(weight), -1), _plan(base, layer))
    else:
        layer.place_weight(weight, _plan(base, layer), shape.weight_matrix)
    layer.released = True
    stand_in = torch.full((1,), torch.nan, dtype=weight.dtype, device=weight.device).expand(weight.shape)
    base.weight = nn.Parameter(stand_in, requires_grad=False)


def restore_weight(module: nn.Module) -> None:
    """Gives a module whose weight was released a float weight again: the integers times their scales."""
    layer: OffloadedLayer = module.systolora_layer  # type: ignore[assignment]
    if not layer.released:
        return
    base = _base(module)
    integers, scales = layer.read_weight(_plan(base, layer))
    shape = _convolution(base, layer)
    if shape is None:
        values = (integers.float() * scales[:, None]).view(base.weight.shape)
    else:
        values = shape.weight_of(integers.float() * scales)
    layer.released = False
    parameter = nn.Parameter(values.to(base.weight.device, base.weight.dtype), requires_grad=False)
    if parametrize.is_parametrized(base, "weight"):
        base.parametrizations.weight.original = parameter
    else:
        base.weight = parameter


def return_memory(layer: OffloadedLayer) -> None:
    """Gives what releasing left behind back: buffers in which weights were uploaded, and pages that the C library keeps."""
    layer.session.pool.trim()
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # a C library that is not glibc
        ctypes.CDLL(None).malloc_trim(0)


def _plan(base: Any, layer: OffloadedLayer) -> Plan:
    """Of the program that quantizes the weight."""
    shape, source = _convolution(base, layer), element_type(base.weight)
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


def _base(module: Any) -> Any:
    return module.get_base_layer() if hasattr(module, "get_base_layer") else module
