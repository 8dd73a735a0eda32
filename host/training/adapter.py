"""The adapter of a run: made, saved as diffusers loads it, and checked after saving."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from systolora.errors import UserError
from systolora.files import write_atomically
from torch import Tensor, nn

from .objective import finite
from .settings import TrainSettings

ADAPTER_FILE = "pytorch_lora_weights.safetensors"
INTLORA_FILE = "intlora_adapter.safetensors"
SETTINGS_KEY = "systolora"
_MODULES = {
    "kv": ["attn2.to_k", "attn2.to_v"],
    "attention": ["to_q", "to_k", "to_v", "to_out.0"],
}


def add_adapter(unet: nn.Module, settings: TrainSettings) -> None:
    """Gives the U-Net a LoRA adapter with first values that depend on the seed alone.

    Raises:
        UserError: if the model has no layer of that kind.
    """
    from peft import LoraConfig

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.lora_alpha,
        init_lora_weights="gaussian",
        target_modules=_MODULES[settings.adapted],
    )
    torch.manual_seed(settings.seed)
    try:
        unet.add_adapter(config)  # type: ignore[operator]
    except ValueError:
        raise UserError(
            f"--model: its U-Net has no layers named {', '.join(_MODULES[settings.adapted])} to adapt"
        ) from None


def adapter_tensors(unet: nn.Module) -> dict[str, Tensor]:
    """The adapter's tensors under the names that diffusers and peft load."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    state = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    return {f"unet.{name}": tensor.detach().float().contiguous() for name, tensor in state.items()}


def save_adapter(unet: nn.Module, folder: Path, settings: TrainSettings) -> Path:
    """Writes the adapter as `pytorch_lora_weights.safetensors`, with peft's configuration and the settings in its header.

    The file is written in one step and read back. It names the model's folder, but no path of this computer.

    Raises:
        UserError: if a factor holds a NaN or an infinity, or every `up` factor is zero: the adapter would do nothing.
        OSError: if it cannot be written.
    """
    tensors = adapter_tensors(unet)
    if not finite(tensors.values()):
        raise UserError("the adapter holds values that are not finite and is not written: lower --learning-rate")
    if not any(tensor.any() for name, tensor in tensors.items() if ".lora.up." in name):
        raise UserError("the adapter is still all zero after training: raise --learning-rate or --steps")
    path = folder / ADAPTER_FILE
    write_atomically(path, save(tensors, metadata=_header(unet, settings)))
    with safe_open(str(path), framework="pt") as file:
        if set(file.keys()) != set(tensors):
            raise RuntimeError(f"{path}: what was read back is not what was written; check the disk")
    return path


def _header(unet: Any, settings: TrainSettings) -> dict[str, str]:
    (config,) = unet.peft_config.values()
    # peft may note where the base model was loaded from.
    known = config.to_dict() | {"base_model_name_or_path": None}
    peft = {f"unet.{name}": _plain(value) for name, value in known.items()}
    return {
        "format": "pt",
        "lora_adapter_metadata": json.dumps(peft, sort_keys=True, default=str),
        SETTINGS_KEY: json.dumps(public_settings(settings), sort_keys=True),
    }


def public_settings(settings: TrainSettings) -> dict[str, Any]:
    """The settings as they may stand in a file that is given away: of the model's folder the name, of the others nothing."""
    own = {name: value for name, value in settings.as_dict().items() if name not in ("data", "output", "cache_dir")}
    return own | {"model": Path(settings.model).resolve().name}


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, (set, frozenset)) else value
