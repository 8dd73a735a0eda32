"""A Stable Diffusion 1.x folder as one checkpoint file under the names that the original code gave its tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

_UNET = (
    (r"time_embedding\.linear_(\d)", lambda m: f"time_embed.{2 * int(m[1]) - 2}"),
    (r"conv_in\.", "input_blocks.0.0."),
    (r"conv_norm_out\.", "out.0."),
    (r"conv_out\.", "out.2."),
    (r"down_blocks\.(\d)\.resnets\.0", lambda m: f"input_blocks.{2 * int(m[1]) + 1}.0"),
    (r"down_blocks\.(\d)\.attentions\.0", lambda m: f"input_blocks.{2 * int(m[1]) + 1}.1"),
    (r"down_blocks\.(\d)\.downsamplers\.0\.conv", lambda m: f"input_blocks.{2 * int(m[1]) + 2}.0.op"),
    (r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"output_blocks.{2 * int(m[1]) + int(m[2])}.0"),
    (r"up_blocks\.(\d)\.attentions\.(\d)", lambda m: f"output_blocks.{2 * int(m[1]) + int(m[2])}.1"),
    (r"up_blocks\.0\.upsamplers\.0", "output_blocks.1.2"),
    (r"mid_block\.attentions\.0", "middle_block.1"),
    (r"mid_block\.resnets\.(\d)", lambda m: f"middle_block.{2 * int(m[1])}"),
    (r"\.norm1\.(?=weight|bias)(?<!blocks\.0\.norm1\.)", ".in_layers.0."),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.norm2\.(?=weight|bias)(?<!blocks\.0\.norm2\.)", ".out_layers.0."),
    (r"\.conv2\.", ".out_layers.3."),
    (r"time_emb_proj", "emb_layers.1"),
    (r"conv_shortcut", "skip_connection"),
)
_VAE = (
    (r"encoder\.down_blocks\.(\d)\.resnets\.", r"encoder.down.\1.block."),
    (r"encoder\.down_blocks\.(\d)\.downsamplers\.0", r"encoder.down.\1.downsample"),
    (r"decoder\.up_blocks\.(\d)\.resnets\.", lambda m: f"decoder.up.{1 - int(m[1])}.block."),
    (r"decoder\.up_blocks\.(\d)\.upsamplers\.0", lambda m: f"decoder.up.{1 - int(m[1])}.upsample"),
    (r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}"),
    (r"mid_block\.attentions\.0", "mid.attn_1"),
    (r"conv_norm_out", "norm_out"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"group_norm", "norm"),
    (r"to_out\.0", "proj_out"),
    (r"to_([qkv])\.", r"\1."),
)


def single_file(folder: Path, path: Path) -> Path:
    """Writes the weights of a folder of `tiny_families.make_sd` into one file."""
    found = {f"model.diffusion_model.{_renamed(key, _UNET)}": value for key, value in _weights(folder / "unet").items()}
    for key, value in _weights(folder / "vae").items():
        name = _renamed(key, _VAE)
        image = "attn_1" in name and value.ndim == 2
        found[f"first_stage_model.{name}"] = value[:, :, None, None].contiguous() if image else value
    for key, value in _weights(folder / "text_encoder").items():
        old = key if key.startswith("text_model.") else f"text_model.{key}"
        found[f"cond_stage_model.transformer.{old}"] = value
    save_file(found, path)
    return path


def _weights(part: Path) -> dict[str, Tensor]:
    (file,) = part.glob("*.safetensors")
    return load_file(file)


def _renamed(key: str, rules: Iterable) -> str:
    for pattern, new in rules:
        key = re.sub(pattern, new, key)
    return key
