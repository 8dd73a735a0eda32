"""The adapter of a run: made, saved as diffusers loads it, and checked after saving."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from systolora.adapters.layers import FILE, whole_name
from systolora.adapters.peft_config import PEFT_CONFIG, PEFT_PREFIX
from systolora.adapters.peft_config import PEFT_FILE as PEFT_WEIGHTS
from systolora.errors import UserError
from systolora.files import write_atomically
from systolora.models.layouts import SD_LAYOUT, Layout
from systolora.models.pipeline import PipelineParts, is_clip
from torch import Tensor, nn

from .adapted import adapted_names, target_modules
from .objective import finite
from .settings import TrainSettings

ADAPTER_FILE = FILE
AVERAGE_FILE = "pytorch_lora_weights_ema.safetensors"
INTLORA_FILE = "intlora_adapter.safetensors"
SETTINGS_KEY = "systolora"
PEFT_FILE = f"peft/{PEFT_WEIGHTS}"
_PRIVATE = frozenset({"data", "output", "class_data", "model_config", "init_from", "cache_dir"})
"""Settings that name folders of the computer that trained it."""
_CLIP_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


def add_adapter(model: nn.Module, settings: TrainSettings) -> None:
    """Gives a model a LoRA adapter with first values that depend on the seed alone.

    Raises:
        UserError: if the model has no layer of that kind.
    """
    from peft import inject_adapter_in_model

    names = adapted_names(model, settings.adapted)
    config = _lora(settings, target_modules(names, (name for name, _ in model.named_modules())))
    torch.manual_seed(settings.seed)
    add = getattr(model, "add_adapter", None)
    if callable(add):
        add(config)
    else:  # PixArt's transformer
        inject_adapter_in_model(config, model)


def _lora(settings: TrainSettings, modules: list[str]) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.dropout,
        use_rslora=settings.rslora,
        init_lora_weights="gaussian",
        target_modules=modules,
    )


def add_text_adapters(parts: PipelineParts, settings: TrainSettings) -> dict[str, nn.Module]:
    """Gives the attention of a pipeline's CLIP text encoders an adapter of the same kind; T5 is left as it is.

    Returns:
        The text encoders that have one, by the name of their part.

    Raises:
        UserError: if there is no CLIP text encoder.
    """
    found: dict[str, nn.Module] = {}
    for name, encoder in parts.encoders.items():
        if is_clip(encoder):
            torch.manual_seed(settings.seed)
            encoder.add_adapter(_lora(settings, list(_CLIP_ATTENTION)))
            found[name] = encoder
    if not found:
        raise UserError(
            f"--train-text-encoder: {parts.family.layout.title} has no CLIP text encoder, and T5 is not trained here; leave it out"
        )
    return found


def adapter_tensors(model: nn.Module, part: str = "unet", old_names: bool = True) -> dict[str, Tensor]:
    """The adapter's tensors under the names that diffusers and peft load.

    Args:
        part: of the pipeline, whose name begins them. old_names: diffusers' own, which the attention of U-Nets has; else peft's.
    """
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    state = get_peft_model_state_dict(model)
    state = {whole_name(part, name): value for name, value in state.items()}  # as transformers 4 named them
    if old_names:
        old = convert_state_dict_to_diffusers(state)
        # It knows attention's layers alone, and diffusers, which loads either kind of names, drops the one of a mixture.
        state = state if any(".lora_A." in name for name in old) else old
    return {f"{part}.{name}": tensor.detach().float().contiguous() for name, tensor in state.items()}


def save_adapter(
    model: nn.Module,
    folder: Path,
    settings: TrainSettings,
    layout: Layout = SD_LAYOUT,
    text: Mapping[str, nn.Module] = MappingProxyType({}),
    name: str = ADAPTER_FILE,
) -> Path:
    """Writes the adapter, with peft's configuration and the settings in its header.

    For pipelines that cannot load that, the adapter is also written as peft's `PeftModel.from_pretrained` reads it, in `peft/`.
    Args:
        text: text encoders that have an adapter too, by the name of their part.

    The files are written in one step and read back. They name the model's folder, but no path of this computer.

    Raises:
        UserError: if a factor holds a NaN or an infinity, or every `up` factor is zero: the adapter would do nothing.
        OSError: if it cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for part, adapted in {layout.trained: model, **text}.items():
        tensors |= adapter_tensors(adapted, part, layout.trained == "unet")
    if not finite(tensors.values()):
        raise UserError("the adapter holds values that are not finite and is not written: lower --learning-rate")
    if not any(tensor.any() for name, tensor in tensors.items() if ".lora.up." in name or ".lora_B." in name):
        raise UserError("the adapter is still all zero after training: raise --learning-rate or --steps")
    if layout.keeps_peft and name == ADAPTER_FILE:
        _save_peft(model, folder, settings)
    return write_tensors(folder / name, tensors, _header({layout.trained: model, **text}, settings))


def _save_peft(model: nn.Module, folder: Path, settings: TrainSettings) -> None:
    from peft.utils import get_peft_model_state_dict

    tensors = {f"{PEFT_PREFIX}{name}": value for name, value in get_peft_model_state_dict(model).items()}
    path = folder / PEFT_FILE
    path.parent.mkdir(exist_ok=True)
    config = json.dumps(_peft_config(model), sort_keys=True, indent=2, default=str)
    write_atomically(path.parent / PEFT_CONFIG, config.encode())
    write_tensors(path, tensors, _header({}, settings))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str]) -> Path:
    """Writes tensors in float32 in one step, and reads their names back."""
    plain = {name: tensor.detach().float().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(plain, metadata=header))
    with safe_open(str(path), framework="pt") as file:
        if set(file.keys()) != set(tensors):
            raise RuntimeError(f"{path}: what was read back is not what was written; check the disk")
    return path


def _peft_config(model: Any) -> dict[str, Any]:
    """Of the model's adapter; peft may note where the base model was loaded from."""
    (config,) = model.peft_config.values()
    known = config.to_dict() | {"base_model_name_or_path": None}
    return {name: _plain(value) for name, value in known.items()}


def _header(models: Mapping[str, nn.Module], settings: TrainSettings) -> dict[str, str]:
    """Of an adapter's file: peft's configuration of each adapted part of the pipeline, and the settings."""
    peft = {f"{part}.{name}": value for part, model in models.items() for name, value in _peft_config(model).items()}
    return {
        "format": "pt",
        "lora_adapter_metadata": json.dumps(peft, sort_keys=True, default=str),
        **settings_header(settings),
    }


def settings_header(settings: TrainSettings) -> dict[str, str]:
    """The settings, by which a run knows a file as one of its kind."""
    return {SETTINGS_KEY: json.dumps(public_settings(settings), sort_keys=True)}


def public_settings(settings: TrainSettings) -> dict[str, Any]:
    """The settings as they may stand in a file that is given away: of the model's folder the name, of the others nothing."""
    own = {name: value for name, value in settings.as_dict().items() if name not in _PRIVATE}
    return own | {"model": Path(settings.model).resolve().name}


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, (set, frozenset)) else value
