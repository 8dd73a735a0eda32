"""An adapter as the files that diffusers, peft and kohya's tools load."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import save
from systolora.errors import UserError
from torch import Tensor

from .layers import Adapter, LoraLayer
from .names import kohya_name
from .peft_config import PEFT_CONFIG, PEFT_FILE, PEFT_PREFIX
from .reading import METADATA

FORMATS = ("kohya", "diffusers", "peft")

_DEEPER = re.compile(r"transformer_blocks\.[1-9]")


def kohya_file(adapter: Adapter) -> bytes:
    """As sd-scripts, ComfyUI and A1111 load it, alpha in a tensor of each layer, the usual rank and alpha in the header.

    Raises:
        UserError: for a layer that has no name there, or none that diffusers would read back right.
    """
    two = bool(adapter.of("text_encoder_2")) or any(_DEEPER.search(module) for module in adapter.of("unet"))
    tensors: dict[str, Tensor] = {}
    for (part, module), layer in adapter.layers.items():
        name = kohya_name(part, module, two)
        tensors[f"{name}.alpha"] = _scalar(layer.alpha)
        tensors[f"{name}.lora_down.weight"] = layer.down.contiguous()
        tensors[f"{name}.lora_up.weight"] = layer.up.contiguous()
    kernels = {key: layer for key, layer in adapter.layers.items() if layer.down.dim() == 4 and layer.down.shape[2] > 1}
    rank, alpha = _usual({key: layer for key, layer in adapter.layers.items() if key not in kernels} or kernels)
    header = {"ss_network_module": "networks.lora", "ss_network_dim": str(rank), "ss_network_alpha": f"{alpha:g}"}
    if kernels:
        rank, alpha = _usual(kernels)
        header["ss_network_args"] = json.dumps({"conv_dim": str(rank), "conv_alpha": f"{alpha:g}"})
    return save(tensors, metadata={**adapter.notes, "format": "pt", **header})


def diffusers_file(adapter: Adapter) -> bytes:
    """As a pipeline's `load_lora_weights` takes it, with peft's configuration of each part in the header."""
    tensors: dict[str, Tensor] = {}
    for (part, module), layer in adapter.layers.items():
        # Where a text encoder's names lack `text_model.`, loaders take it off; so it is always there.
        tensors[f"{part}.{module}.lora_A.weight"] = layer.down.contiguous()
        tensors[f"{part}.{module}.lora_B.weight"] = layer.up.contiguous()
    configs = {
        part: _config({_bare(part, name): layer for name, layer in adapter.of(part).items()}) for part in adapter.parts
    }
    entries = {f"{part}.{key}": value for part, config in configs.items() for key, value in config.items()}
    return save(tensors, metadata={**adapter.notes, "format": "pt", METADATA: json.dumps(entries, sort_keys=True)})


def peft_files(adapter: Adapter) -> dict[str, bytes]:
    """As `PeftModel.from_pretrained` takes it, file name to contents; of several parts, each in a folder of its name."""
    files: dict[str, bytes] = {}
    for part in adapter.parts:
        layers = {_bare(part, module): layer for module, layer in adapter.of(part).items()}
        tensors: dict[str, Tensor] = {}
        for module, layer in layers.items():
            tensors[f"{PEFT_PREFIX}{module}.lora_A.weight"] = layer.down.contiguous()
            tensors[f"{PEFT_PREFIX}{module}.lora_B.weight"] = layer.up.contiguous()
        folder = f"{part}/" if len(adapter.parts) > 1 else ""
        config = {"peft_type": "LORA", **_config(layers), "inference_mode": True, "base_model_name_or_path": None}
        files[f"{folder}{PEFT_CONFIG}"] = f"{json.dumps(config, indent=2, sort_keys=True)}\n".encode()
        files[f"{folder}{PEFT_FILE}"] = save(tensors, metadata={**adapter.notes, "format": "pt"})
    return files


def _config(layers: Mapping[str, LoraLayer]) -> dict[str, Any]:
    """peft's configuration: the usual rank and alpha, and those of the layers that have others."""
    rank, alpha = _usual(layers)
    return {
        "r": rank,
        "lora_alpha": _number(alpha),
        # As patterns, full names stand for themselves alone.
        "rank_pattern": {f"^{re.escape(n)}": layer.rank for n, layer in layers.items() if layer.rank != rank},
        "alpha_pattern": {
            f"^{re.escape(n)}": _number(layer.alpha) for n, layer in layers.items() if layer.alpha != alpha
        },
        "target_modules": sorted(layers),
        "use_rslora": False,
        "use_dora": False,
        "lora_bias": False,
        "bias": "none",
        "lora_dropout": 0.0,
        "init_lora_weights": True,
    }


def _usual(layers: Mapping[Any, LoraLayer]) -> tuple[int, float]:
    """The most frequent rank and alpha."""
    ranks = Counter(layer.rank for layer in layers.values())
    alphas = Counter(layer.alpha for layer in layers.values())
    return ranks.most_common(1)[0][0], alphas.most_common(1)[0][0]


def _number(alpha: float) -> float | int:
    return int(alpha) if alpha == int(alpha) else alpha


def _scalar(alpha: float) -> Tensor:
    """In float32, which all tools expect, if that is exact."""
    single = torch.tensor(alpha, dtype=torch.float32)
    return single if float(single) == alpha else torch.tensor(alpha, dtype=torch.float64)


def _bare(part: str, module: str) -> str:
    """A text encoder's module by the name that it has in the installed transformers."""
    if part != "text_encoder" or not module.startswith("text_model."):
        return module
    from transformers import CLIPTextConfig, CLIPTextModel

    sizes = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "vocab_size": 8,
    }
    with torch.device("meta"):
        model = CLIPTextModel(CLIPTextConfig(**sizes, bos_token_id=0, eos_token_id=1))
    return module if hasattr(model, "text_model") else module.removeprefix("text_model.")


def check_format(name: str) -> None:
    """Raises UserError for a format that there is not."""
    if name not in FORMATS:
        raise UserError(f"--to {name!r}: allowed are {', '.join(FORMATS)}")
