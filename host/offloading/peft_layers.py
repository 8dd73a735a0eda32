"""The module classes that offloading swaps in: the parameters and names of peft's and torch's own, another forward."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn

from .convolution import offloaded_convolution
from .convolution_shapes import ConvolutionShape, unsupported, unsupported_image
from .layer import OffloadedLayer
from .linear import Adapter, offloaded_linear
from .stand_ins import KeepsStandIn

LAYER_ATTRIBUTE = "systolora_layer"
"""Where a swapped module keeps its `OffloadedLayer`; not a parameter, buffer or module, so no state dict sees it."""

# torch.compile leaves the call as it is: a device cannot be traced.
_run = torch.compiler.disable(offloaded_linear)
_run_convolution = torch.compiler.disable(offloaded_convolution)


class OffloadedLoraLinear(KeepsStandIn, LoraLinear):
    """peft's adapted Linear with frozen weight and adapter on the device.

    There is no `__init__`: existing layers get this class (`swap`). Whatever the device cannot do runs in peft's own forward and
    is counted with its reason in `OffloadedLayer.fallbacks`.
    """

    systolora_layer: OffloadedLayer

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[..., in] to [..., out]; as peft's, in INT8."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        active = [] if self.disable_adapters or self.merged else [a for a in self.active_adapters if a in self.lora_A]
        base = self.get_base_layer()
        reason = self._extras_reason(args, kwargs) or static_reason(self) or frozen_reason(base)
        reason = reason or self._adapter_reason(active)
        if reason:
            self.systolora_layer.fall_back(reason)
            return super().forward(x, *args, **kwargs)
        return _run(self.systolora_layer, x, base.weight, base.bias, self._adapter(active[0], x) if active else None)

    def _adapter(self, name: str, x: Tensor) -> Adapter:
        down: Any = self.lora_A[name]
        up: Any = self.lora_B[name]
        dropout = self.lora_dropout[name]
        masked = dropout(x) if self.training and not isinstance(dropout, nn.Identity) else None
        return Adapter(down.weight, up.weight, self.scaling[name], masked)

    @staticmethod
    def _extras_reason(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        given = [name for name, value in kwargs.items() if value is not None]
        if args or given:
            return f"called with extra arguments ({', '.join(given) or 'positional'})"
        return ""

    def _adapter_reason(self, active: list[str]) -> str:
        if len(active) > 1:
            return f"{len(active)} adapters are active at once"
        for name in active:
            if name in self.lora_variant:
                return f"adapter variant {type(self.lora_variant[name]).__name__}"
            if self.lora_bias[name]:
                return "the adapter has a bias (lora_bias)"
        return ""


class OffloadedLinear(KeepsStandIn, nn.Linear):
    """torch's Linear with its frozen weight on the device."""

    systolora_layer: OffloadedLayer

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] to [..., out]; as torch's, in INT8."""
        reason = frozen_reason(self)
        if reason:
            self.systolora_layer.fall_back(reason)
            return super().forward(input)
        return _run(self.systolora_layer, input, self.weight, self.bias)


class OffloadedConv2d(KeepsStandIn, nn.Conv2d):
    """torch's Conv2d with its frozen weight on the device."""

    systolora_layer: OffloadedLayer

    def forward(self, input: Tensor) -> Tensor:
        """[batch, in, height, width] to [batch, out, height, width]; as torch's, in INT8."""
        layer = self.systolora_layer
        shape = ConvolutionShape.of(self, layer.session.device.config.bus_bytes)
        reason = frozen_reason(self) or unsupported_image(shape, input)
        if reason:
            layer.fall_back(reason)
            return super().forward(input)
        return _run_convolution(layer, shape, input, self.weight, self.bias)


def frozen_reason(base: nn.Module) -> str:
    """Why a Linear's own weight cannot be multiplied on the device at this moment; "" if it can."""
    weight = base.weight
    if weight.requires_grad and torch.is_grad_enabled():
        return "the weight is trainable"
    if weight.device.type == "meta":
        return "the weight is on the meta device"
    if not isinstance(base, (OffloadedLinear, OffloadedConv2d)) and (base._forward_hooks or base._forward_pre_hooks):
        return "the base layer has hooks"
    return ""


def static_reason(module: nn.Module) -> str:
    """Why a module can never run on the device; "" if it can."""
    base: Any = module.get_base_layer() if isinstance(module, LoraLinear) else module
    if type(base) in (nn.Conv2d, OffloadedConv2d):
        return unsupported(base) or _weight_reason(base)
    if type(base) not in (nn.Linear, OffloadedLinear):
        return f"a {type(base).__name__} is not a torch Linear"
    reason = _weight_reason(base)
    if reason:
        return reason
    if getattr(module, "fan_in_fan_out", False):
        return "the weight is stored transposed (fan_in_fan_out)"
    return ""


def _weight_reason(base: Any) -> str:
    if not base.weight.is_floating_point() or 0 in base.weight.shape:
        return f"a weight of {list(base.weight.shape)} {str(base.weight.dtype).removeprefix('torch.')}"
    return ""


def swap(module: nn.Module, layer: OffloadedLayer) -> None:
    """Turns peft's Linear, or torch's Linear or Conv2d, into the offloaded one, in place."""
    module.__class__ = _OFFLOADED[type(module)]
    module.__dict__[LAYER_ATTRIBUTE] = layer


def swap_back(module: nn.Module) -> None:
    """Undoes `swap`."""
    module.__class__ = {offloaded: plain for plain, offloaded in _OFFLOADED.items()}[type(module)]
    module.__dict__.pop(LAYER_ATTRIBUTE, None)


def is_offloaded(module: nn.Module) -> bool:
    """Whether a module is one that `swap` made."""
    return isinstance(module, tuple(_OFFLOADED.values()))


_OFFLOADED: dict[type[nn.Module], type[nn.Module]] = {
    LoraLinear: OffloadedLoraLinear,
    nn.Linear: OffloadedLinear,
    nn.Conv2d: OffloadedConv2d,
}
