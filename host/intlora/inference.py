"""Inference from merged integers: Linear and Conv2d layers whose weight is integers only, multiplied on the array.

Integers beyond INT8 are split into digits of base 128, one GEMM pass each (`intlora_digits`); no value is rounded. Each pass's sum is
exact in int32, is rounded once to float32, and the passes are added in float32 from the lowest digit on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from systolora.device import open_device
from systolora.errors import UserError
from systolora.offloading.peft_layers import static_reason
from systolora.offloading.quantization import QuantizationConfig
from systolora.offloading.session import Session
from systolora.sim.functional.device import Device
from torch import Tensor, nn

from .digits import count_wide
from .engine import DeviceEngine, PlacedWeight
from .file import read_file
from .fingerprints import fitting_weights, frozen_weights
from .merge import merged_weights
from .patches import convolve
from .rules import IntegerWeight
from .targets import plain_model

_ENGINE, _PLACED, _NAME = "systolora_engine", "systolora_placed", "systolora_name"


class _MergedWeight:
    """What the layers share: an integer weight on the device, for inference; the float weight is left untouched and unused.

    A copy (`copy.deepcopy`) shares the integers on the device.
    """

    systolora_engine: DeviceEngine
    systolora_placed: PlacedWeight
    systolora_name: str

    def _checked(self, x: Tensor) -> Tensor:
        """Raises RuntimeError if a gradient is asked for."""
        if torch.is_grad_enabled() and x.requires_grad:
            raise RuntimeError(
                f"layer {self.systolora_name!r} holds merged integers, which are for inference: use torch.no_grad()"
            )
        return x.detach()

    def _multiply(self: Any, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        lead, (out, width) = x.shape[:-1], self.systolora_placed.weight.values.shape
        if not lead.numel():
            return x.new_zeros(*lead, out)
        rows = x.reshape(lead.numel(), width)
        y, _ = self.systolora_engine.forward(self.systolora_name, self.systolora_placed, rows, self.bias, False)
        return y.reshape(*lead, out).to(x.dtype)

    def _load_from_state_dict(self: Any, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if f"{prefix}weight" in state_dict:
            raise UserError(
                f"layer {self.systolora_name!r} holds merged integers, which loaded weights would not change: call the handle's undo() "
                "first"
            )
        nn.Module._load_from_state_dict(self, state_dict, prefix, *args)


class MergedLinear(_MergedWeight, nn.Linear):
    """torch's Linear with an integer weight."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] to [..., out].

        Raises:
            RuntimeError: if a gradient is asked for.
        """
        return self._multiply(self._checked(input))


class MergedConv2d(_MergedWeight, nn.Conv2d):
    """torch's Conv2d with an integer weight, multiplied patch by patch."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., in, height, width] to [..., out, height', width'].

        Raises:
            RuntimeError: if a gradient is asked for.
        """
        return convolve(self, self._checked(input), self._multiply)


_CLASSES: dict[type, type] = {nn.Linear: MergedLinear, nn.Conv2d: MergedConv2d}


class MergedHandle:
    """A model with merged integers; `undo` gives it its float weights back."""

    def __init__(
        self, model: nn.Module, weights: Mapping[str, IntegerWeight], device: Device, owns_device: bool
    ) -> None:
        self.engine = DeviceEngine(Session(device, QuantizationConfig()))
        self._device = device if owns_device else None
        self.wide = {name: count_wide(weight.values) for name, weight in weights.items()}
        self.total = sum(weight.values.size for weight in weights.values())
        self.passes: dict[str, int] = {}
        self._modules: list[nn.Module] = []
        modules = dict(plain_model(model).named_modules())
        # All integers are placed before the first layer is changed: where the device is full, the model stays as it was.
        placed = {name: self.engine.place(name, weight) for name, weight in weights.items()}
        for name, each in placed.items():
            self.passes[name] = each.passes
            module = modules[name]
            module.__dict__.update({_ENGINE: self.engine, _PLACED: each, _NAME: name})
            module.__class__ = _CLASSES[type(module)]
            self._modules.append(module)

    def report(self) -> str:
        """How many integers are wider than the array's operands, and what that costs."""
        wide = sum(self.wide.values())
        several = sum(passes > 1 for passes in self.passes.values())
        return (
            f"{len(self.passes)} layers of merged integers; {wide} of {self.total} values ({wide / self.total:.2%}) do not fit "
            f"8 bits: {several} layers take several exact passes, {max(self.passes.values())} at most"
        )

    def undo(self) -> None:
        """Gives the model its own layers back; a second call does nothing."""
        for module in self._modules:
            module.__class__ = nn.Linear if isinstance(module, MergedLinear) else nn.Conv2d
            for name in (_ENGINE, _PLACED, _NAME):
                module.__dict__.pop(name, None)
        self._modules = []
        self.engine.close()
        if self._device is not None:
            self._device.close()


def install_merged(
    model: nn.Module, weights: Mapping[str, IntegerWeight], device: Device | str = "emulator", wide: str = "exact"
) -> MergedHandle:
    """Runs the named layers of a model from merged integers.

    Args:
        model: changed in place; the named layers are plain Linear or Conv2d ones of the weights' shapes.
        device: an open device, or the name of a backend.
        wide: what to do about values beyond INT8: "exact" (several passes) or "refuse".

    Raises:
        UserError: for an unknown `wide`, a layer that is missing or has another shape, or, with "refuse", values beyond INT8.
    """
    if wide not in ("exact", "refuse"):
        raise UserError(f"wide = {wide!r}: allowed are exact, refuse")
    modules = dict(plain_model(model).named_modules())
    for name, weight in weights.items():
        module: Any = modules.get(name)
        if isinstance(module, _MergedWeight):
            raise UserError(f"layer {name!r} holds merged integers already: call the first handle's undo() before")
        if type(module) not in _CLASSES or tuple(module.weight.flatten(1).shape) != weight.values.shape:
            raise UserError(
                f"the model has no plain Linear or Conv2d layer {name!r} of shape {list(weight.values.shape)}"
            )
        if reason := static_reason(module):
            raise UserError(f"layer {name!r} cannot be run from merged integers: {reason}")
        count = count_wide(weight.values)
        if count and wide == "refuse":
            raise UserError(
                f"layer {name!r}: {count} of {weight.values.size} merged values (largest {np.abs(weight.values).max()}) do not "
                "fit the array's 8 bits; use wide='exact', or train with the remedy 'range'"
            )
    owns = not isinstance(device, Device)
    opened = device if isinstance(device, Device) else open_device(device)
    try:
        return MergedHandle(model, weights, opened, owns)
    except BaseException:
        if owns:
            opened.close()
        raise


def load_merged(
    model: nn.Module, path: Path | str, device: Device | str = "emulator", wide: str = "exact"
) -> MergedHandle:
    """Runs a model from a merged file: the model that it was made for, or a copy of that in float16 or bfloat16.

    Raises:
        UserError: for a damaged file, or one made for another model; and as `install_merged`.
    """
    path = Path(path)
    content = read_file(path, ("merged",))
    fitting_weights(path, content, frozen_weights(model, content.layers))
    return install_merged(model, merged_weights(content), device, wide)
