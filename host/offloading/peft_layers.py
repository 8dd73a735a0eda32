"""The module classes that offloading swaps in: the parameters and names of peft's and torch's own, another forward."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn

from .convolution import offloaded_convolution
from .convolution_shapes import ConvolutionShape, unsupported, unsupported_image
from .layer import LAYER_ATTRIBUTE, OffloadedLayer
from .linear import Adapter, offloaded_linear
from .stand_ins import KeepsStandIn
from .watch import CallWatch
from .wrappers import is_wrapped, leads_to, rebind

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
        layer: OffloadedLayer | None = self.__dict__.get(LAYER_ATTRIBUTE)
        if layer is None:  # undone, but a wrapper still holds this forward
            return LoraLinear.forward(self, x, *args, **kwargs)
        layer.reached += 1
        if self.disable_adapters and self.merged:
            self.unmerge()
        active = [] if self.disable_adapters or self.merged else [a for a in self.active_adapters if a in self.lora_A]
        base = self.get_base_layer()
        reason = self._extras_reason(args, kwargs) or static_reason(self) or frozen_reason(base)
        reason = reason or self._adapter_reason(active)
        if reason:
            layer.fall_back(reason)
            return LoraLinear.forward(self, x, *args, **kwargs)
        layer.on_device += 1
        return _run(layer, x, base.weight, base.bias, self._adapter(active[0], x) if active else None)

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
            if _has_hooks(self.lora_A[name]) or _has_hooks(self.lora_B[name]):
                return "a layer of the adapter has hooks"
            if type(self.lora_A[name]) is not nn.Linear or type(self.lora_B[name]) is not nn.Linear:
                return "a layer of the adapter is no plain Linear"
        return ""


class OffloadedLinear(KeepsStandIn, nn.Linear):
    """torch's Linear with its frozen weight on the device."""

    systolora_layer: OffloadedLayer

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] to [..., out]; as torch's, in INT8."""
        layer: OffloadedLayer | None = self.__dict__.get(LAYER_ATTRIBUTE)
        if layer is None:  # undone, but a wrapper still holds this forward
            return nn.Linear.forward(self, input)
        layer.reached += 1
        reason = frozen_reason(self)
        if reason:
            layer.fall_back(reason)
            return nn.Linear.forward(self, input)
        layer.on_device += 1
        return _run(layer, input, self.weight, self.bias)


class OffloadedConv2d(KeepsStandIn, nn.Conv2d):
    """torch's Conv2d with its frozen weight on the device."""

    systolora_layer: OffloadedLayer

    def forward(self, input: Tensor) -> Tensor:
        """[batch, in, height, width] to [batch, out, height, width]; as torch's, in INT8."""
        layer: OffloadedLayer | None = self.__dict__.get(LAYER_ATTRIBUTE)
        if layer is None:  # undone, but a wrapper still holds this forward
            return nn.Conv2d.forward(self, input)
        layer.reached += 1
        shape = ConvolutionShape.of(self, layer.session.device.config.bus_bytes)
        reason = frozen_reason(self) or unsupported_image(shape, input)
        if reason:
            layer.fall_back(reason)
            return nn.Conv2d.forward(self, input)
        layer.on_device += 1
        return _run_convolution(layer, shape, input, self.weight, self.bias)


def frozen_reason(base: nn.Module) -> str:
    """Why a Linear's own weight cannot be multiplied on the device at this moment; "" if it can."""
    weight = base.weight
    if weight.requires_grad and torch.is_grad_enabled():
        return "the weight is trainable"
    layer: OffloadedLayer | None = base.__dict__.get(LAYER_ATTRIBUTE)
    if layer is not None and layer.released and "weight" not in base._parameters:
        return "its weight was parametrized after it had been released"
    if weight.device.type == "meta":
        return "the weight is on the meta device"
    if torch.jit.is_tracing() or torch.compiler.is_exporting():
        return "the model is being traced or exported"
    return "" if isinstance(base, (OffloadedLinear, OffloadedConv2d)) else _base_reason(base)


def _base_reason(base: nn.Module) -> str:
    """Why the weight of an adapted layer's base cannot be read past its forward; "" if it can."""
    if _has_hooks(base):
        return "the base layer has hooks"
    hooks = getattr(base.__dict__.get("_diffusers_hook"), "hooks", {})
    # Layerwise casting stores the weight in a smaller type: the values are there, whatever its hook does before a forward.
    if is_wrapped(base) and (set(hooks) != {"layerwise_casting"} or "_hf_hook" in base.__dict__):
        return "the base layer's forward is wrapped"
    return ""


def _has_hooks(part: nn.Module) -> bool:
    """Whether somebody else's hooks, forward or backward, expect a part of an adapted layer to be called."""
    others = part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
    return bool(others) or any(not isinstance(hook, CallWatch) for hook in part._forward_hooks.values())


def static_reason(module: nn.Module) -> str:
    """Why a module can never run on the device; "" if it can."""
    plain = next((kind for kind, ours in _OFFLOADED.items() if type(module) in (kind, ours)), None)
    if plain and is_wrapped(module) and not leads_to(module, (plain.forward, _OFFLOADED[plain].forward)):
        return "its forward was replaced on the instance, so that of the class is never called"
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
    """Turns peft's Linear, or torch's Linear or Conv2d, into the offloaded one, in place, its wrappers included."""
    plain = type(module)
    module.__class__ = _OFFLOADED[plain]
    module.__dict__[LAYER_ATTRIBUTE] = layer
    rebind(module, (plain.forward,))


def swap_back(module: nn.Module) -> None:
    """Undoes `swap`, whatever was put around the class or the forward since."""
    for plain, offloaded in _OFFLOADED.items():
        if isinstance(module, offloaded):
            module.__class__ = _without(type(module), offloaded, plain)
            rebind(module, (offloaded.forward,))
    module.__dict__.pop(LAYER_ATTRIBUTE, None)


def _without(kind: type, offloaded: type[nn.Module], plain: type[nn.Module]) -> type:
    """A class with an offloaded one replaced among its bases: torch's parametrizations and FSDP derive one for each module."""
    if kind is offloaded:
        return plain
    if offloaded not in kind.__mro__:
        return kind
    bases = tuple(_without(base, offloaded, plain) for base in kind.__bases__)
    members = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
    return type(kind.__name__.replace(offloaded.__name__, plain.__name__), bases, members)


def is_offloaded(module: nn.Module) -> bool:
    """Whether a module is one that `swap` made."""
    return isinstance(module, tuple(_OFFLOADED.values()))


_OFFLOADED: dict[type[nn.Module], type[nn.Module]] = {
    LoraLinear: OffloadedLoraLinear,
    nn.Linear: OffloadedLinear,
    nn.Conv2d: OffloadedConv2d,
}
