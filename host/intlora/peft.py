"""IntLoRA on peft's layers: the adapted layers of a model get integer weights, and keep their parameters and names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from systolora.offloading.quantization import QuantizationConfig, describe_transfers
from systolora.offloading.session import Session
from systolora.sim.functional.device import Device
from torch import Tensor, nn

from .digits import count_wide
from .engine import DeviceEngine, Engine, TorchEngine
from .layer import IntegerLayer, RuleMaker
from .peft_layers import IntLoraConv2d, IntLoraLayer, IntLoraLinear, swap, swap_back
from .rules import IntegerWeight, Rule, make_rule
from .settings import IntLoraSettings
from .targets import adapted_layers, frozen_array, require_savable

__all__ = ["IntLoraConv2d", "IntLoraHandle", "IntLoraLinear", "attach"]


class IntLoraHandle:
    """A model whose adapted layers have integer weights; as `OffloadHandle`, for one method more.

    Attributes:
        settings: of the integers, or None for another rule than IntLoRA's.
        refresh_every: steps after which the quantizers are searched anew; 0 never.
    """

    def __init__(
        self, model: nn.Module, make: RuleMaker, engine: Engine, settings: IntLoraSettings | None, refresh_every: int
    ) -> None:
        self.settings = settings
        self.refresh_every = refresh_every
        self.engine = engine
        self._step = 0
        self.modules: dict[str, IntLoraLayer] = {}
        found = adapted_layers(model)
        if settings is not None:
            require_savable(model, found)
        # All integers are made before the first layer is changed: a refusal leaves the model as it was.
        weights = {name: frozen_array(name, module.get_base_layer().weight) for name, module in found.items()}
        layers = {name: IntegerLayer(name, weight, make, engine) for name, weight in weights.items()}
        self.modules = {name: swap(module, layers[name]) for name, module in found.items()}

    @property
    def device_seconds(self) -> float:
        """Seconds that programs took on the device so far, without what the host prepares for them; 0 without a device."""
        return self.engine.device_seconds

    @property
    def step(self) -> int:
        """The optimizer step. Setting it searches the quantizers anew where `refresh_every` says so."""
        return self._step

    @step.setter
    def step(self, value: int) -> None:
        self._step = int(value)
        if self.refresh_every and value and value % self.refresh_every == 0:
            self.recalibrate()

    def recalibrate(self) -> None:
        """Searches the quantizers that depend on the low-rank factors anew, for the factors as they are."""
        for module in self.modules.values():
            module.integer_layer().recalibrate(*self._factors(module))

    def weights(self) -> dict[str, IntegerWeight]:
        """The integer weights that training sees now, by layer."""
        return {
            name: module.integer_layer().current(*self._factors(module))[0].weight
            for name, module in self.modules.items()
        }

    def factors(self) -> dict[str, tuple[Tensor, Tensor, float]]:
        """(down, up, scaling) by layer."""
        return {name: self._factors(module) for name, module in self.modules.items()}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs beside the model's state to go on with the same bits."""
        rules = {name: module.systolora_layer.rule.state() for name, module in self.modules.items()}
        tensors = {
            name: {key: torch.from_numpy(value.copy()) for key, value in state.items()} for name, state in rules.items()
        }
        return {"step": self._step, "rules": tensors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes what `state_dict` gave.

        Raises:
            ValueError: if it is something else.
        """
        if set(state) != {"step", "rules"} or set(state["rules"]) != set(self.modules):
            raise ValueError("this is no state of an IntLoRA run with these layers")
        self._step = int(state["step"])
        for name, module in self.modules.items():
            module.systolora_layer.rule.restore({key: value.numpy() for key, value in state["rules"][name].items()})
            module.systolora_layer.forget()

    def report(self) -> str:
        """What ran where, and how wide the integers are."""
        weights = self.weights()
        wide = sum(count_wide(weight.values) for weight in weights.values())
        total = sum(weight.values.size for weight in weights.values())
        where = self.engine.session.device.name if isinstance(self.engine, DeviceEngine) else "torch in float32"
        gemms = ", ".join(f"{kind} {count}" for kind, count in self.engine.gemms.items()) or "none yet"
        transfers = (
            [describe_transfers(self.engine.session.quantization)] if isinstance(self.engine, DeviceEngine) else []
        )
        lines = [
            f"integer weights: {len(weights)} layers on {where}",
            f"GEMMs: {gemms}",
            *transfers,
            f"{wide} of {total} integers ({wide / total:.2%}) are wider than the array's 8 bits and take several passes",
        ]
        calls: Counter[str] = Counter()
        for module in self.modules.values():
            calls.update(module.systolora_layer.fallbacks)
        remade = sum(module.systolora_layer.remade for module in self.modules.values())
        if remade:
            lines.append(f"frozen weights were changed after attach: the integers of {remade} layers were made anew")
        return "\n".join([*lines, *(f"fell back to torch: {count} calls, {why}" for why, count in calls.items())])

    def undo(self) -> None:
        """Gives the model peft's layers back and frees the device memory; a second call does nothing."""
        for module in self.modules.values():
            swap_back(module)
        self.modules = {}
        self.engine.close()

    @staticmethod
    def _factors(module: IntLoraLayer) -> tuple[Tensor, Tensor, float]:
        return module.factors(module.active_adapters[0])


def attach(
    model: nn.Module,
    settings: IntLoraSettings | None = None,
    device: Device | None = None,
    quantization: QuantizationConfig | None = None,
    make: RuleMaker | None = None,
    refresh_every: int = 0,
) -> IntLoraHandle:
    """Gives all layers of a model that have a peft adapter integer weights.

    Args:
        model: changed in place. settings: of IntLoRA's integers.
        device: where the GEMMs run; None: in torch, with float32 activations.
        quantization: of activations and gradients.
        make: another rule than IntLoRA's, in place of `settings`, with its own `refresh_every`.

    Raises:
        UserError: if no layer is adapted, or one in a way that integers cannot follow; or for a weight of which none can be made.
    """
    if make is None:
        chosen = settings or IntLoraSettings()
        settings, refresh_every = chosen, chosen.refresh_every

        def make(weight: np.ndarray, name: str) -> Rule:
            return make_rule(weight, chosen, name)

    engine: Engine = TorchEngine()
    if device is not None:
        engine = DeviceEngine(Session(device, quantization or QuantizationConfig()))
    try:
        return IntLoraHandle(model, make, engine, settings, refresh_every)
    except BaseException:
        engine.close()
        raise
