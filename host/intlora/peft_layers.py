"""The module classes that IntLoRA swaps in: the parameters and names of peft's adapted layers, another forward."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Conv2d as LoraConv2d
from peft.tuners.lora.layer import Linear as LoraLinear
from systolora.errors import UserError
from torch import Tensor

from .layer import IntegerLayer, integer_linear
from .patches import convolve
from .targets import AdaptedLayer, unheard

LAYER_ATTRIBUTE = "systolora_layer"

# torch.compile leaves the call as it is: a device cannot be traced.
_run = torch.compiler.disable(integer_linear)


class _IntegerWeight:
    """What the layers share. There is no `__init__`: existing layers get these classes (`swap`).

    With the adapter disabled or merged by peft, peft's own forward runs and is counted in `IntegerLayer.fallbacks`. A copy
    (`copy.deepcopy`) has integers of its own and shares the engine.
    """

    systolora_layer: IntegerLayer

    def integer_layer(self: Any) -> IntegerLayer:
        """The integers of the frozen weight as it is now: made anew if other values were loaded since.

        Raises:
            UserError: if peft has merged the adapter into the weight, or something was asked of the inner layers that would not be done.
        """
        layer: IntegerLayer = self.systolora_layer
        reason = "peft has merged its adapter into the weight; call unmerge()" if self.merged else unheard(self)
        if reason:
            raise UserError(f"intlora: layer {layer.name!r}: {reason}")
        layer.follow(self.get_base_layer().weight)
        return layer

    def factors(self: Any, name: str) -> tuple[Tensor, Tensor, float]:
        """(down [rank, in], up [out, rank], scaling) of an adapter; of a convolution `in` is in kh kw."""
        return self.lora_A[name].weight.flatten(1), self.lora_B[name].weight.flatten(1), float(self.scaling[name])

    def _falls_back(self: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a call is one for peft's own forward, which is counted."""
        reason = ""
        if self.disable_adapters or self.merged or len(self._active()) != 1:
            reason = "the adapter is disabled, merged, or not the only one"
        elif args or any(value is not None for value in kwargs.values()):
            reason = "called with extra arguments"
        if reason:
            self.systolora_layer.fallbacks[reason] += 1
        return bool(reason)

    def _active(self: Any) -> list[str]:
        return [name for name in self.active_adapters if name in self.lora_A]

    def _multiply(self: Any, rows: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        down, up, scaling = self.factors(self._active()[0])
        return _run(self.integer_layer(), rows, self.get_base_layer().bias, down, up, scaling)


class IntLoraLinear(_IntegerWeight, LoraLinear):
    """peft's adapted Linear whose weight, low-rank part included, is integers."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[..., in] to [..., out]."""
        if self._falls_back(args, kwargs):
            return LoraLinear.forward(self, x, *args, **kwargs)
        return self._multiply(x)


class IntLoraConv2d(_IntegerWeight, LoraConv2d):
    """peft's adapted Conv2d whose weight, low-rank part included, is integers; it is multiplied patch by patch."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[..., in, height, width] to [..., out, height', width']."""
        if self._falls_back(args, kwargs):
            plain: Tensor = LoraConv2d.forward(self, x, *args, **kwargs)
            return plain
        return convolve(self.get_base_layer(), x, self._multiply)


IntLoraLayer = IntLoraLinear | IntLoraConv2d
_CLASSES: dict[type, type] = {LoraLinear: IntLoraLinear, LoraConv2d: IntLoraConv2d}


def swap(module: AdaptedLayer, layer: IntegerLayer) -> IntLoraLayer:
    """Turns peft's layer into the one with integers, in place."""
    module.__dict__[LAYER_ATTRIBUTE] = layer
    module.__class__ = _CLASSES[type(module)]
    return module  # type: ignore[return-value]


def swap_back(module: IntLoraLayer) -> None:
    """Undoes `swap`."""
    module.__class__ = {ours: plain for plain, ours in _CLASSES.items()}[type(module)]
    module.__dict__.pop(LAYER_ATTRIBUTE, None)
