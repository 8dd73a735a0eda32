"""Reads an adapter from a safetensors file, whosever names it has. Nothing is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from systolora.errors import UserError
from torch import Tensor

from .layers import FILE, PARTS, Adapter, LoraLayer, whole_name
from .names import KOHYA_PREFIXES, layer_of, with_diffusers_blocks
from .peft_config import PEFT_CONFIG, PEFT_FILE, PEFT_PREFIX, Scaling, part_of, read_config

METADATA = "lora_adapter_metadata"

_DOWN = (".lora_A.weight", ".lora.down.weight", ".lora_linear_layer.down.weight")
_UP = (".lora_B.weight", ".lora.up.weight", ".lora_linear_layer.up.weight")
_OLD = {f".to_{old}_lora.": new for old, new in (("q", "q"), ("k", "k"), ("v", "v"), ("out", "out"))}
_OTHER_METHODS = {
    "lora_magnitude_vector": "DoRA",
    "dora_scale": "DoRA",
    ".lokr_": "LoKr",
    ".hada_": "LoHa",
    ".lora_mid.": "LoCon with a middle factor (CP decomposition)",
    ".oft_": "OFT",
    ".lora_B.bias": "LoRA with a bias",
    ".lora_up.bias": "LoRA with a bias",
    ".lora_embedding_": "LoRA of an embedding",
}
_FORMAT_KEYS = frozenset({"format", METADATA})


def read_adapter(path: Path) -> Adapter:
    """An adapter from a file, or from a folder that diffusers or peft saved.

    Raises:
        UserError: one line, for what is no LoRA adapter, damaged, or of a method that is another.
    """
    if path.is_dir():
        return _read_folder(path)
    tensors, header = _load(path)
    if not tensors:
        raise UserError(f"{path}: it holds no tensors")
    for sign, method in _OTHER_METHODS.items():
        if name := next((name for name in tensors if sign in name), None):
            raise UserError(f"{path}: {name}: this is {method}, which cannot be read here; plain LoRA can")
    try:
        if all(name.startswith(tuple(KOHYA_PREFIXES)) for name in tensors):
            layers = _from_kohya(tensors)
        elif any(name.startswith(PEFT_PREFIX) for name in tensors):
            layers = _from_peft(tensors, path.with_name(PEFT_CONFIG))
        else:
            layers = _from_diffusers(tensors, header)
        notes = {key: text for key, text in header.items() if key not in _FORMAT_KEYS and not key.startswith("ss_")}
        return Adapter(layers, notes).check(str(path))
    except UserError as error:
        raise UserError(str(error) if str(path.parent) in str(error) else f"{path}: {error}") from None


def _read_folder(path: Path) -> Adapter:
    for name in (FILE, PEFT_FILE):
        if (path / name).is_file():
            return read_adapter(path / name)
    found = [read_adapter(path / part / PEFT_FILE) for part in PARTS if (path / part / PEFT_FILE).is_file()]
    if not found:
        raise UserError(f"{path}: there is no {FILE} and no {PEFT_FILE} in this folder; give the adapter's file")
    return Adapter({key: layer for adapter in found for key, layer in adapter.layers.items()}, found[0].notes)


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.exists():
        raise UserError(f"{path}: there is no such file")
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt"):
        raise UserError(f"{path}: it may be a pickle, which can run code and is not read; save it as safetensors")
    try:
        data = path.read_bytes()
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
    except OSError as error:
        raise UserError(f"{path}: it cannot be read: {error.strerror or error}") from None
    except (SafetensorError, ValueError, KeyError, OverflowError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{path}: it is no readable safetensors file ({reason})") from None
    return tensors, header


def _from_kohya(tensors: Mapping[str, Tensor]) -> dict[tuple[str, str], LoraLayer]:
    stems = list(dict.fromkeys(name.split(".")[0] for name in tensors))
    plain = with_diffusers_blocks(stems)
    left = dict(tensors)
    layers: dict[tuple[str, str], LoraLayer] = {}
    for stem in stems:
        down, up = _both(left, f"{stem}.lora_down.weight", f"{stem}.lora_up.weight")
        alpha = left.pop(f"{stem}.alpha", None)
        if alpha is not None and alpha.numel() != 1:
            raise UserError(f"{stem}.alpha: {alpha.numel()} values, expected one")
        _put(layers, layer_of(plain[stem]), LoraLayer(down, up, down.shape[0] if alpha is None else float(alpha)))
    _refuse_left(left)
    return layers


def _from_peft(tensors: Mapping[str, Tensor], config: Path) -> dict[tuple[str, str], LoraLayer]:
    scaling, left = read_config(config), dict(tensors)
    layers: dict[tuple[str, str], LoraLayer] = {}
    for name in tensors:
        if name.endswith(".lora_A.weight"):
            full = name.removesuffix(".lora_A.weight")
            module = full.removeprefix(PEFT_PREFIX)
            down, up = _both(left, name, f"{full}.lora_B.weight")
            part = part_of(module, config.parent.name)
            _put(layers, (part, whole_name(part, module)), LoraLayer(down, up, scaling.alpha(module, down.shape[0])))
    _refuse_left(left)
    return layers


def _from_diffusers(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> dict[tuple[str, str], LoraLayer]:
    scalings = _scalings(header)
    left = {_newer(name): tensor for name, tensor in tensors.items()}
    if len(left) != len(tensors):
        raise UserError("two of its names mean the same layer")
    layers: dict[tuple[str, str], LoraLayer] = {}
    for name in list(left):
        ending = next((ending for ending in _DOWN if name.endswith(ending)), None)
        if ending is None:
            continue
        full = name.removesuffix(ending)
        part, _, module = full.partition(".")
        if part not in PARTS:
            raise UserError(f"{name}: it belongs to none of {', '.join(PARTS)}")
        down, up = _both(left, name, full + _UP[_DOWN.index(ending)])
        scaling = scalings.get(part)
        alpha = float(down.shape[0]) if scaling is None else scaling.alpha(module, down.shape[0])
        _put(layers, (part, whole_name(part, module)), LoraLayer(down, up, alpha))
    _refuse_left(left)
    return layers


def _newer(name: str) -> str:
    """A name of older diffusers in today's: `attn1.processor.to_q_lora.down` of a U-Net, `self_attn.to_q_lora.down` of a text encoder."""
    name = name.replace(".processor.", ".")
    text = name.startswith("text_encoder")
    for old, letter in _OLD.items():
        if old in name:
            if text:
                module = f"{letter}_proj"
            else:
                module = "to_out.0" if letter == "out" else f"to_{letter}"
            name = name.replace(old, f".{module}.lora.")
    return name


def _scalings(header: Mapping[str, str]) -> dict[str, Scaling]:
    """Of each part, what the header says of alpha."""
    if METADATA not in header:
        return {}
    try:
        entries: Any = json.loads(header[METADATA])
        parts: dict[str, dict[str, Any]] = {}
        for name, value in entries.items():
            part, _, key = name.partition(".")
            parts.setdefault(part, {})[key] = value
        return {part: Scaling.of(config) for part, config in parts.items()}
    except UserError:
        raise
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise UserError(f"its header {METADATA!r} cannot be read, so its alpha is not known") from None


def _both(left: dict[str, Tensor], down: str, up: str) -> tuple[Tensor, Tensor]:
    """Both factors of a layer, taken out of what is left."""
    for name, other in ((down, up), (up, down)):
        if name not in left:
            raise UserError(f"{name} is missing; {other if other in left else 'the other factor'} cannot stand alone")
    return left.pop(down), left.pop(up)


def _put(layers: dict[tuple[str, str], LoraLayer], key: tuple[str, str], layer: LoraLayer) -> None:
    if key in layers:
        raise UserError(f"two of its names mean {key[0]}.{key[1]}")
    layers[key] = layer


def _refuse_left(left: Mapping[str, Tensor]) -> None:
    if left:
        raise UserError(
            f"{next(iter(left))}: this is no factor of a LoRA layer under the names of diffusers, peft or kohya"
        )
