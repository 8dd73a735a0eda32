"""Flux.1: CLIP for a pooled embedding, T5 for the tokens; a transformer on packed latents, trained by flow matching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .encoding import caption_limit
from .family import Family, Rows, Shown
from .layouts import FLUX_LAYOUT

_T5_TOKENS = 512
"""Of a caption, as the pipeline takes them."""
_TIMESTEPS = 1000
"""That the transformer calls 1."""


def _encode(parts: Any, captions: list[str]) -> Rows:
    text, pooled, _ = parts.pipe.encode_prompt(captions, None, max_sequence_length=_T5_TOKENS)
    return {"text": text, "pooled": pooled}


def _added(model: Any, views: Sequence[Shown], guidance: float) -> Rows:
    """The guidance that a distilled model is told; one that takes none (schnell) is told none."""
    return {"guidance": torch.full((len(views),), guidance)} if model.config.guidance_embeds else {}


def _predict(model: Any, noisy: Tensor, timesteps: Tensor, rows: Mapping[str, Tensor]) -> Tensor:
    """Squares of 2 x 2 latents are one token each; position ids are those of its square, zeros for text."""
    from diffusers import FluxPipeline

    batch, channels, height, width = noisy.shape
    places = FluxPipeline._prepare_latent_image_ids(batch, height // 2, width // 2, noisy.device, noisy.dtype)
    predicted = model(
        hidden_states=FluxPipeline._pack_latents(noisy, batch, channels, height, width),
        timestep=timesteps / _TIMESTEPS,
        guidance=rows.get("guidance"),
        pooled_projections=rows["pooled"],
        encoder_hidden_states=rows["text"],
        txt_ids=torch.zeros(rows["text"].shape[1], 3),
        img_ids=places,
    ).sample
    unpacked: Tensor = FluxPipeline._unpack_latents(predicted, height, width, vae_scale_factor=1)
    return unpacked


def _limits(parts: Any) -> list[tuple[Any, int]]:
    pipe = parts.pipe
    return [(pipe.tokenizer, caption_limit(pipe.tokenizer, pipe.text_encoder)), (pipe.tokenizer_2, _T5_TOKENS)]


FLUX = Family(
    FLUX_LAYOUT,
    _encode,
    _predict,
    _limits,
    added=_added,
    text_width=lambda config: int(config.joint_attention_dim),
    channels=lambda config: int(config.in_channels) // 4,
    pooled=lambda config, parts: (config.pooled_projection_dim, parts["text_encoder"].config.hidden_size),
    flow=True,
    cells=2,
    side=128,
)
