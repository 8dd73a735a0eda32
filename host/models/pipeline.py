"""The parts of a Stable Diffusion pipeline folder that training needs, loaded in float32 and checked."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from systolora.errors import UserError
from systolora.libraries import quiet_libraries

from .folder import FolderPart, read_folder, square_side, variant_note

LARGEST_RESOLUTION = 8192
"""Pixels on a side; no model of this kind makes larger pictures."""


@dataclass(frozen=True)
class PipelineParts:
    """Frozen float32 models of a text-to-image latent diffusion pipeline, in evaluation mode.

    Attributes:
        unet: UNet2DConditionModel. vae: autoencoder. text_encoder, tokenizer: CLIP's. noise: DDPMScheduler made from the
            pipeline's own scheduler configuration. notes: what the user should know of the loading, a line each.
    """

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    noise: Any
    notes: tuple[str, ...] = ()

    @property
    def resolution(self) -> int:
        """Pixels on a side that the model was made for.

        Raises:
            UserError: if its configuration does not say, or names an oblong.
        """
        size = self.unet.config.sample_size
        side = square_side(size)
        if side is None:
            raise UserError(
                f"--resolution is missing: sample_size is {size} in the model's unet/config.json; give the pixels of the square to train on"
            )
        return side * self.vae_factor

    @property
    def vae_factor(self) -> int:
        """Pixels per latent, on a side."""
        blocks = getattr(self.vae.config, "block_out_channels", None) or self.vae.config.encoder_block_out_channels
        return int(2 ** (len(blocks) - 1))

    def checked_resolution(self, resolution: int) -> int:
        """`resolution`, or the model's own for 0.

        Raises:
            UserError: if the model cannot take it.
        """
        chosen = resolution or self.resolution
        if chosen % self.vae_factor or not self.vae_factor <= chosen <= LARGEST_RESOLUTION:
            raise UserError(
                f"--resolution {chosen}: the model takes multiples of {self.vae_factor} up to {LARGEST_RESOLUTION}"
            )
        return chosen


def load_parts(folder: Path) -> PipelineParts:
    """Loads a pipeline folder without touching the network, its weights as float32 whatever the files store.

    Raises:
        UserError: for a missing folder, one that is no pipeline, another kind of pipeline, or missing or broken files.
    """
    pipe, notes = load_pipeline(folder)
    for model in (pipe.unet, pipe.vae, pipe.text_encoder):
        model.requires_grad_(False)
        model.eval()
    from diffusers import DDPMScheduler

    noise = DDPMScheduler.from_config(pipe.scheduler.config)
    return PipelineParts(pipe.unet, pipe.vae, pipe.text_encoder, pipe.tokenizer, noise, notes)


def load_pipeline(folder: Path) -> tuple[Any, tuple[str, ...]]:
    """(pipeline, notes for the user): diffusers' pipeline of a folder in float32, without its safety checker.

    Raises:
        UserError: as `load_parts`.
    """
    parts = read_folder(folder)
    from diffusers import StableDiffusionPipeline

    quiet_libraries()
    loaded = {name: _load_part(folder, part) for name, part in parts.items()}
    _check_fit(folder, **loaded)
    pipe = StableDiffusionPipeline(**loaded, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    return pipe, tuple(variant_note(parts.values()))


def _load_part(folder: Path, part: FolderPart) -> Any:
    """One part. A model that lacks a tensor is refused: the libraries would make up its values, or none."""
    where = f"--model {folder}: its part {part.name}/"
    kind: Any = getattr(importlib.import_module(part.library), part.class_name, None)
    if not hasattr(kind, "from_pretrained"):
        raise UserError(f"{where} is of class {part.class_name}, which the installed {part.library} does not have")
    is_model = isinstance(kind, type) and issubclass(kind, torch.nn.Module)
    options: dict[str, Any] = {}
    if is_model:
        options = {"torch_dtype": torch.float32, "use_safetensors": part.safetensors, "output_loading_info": True}
    if part.variant:
        options["variant"] = part.variant
    try:
        made = kind.from_pretrained(str(folder), subfolder=part.name, local_files_only=True, **options)
    except Exception as error:  # the libraries raise many kinds; each is a folder that cannot be used
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{where} cannot be loaded as {part.class_name}: {reason}") from None
    if not is_model:
        return made
    model, info = made
    missing = sorted(info["missing_keys"])
    if missing:
        more = f" and {len(missing) - 1} more tensors" if missing[1:] else ""
        raise UserError(f"{where} lacks {missing[0]}{more} in its weight files; copy them again")
    return model


def _check_fit(folder: Path, unet: Any, vae: Any, text_encoder: Any, tokenizer: Any, scheduler: Any) -> None:
    where = f"--model {folder}:"
    if type(unet).__name__ != "UNet2DConditionModel":
        raise UserError(f"{where} its unet/ is a {type(unet).__name__}; training takes a UNet2DConditionModel")
    if not hasattr(scheduler, "alphas_cumprod"):
        raise UserError(
            f"{where} its scheduler/ is a {type(scheduler).__name__}, which has no noise schedule of a diffusion model; "
            "flow matching and the like are not trained here"
        )
    if unet.config.in_channels != vae.config.latent_channels:
        raise UserError(
            f"{where} its U-Net takes {unet.config.in_channels} channels and its autoencoder gives "
            f"{vae.config.latent_channels}; inpainting and other image inputs are not trained here"
        )
    width = unet.config.cross_attention_dim
    if isinstance(width, int) and width != text_encoder.config.hidden_size:
        raise UserError(
            f"{where} its U-Net takes text of width {width} and its text encoder gives "
            f"{text_encoder.config.hidden_size}; the parts are of different models"
        )
    if vae.config.scaling_factor is None:
        raise UserError(f"{where} vae/config.json has no scaling_factor; copy it again")
    if tokenizer.pad_token is None:
        raise UserError(f"{where} its tokenizer/ has no padding token; copy it again")
