"""Inference from merged integers: Linear layers whose weight is integers only, multiplied on the array.

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
from systolora.offloading.quantization import QuantizationConfig
from systolora.offloading.session import Session
from systolora.sim.functional.device import Device
from torch import Tensor, nn

from .digits import count_wide
from .engine import DeviceEngine, PlacedWeight
from .file import read_file
from .fingerprints import fitting_weights, frozen_weights
from .merge import merged_weights
from .rules import IntegerWeight
from .targets import plain_model

_ENGINE, _PLACED, _NAME = "systolora_engine", "systolora_placed", "systolora_name"


class MergedLinear(nn.Linear):
    """torch's Linear with an integer weight on the device, for inference; its float weight is left untouched and unused.

    A copy (`copy.deepcopy`) shares the integers on the device.
    """

    systolora_engine: DeviceEngine
    systolora_placed: PlacedWeight
    systolora_name: str

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] to [..., out].

        Raises:
            RuntimeError: if a gradient is asked for.
        """
        if torch.is_grad_enabled() and input.requires_grad:
            raise RuntimeError(
                f"layer {self.systolora_name!r} holds merged integers, which are for inference: use torch.no_grad()"
            )
        return _multiply(self, input)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if f"{prefix}weight" in state_dict:
            raise UserError(
                f"layer {self.systolora_name!r} holds merged integers, which loaded weights would not change: call the handle's undo() "
                "first"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


def _multiply(layer: MergedLinear, x: Tensor) -> Tensor:
    lead = x.shape[:-1]
    if not lead.numel():
        return x.new_zeros(*lead, layer.out_features)
    rows = x.detach().reshape(lead.numel(), layer.in_features)
    y, _ = layer.systolora_engine.forward(layer.systolora_name, layer.systolora_placed, rows, layer.bias, False)
    return y.reshape(*lead, layer.out_features).to(x.dtype)


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
            module.__class__ = MergedLinear
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
            module.__class__ = nn.Linear
            for name in (_ENGINE, _PLACED, _NAME):
                module.__dict__.pop(name, None)
        self._modules = []
        self.engine.close()
        if self._device is not None:
            self._device.close()


def install_merged(
    model: nn.Module, weights: Mapping[str, IntegerWeight], device: Device | str = "emulator", wide: str = "exact"
) -> MergedHandle:
    """Runs the named Linear layers of a model from merged integers.

    Args:
        model: changed in place; the named layers are plain Linear ones of the weights' shapes.
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
        if isinstance(module, MergedLinear):
            raise UserError(f"layer {name!r} holds merged integers already: call the first handle's undo() before")
        if type(module) is not nn.Linear or tuple(module.weight.shape) != weight.values.shape:
            raise UserError(f"the model has no plain Linear layer {name!r} of shape {list(weight.values.shape)}")
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
