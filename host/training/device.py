"""The device of a training run, and the layers that are put on it."""

from __future__ import annotations

from typing import Any

from systolora.device import open_preset
from systolora.offloading.model import offload
from systolora.offloading.quantization import quantization_for
from systolora.sim.functional.device import Device
from torch import nn

from .settings import TrainSettings


def open_device_for(settings: TrainSettings) -> Device:
    """The device that the settings of a training run name.

    Raises:
        BackendError: if its backend is not installed.
        ConfigError: if there is no preset of that board.
    """
    return open_preset(settings.backend, settings.board, settings.emulated_board)


def offload_for(model: nn.Module, settings: TrainSettings, device: Device | None, seed: int) -> Any:
    """The handle of a model's layers on the device, as the settings of a training run say; `seed` is of stochastic rounding."""
    quantization = quantization_for(settings.weight_scales, settings.rounding, seed, settings.transfer_type)
    if settings.method != "lora":
        from .integers import attach_for

        return attach_for(model, settings, device, quantization)
    return offload(
        model,
        targets=settings.targets,
        device=device,
        quantization=quantization,
        attention_products=settings.attention_products,
    )
