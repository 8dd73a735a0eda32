"""Which layers of a model get integers, under which names, and one line for each that cannot have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from peft.tuners.lora.layer import Conv2d as LoraConv2d
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from systolora.errors import UserError
from systolora.offloading.peft_layers import static_reason
from torch import Tensor, nn

from .settings import LARGEST_WEIGHT

AdaptedLayer: TypeAlias = Any
"""One of `_KINDS`; peft's classes are not typed."""
_KINDS = (LoraLinear, LoraConv2d)
"""peft's layers that can have integers."""

_NAMED = 3
"""Layers that a refusal names; of more it says how many."""


def plain_model(model: nn.Module) -> nn.Module:
    """The model inside wrappers that put a name of their own before its layers': peft's, torch.compile's, data parallelism's."""
    while True:
        if isinstance(model, PeftModel):
            model = model.get_base_model()
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def adapted_layers(model: nn.Module) -> dict[str, AdaptedLayer]:
    """The layers of a model with a LoRA adapter, by the name that they have in the plain model.

    Raises:
        UserError: if there is none, or one that integers cannot follow: nothing adapted is left out.
    """
    found: dict[str, AdaptedLayer] = {}
    others: list[str] = []
    for name, module in plain_model(model).named_modules():
        if isinstance(module, _KINDS):
            found[name] = module
        elif isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            others.append(f"{name!r} ({type(module).__name__})")
    if others:
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        raise UserError(
            f"intlora: integer weights are made for adapted Linear and Conv2d layers alone, but {', '.join(others[:_NAMED])}{more} "
            "are adapted too; leave them out of target_modules and modules_to_save"
        )
    if not found:
        raise UserError("intlora: the model has no layer with a LoRA adapter: call add_adapter first")
    for name, module in found.items():
        reason = _refused(module)
        if reason:
            raise UserError(f"intlora: layer {name!r} cannot have integer weights: {reason}")
    return found


def _refused(module: AdaptedLayer) -> str:
    if type(module) not in _KINDS:
        return "it is offloaded already"
    if module.merged:
        return "peft has merged its adapter into the weight, which would count twice; call unmerge() first"
    if len(module.active_adapters) != 1:
        return f"{len(module.active_adapters)} adapters are active"
    if any(not isinstance(dropout, nn.Identity) for dropout in module.lora_dropout.values()):
        return "it has LoRA dropout, which a merged weight cannot follow"
    if module.lora_variant or any(module.lora_bias.values()):
        return "its adapter is a variant (DoRA and the like) or has a bias"
    if "forward" in module.__dict__:
        return "a forward of its own was put on it (by accelerate's hooks or the like), which would run in place of the integers"
    return static_reason(module if isinstance(module, LoraLinear) else module.get_base_layer()) or unheard(module)


def require_savable(model: nn.Module, layers: Mapping[str, AdaptedLayer]) -> None:
    """Raises UserError where an adapter file could not hold what would be trained: said before the training, not after it."""
    scalings = {float(module.scaling[name]) for module in layers.values() for name in module.active_adapters}
    if len(scalings) != 1:
        raise UserError(
            f"intlora: the layers have different scalings {sorted(scalings)}; give all the same rank and alpha"
        )
    factors = {
        id(value)
        for module in layers.values()
        for part in (module.lora_A, module.lora_B)
        for value in part.parameters()
    }
    others = [
        name
        for name, value in plain_model(model).named_parameters()
        if value.requires_grad and id(value) not in factors
    ]
    if others:
        raise UserError(
            f"intlora: {others[0]!r} is trainable ({len(others)} parameters that are no low-rank factors), but the adapter's file holds "
            "factors alone; call requires_grad_(False) on the model before add_adapter"
        )


def unheard(module: AdaptedLayer) -> str:
    """What was asked of the modules inside an adapted layer that integers, which run in their place, do not do; "" if nothing.

    Their weights are read and multiplied elsewhere: their own forward is not called.
    """
    base: Any = module.get_base_layer()
    if base.weight.requires_grad:
        return "its frozen weight is trainable, and integers give it no gradient; call requires_grad_(False) on it"
    for part in (base, *module.lora_A.values(), *module.lora_B.values()):
        hooks = (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks)
        if any(hooks) or "forward" in part.__dict__:
            return (
                f"there are hooks or a forward of its own on the {type(part).__name__} inside it, which would not be called; "
                "put them on the adapted layer itself"
            )
    return ""


def frozen_array(name: str, weight: Tensor) -> NDArray[np.float32]:
    """A copy of a frozen weight, float32 [out, in]; of a convolution `in` is in kh kw.

    Raises:
        UserError: for a weight on the meta device, or one with values of which no integers can be made.
    """
    if weight.device.type == "meta":
        raise UserError(f"layer {name!r}: its weight is on the meta device, so it has no values; load the model first")
    array = weight.detach().flatten(1).float().cpu().numpy().copy()
    bad = ~np.isfinite(array)
    if bad.any():
        row, column = (int(index[0]) for index in np.nonzero(bad))
        raise UserError(
            f"layer {name!r}: its weight is not finite ({int(bad.sum())} of {array.size} values, the first, at [{row}, {column}], "
            f"is {array[row, column]}): repair the model"
        )
    largest = float(np.abs(array).max(initial=0))
    if largest > LARGEST_WEIGHT:
        raise UserError(
            f"layer {name!r}: its largest weight is {largest:.1e}, but integers are made of weights up to {LARGEST_WEIGHT:.1e}"
        )
    return array


def same_values(array: NDArray[np.float32], weight: Tensor) -> bool:
    """Whether a weight still has the values of an array that was copied from it."""
    matrix = weight.detach().flatten(1)
    return tuple(matrix.shape) == array.shape and torch.equal(torch.from_numpy(array), matrix.float().cpu())
