"""IntLoRA in a training run: integers attached by the run's settings, and their adapter written."""

from __future__ import annotations

from pathlib import Path

from systolora.errors import UserError
from systolora.intlora.file import write_file
from systolora.intlora.fingerprints import frozen_weights
from systolora.intlora.merge import adapter_file
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
    """Writes the integer adapter, whose merged weights are those of the last training step to the bit.

    The low-rank factors are not written as a LoRA: beside the frozen float weight they are another model than the one that was trained.

    Raises:
        UserError: if every `up` factor is zero: the adapter would do nothing.
    """
    if not any(up.any() for _, up, _ in handle.factors().values()):
        raise UserError("the adapter is still all zero after training: raise --learning-rate or --steps")
    content = adapter_file(handle, frozen_weights(unet, handle.modules))
    return write_file(folder / INTLORA_FILE, content)
