"""IntLoRA in a training run: integers attached by the run's settings, and their adapter written beside peft's."""

from __future__ import annotations

from pathlib import Path

from systolora.intlora.file import write_file
from systolora.intlora.merge import adapter_file, frozen_weights
from systolora.intlora.peft import IntLoraHandle, attach
from systolora.offloading.quantization import QuantizationConfig
from systolora.sim.functional.device import Device
from torch import nn

from .adapter import INTLORA_FILE
from .settings import TrainSettings


def attach_for(
    unet: nn.Module, settings: TrainSettings, device: Device | None, quantization: QuantizationConfig
) -> IntLoraHandle:
    """Integer weights for all adapted layers of a U-Net; without a device their GEMMs run in torch in float32."""
    return attach(unet, settings.intlora, device, quantization)


def save_integers(unet: nn.Module, handle: IntLoraHandle, folder: Path) -> Path:
    """Writes the integer adapter, whose merged weights are those of the last training step to the bit."""
    content = adapter_file(handle, frozen_weights(unet, handle.modules))
    return write_file(folder / INTLORA_FILE, content)
