"""The parts of a text-to-image pipeline folder that training needs, loaded in float32 and checked."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from systolora.errors import UserError
from systolora.libraries import quiet_libraries

from .encoding import caption_lengths, check_tokens, encode_rows
from .families import family_of
from .family import Family, Rows
from .folder import INDEX, FolderPart, folder_layout, read_folder, read_json, square_side, variant_note
from .layouts import PIPELINES, SD_LAYOUT, Layout
from .stable_diffusion import STABLE_DIFFUSION

LARGEST_RESOLUTION = 8192
"""Pixels on a side; no model of this kind makes larger pictures."""


@dataclass(frozen=True)
class PipelineParts:
    """Frozen float32 models of a text-to-image latent diffusion pipeline, in evaluation mode.

    Attributes:
        unet: what is trained: a U-Net, or the transformer of a family that has one. vae: autoencoder. text_encoder, tokenizer: the first.
        noise: DDPMScheduler, or FlowMatchEulerDiscreteScheduler, made from the pipeline's own scheduler configuration.
        notes: what the user should know of the loading, a line each. family: of the model. pipe: diffusers' pipeline of the parts.
    """

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    noise: Any
    notes: tuple[str, ...] = ()
    family: Family = STABLE_DIFFUSION
    pipe: Any = None

    @property
    def resolution(self) -> int:
        """Pixels on a side that the model was made for.

        Raises:
            UserError: if its configuration does not say, or names an oblong.
        """
        size = self.unet.config.get("sample_size", self.family.side or None)
        side = square_side(size)
        if side is None:
            raise UserError(
                f"--resolution is missing: sample_size is {size} in the model's {self.family.layout.trained}/config.json; "
                "give the pixels of the square to train on"
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
        unit, largest = self.vae_factor * self.family.cells, LARGEST_RESOLUTION
        # SD 3 has so many positions and no more.
        positions = self.family.flow and self.unet.config.get("pos_embed_max_size")
        if positions:
            largest = min(largest, positions * self.unet.config.patch_size * self.vae_factor)
        if chosen % unit or not unit <= chosen <= largest:
            raise UserError(f"--resolution {chosen}: the model takes multiples of {unit} up to {largest}")
        return chosen

    @property
    def encoders(self) -> dict[str, Any]:
        """The text encoders that the model has, by the names of their parts."""
        if self.pipe is None:
            return {"text_encoder": self.text_encoder}
        found = {name: getattr(self.pipe, name) for _, name in self.family.layout.text}
        return {name: encoder for name, encoder in found.items() if encoder is not None}

    def encode(self, captions: Sequence[str]) -> Rows:
        """What the model is told of captions, one row for each in every tensor; `text` is [count, tokens, width].

        Raises:
            UserError: if tokenizers and text encoders do not go together, or a text gives values that are not finite.
        """
        if self.pipe is not None:
            tokenizers = {encoder: tokenizer for tokenizer, encoder in self.family.layout.text}
            for name, encoder in self.encoders.items():
                check_tokens(encoder, max(map(max, getattr(self.pipe, tokenizers[name])(list(captions)).input_ids)))
        return encode_rows(lambda some: self.family.encode(self, some), captions)

    def cut(self, captions: Sequence[str]) -> tuple[int, list[bool]]:
        """The most tokens that any text encoder takes, and whether each caption has more."""
        tokenizer, limit = max(self.family.limits(self), key=lambda pair: pair[1])
        return limit, [length > limit for length in caption_lengths(tokenizer, captions)]


def is_clip(text_encoder: Any) -> bool:
    """Whether a text encoder is CLIP's, with or without a projection."""
    return type(text_encoder).__name__.startswith("CLIPTextModel")


def exact_size(pipe: Any) -> dict[str, Any]:
    """What a pipeline must be told to draw the size that it is asked for: PixArt's take the nearest of their own else."""
    return {"use_resolution_binning": False} if "PixArt" in type(pipe).__name__ else {}


def load_parts(folder: Path, variant: str = "") -> PipelineParts:
    """Loads a pipeline folder without touching the network, its weights as float32 whatever the files store.

    Args:
        variant: of the weight files, taken where a part has it.

    Raises:
        UserError: for a missing folder, one that is no pipeline, another kind of pipeline, or missing or broken files.
    """
    return parts_of(*load_pipeline(folder, variant))


def parts_of(pipe: Any, notes: tuple[str, ...] = ()) -> PipelineParts:
    """The parts of a pipeline of diffusers, frozen."""
    family = family_of(PIPELINES[type(pipe).__name__])
    for model in pipe.components.values():
        if isinstance(model, torch.nn.Module):
            model.requires_grad_(False)
            model.eval()
    from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

    kind = FlowMatchEulerDiscreteScheduler if family.flow else DDPMScheduler
    noise = kind.from_config(pipe.scheduler.config)
    trained = getattr(pipe, family.layout.trained)
    return PipelineParts(trained, pipe.vae, pipe.text_encoder, pipe.tokenizer, noise, notes, family, pipe)


def load_pipeline(folder: Path, variant: str = "") -> tuple[Any, tuple[str, ...]]:
    """(pipeline, notes for the user): diffusers' pipeline of a folder in float32, without its safety checker.

    Raises:
        UserError: as `load_parts`.
    """
    parts = read_folder(folder, variant)
    import diffusers

    quiet_libraries()
    layout = folder_layout(folder)
    loaded = {name: _load_part(folder, part) for name, part in parts.items()}
    check_fit(f"--model {folder}:", layout, loaded)
    index = read_json(folder / INDEX)
    kind = getattr(diffusers, index["_class_name"])
    taken = inspect.signature(kind.__init__).parameters
    others = {name: value for name, value in index.items() if name in taken and not isinstance(value, list)}
    if layout == SD_LAYOUT:
        others = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    if "add_watermarker" in taken:
        others["add_watermarker"] = False
    absent = dict.fromkeys(layout.parts.keys() - loaded.keys())
    return kind(**loaded, **absent, **others), tuple(variant_note(parts.values(), variant))


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


def check_fit(where: str, layout: Layout, parts: Mapping[str, Any]) -> None:
    """Holds loaded parts against each other.

    Args:
        where: begins the message. parts: by name; those that the layout may lack can be missing.

    Raises:
        UserError: for parts of another kind or of different models.
    """
    family, model, vae, scheduler = family_of(layout), parts[layout.trained], parts["vae"], parts["scheduler"]
    if type(model).__name__ != layout.model_class:
        raise UserError(
            f"{where} its {layout.trained}/ is a {type(model).__name__}; training takes a {layout.model_class}"
        )
    if family.flow and type(scheduler).__name__ != "FlowMatchEulerDiscreteScheduler":
        raise UserError(
            f"{where} its scheduler/ is a {type(scheduler).__name__}; {layout.title} is trained with a FlowMatchEulerDiscreteScheduler"
        )
    if not family.flow and not hasattr(scheduler, "alphas_cumprod"):
        raise UserError(
            f"{where} its scheduler/ is a {type(scheduler).__name__}, which has no noise schedule of a diffusion model; "
            f"flow matching and the like are not what {layout.title} is trained with"
        )
    named = "U-Net" if layout.trained == "unet" else "transformer"
    if family.channels(model.config) != vae.config.latent_channels:
        raise UserError(
            f"{where} its {named} takes {family.channels(model.config)} channels and its autoencoder gives "
            f"{vae.config.latent_channels}; inpainting and other image inputs are not trained here"
        )
    width, found = family.text_width(model.config), _text_width(layout, parts)
    if width is not None and found is not None and width != found:
        raise UserError(
            f"{where} its {named} takes text of width {width} and its text encoder gives "
            f"{found}; the parts are of different models"
        )
    taken, given = family.pooled(model.config, parts)
    if taken != given:
        raise UserError(
            f"{where} its {named} takes pooled text of width {taken} and its text encoders give {given}; the parts are of different models"
        )
    if vae.config.scaling_factor is None:
        raise UserError(f"{where} vae/config.json has no scaling_factor; copy it again")
    for name in (tokenizer for tokenizer, _ in layout.text if tokenizer in parts):
        if parts[name].pad_token is None:
            raise UserError(f"{where} its {name}/ has no padding token; copy it again")


def _text_width(layout: Layout, parts: Mapping[str, Any]) -> int | None:
    """Of the embeddings that the text encoders give together: XL puts two side by side, others take the last one's."""
    widths = [parts[encoder].config.hidden_size for _, encoder in layout.text if encoder in parts]
    if layout.pipelines == ("StableDiffusionXLPipeline",):
        return sum(widths)
    return widths[-1] if len(widths) == len(layout.text) else None
