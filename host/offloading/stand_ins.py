"""What a released weight leaves in its module: a parameter of the same name, shape and type whose elements are all one NaN.

It takes the memory of one element, and whatever computes with it shows that at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def stand_in(weight: Tensor) -> Tensor:
    """A stand-in for a weight, with its shape, type and device."""
    return torch.full((1,), torch.nan, dtype=weight.dtype, device=weight.device).expand(weight.shape)


def is_stand_in(weight: Tensor) -> bool:
    """Whether a weight is a stand-in, or was made from one by copying or converting: it holds nothing but NaN."""
    if weight.untyped_storage().nbytes() <= weight.element_size():
        weight = weight[(0,) * weight.dim()]
    return bool(weight.isnan().all())


def base_layer(module: Any) -> Any:
    """The module that owns an offloaded module's frozen weight: itself, or what peft wrapped."""
    return module.get_base_layer() if hasattr(module, "get_base_layer") else module


class KeepsStandIn:
    """In front of an offloaded module's class: its stand-in stays small when the model moves to another type or device, which makes new tensors."""

    systolora_layer: Any

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """What `to`, `half`, `cuda` and the like do to a module's tensors."""
        base = base_layer(self)
        keeps = self.systolora_layer.released and (base.weight.is_meta or is_stand_in(base.weight))
        super()._apply(fn, recurse)  # type: ignore[misc]
        if keeps:
            base.weight.data = stand_in(base.weight)
        return self
