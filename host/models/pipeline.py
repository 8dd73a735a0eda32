"""The parts of a Stable Diffusion pipeline folder that training needs, loaded and checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from systolora.errors import UserError
from systolora.libraries import quiet_libraries
from torch import Tensor

SUPPORTED = "StableDiffusionPipeline"


@dataclass(frozen=True)
class PipelineParts:
    """Frozen models of a text-to-image latent diffusion pipeline, in evaluation mode.

    Attributes:
        unet: UNet2DConditionModel. vae: autoencoder. text_encoder, tokenizer: CLIP's. noise: DDPMScheduler made from the
            pipeline's own scheduler configuration.
    """

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    noise: Any

    @property
    def resolution(self) -> int:
        """Pixels on a side that the model was made for."""
        return int(self.unet.config.sample_size) * self.vae_factor

    @property
    def vae_factor(self) -> int:
        """Pixels per latent, on a side."""
        blocks = getattr(self.vae.config, "block_out_channels", None) or self.vae.config.encoder_block_out_channels
        return int(2 ** (len(blocks) - 1))


def load_parts(folder: Path) -> PipelineParts:
    """Loads a pipeline folder without touching the network.

    Raises:
        UserError: for a missing folder, one that is no pipeline, another kind of pipeline, or broken files.
    """
    if not folder.is_dir():
        raise UserError(
            f"--model {folder}: there is no such folder; give a pipeline folder as diffusers' save_pretrained writes it"
        )
    index = folder / "model_index.json"
    if not index.is_file():
        raise UserError(
            f"--model {folder}: no model_index.json in it, so it is no pipeline folder; give the folder that holds unet/ and vae/"
        )
    try:
        kind = json.loads(index.read_text()).get("_class_name", "")
    except (json.JSONDecodeError, AttributeError):
        raise UserError(
            f"--model {folder}: model_index.json cannot be read; the folder is broken, copy it again"
        ) from None
    if kind != SUPPORTED:
        raise UserError(
            f"--model {folder}: it holds a {kind or 'nameless pipeline'}; `train` takes a {SUPPORTED} (others: systolora.offload)"
        )
    from diffusers import DDPMScheduler, StableDiffusionPipeline

    quiet_libraries()
    try:
        pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, local_files_only=True)
    except Exception as error:  # diffusers raises many kinds; each is a folder that cannot be used
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--model {folder}: diffusers cannot load it: {reason}") from None
    for model in (pipe.unet, pipe.vae, pipe.text_encoder):
        model.requires_grad_(False)
        model.eval()
    noise = DDPMScheduler.from_config(pipe.scheduler.config)
    return PipelineParts(pipe.unet, pipe.vae, pipe.text_encoder, pipe.tokenizer, noise)


@torch.no_grad()
def encode_pictures(vae: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Latents of pictures, as mean and standard deviation of their distribution, scaled as the U-Net expects.

    Args:
        pixels: float32 [count, 3, height, width] in -1 .. 1.

    Returns:
        (mean, deviation), float32 [count, channels, height / factor, width / factor]; deviation is zero for autoencoders
        without a distribution.
    """
    means, deviations = [], []
    for part in pixels.split(8):
        encoded = vae.encode(part)
        if hasattr(encoded, "latent_dist"):
            means.append(encoded.latent_dist.mean)
            deviations.append(encoded.latent_dist.std)
        else:
            means.append(encoded.latents)
            deviations.append(torch.zeros_like(encoded.latents))
    factor = float(vae.config.scaling_factor)
    shift = float(getattr(vae.config, "shift_factor", None) or 0.0)
    return (torch.cat(means) - shift) * factor, torch.cat(deviations) * factor


@torch.no_grad()
def encode_captions(tokenizer: Any, text_encoder: Any, captions: list[str]) -> Tensor:
    """Text embeddings, float32 [count, tokens, width], padded to the tokenizer's length; one row per caption."""
    unique = list(dict.fromkeys(captions))
    rows = []
    for start in range(0, len(unique), 16):
        tokens = tokenizer(
            unique[start : start + 16],
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        rows.append(text_encoder(tokens.input_ids)[0])
    embedded = torch.cat(rows)
    return embedded[[unique.index(caption) for caption in captions]]
