"""Stable Diffusion XL: two CLIP text encoders, and the picture's size and crop as added conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .encoding import caption_limit
from .family import Family, Rows, Shown
from .layouts import SDXL_LAYOUT

_TIME_IDS = 6
"""Numbers that tell size, corner and target."""


def _encode(parts: Any, captions: list[str]) -> Rows:
    """The empty caption is zeros where the pipeline takes zeros for it (`force_zeros_for_empty_prompt`)."""
    text, _, pooled, _ = parts.pipe.encode_prompt(captions, do_classifier_free_guidance=False)
    if parts.pipe.config.force_zeros_for_empty_prompt:
        said = torch.tensor([bool(caption) for caption in captions])
        text, pooled = text * said[:, None, None], pooled * said[:, None]
    return {"text": text, "pooled": pooled}


def _added(model: Any, views: Sequence[Shown], guidance: float) -> Rows:
    """Original size, corner of the crop and target size, each (height, width): what the pipeline calls time ids."""
    rows = [(*view.own[::-1], *view.corner, *view.size[::-1]) for view in views]
    return {"time_ids": torch.tensor(rows, dtype=torch.float32)}


def _predict(model: Any, noisy: Tensor, timesteps: Tensor, rows: Mapping[str, Tensor]) -> Tensor:
    added = {"text_embeds": rows["pooled"], "time_ids": rows["time_ids"]}
    predicted: Tensor = model(noisy, timesteps, rows["text"], added_cond_kwargs=added).sample
    return predicted


def _limits(parts: Any) -> list[tuple[Any, int]]:
    pairs = ((parts.pipe.tokenizer, parts.pipe.text_encoder), (parts.pipe.tokenizer_2, parts.pipe.text_encoder_2))
    return [(tokenizer, caption_limit(tokenizer, encoder)) for tokenizer, encoder in pairs]


def _pooled(config: Any, parts: Mapping[str, Any]) -> tuple[int, int]:
    times = _TIME_IDS * (config.addition_time_embed_dim or 0)
    return (config.projection_class_embeddings_input_dim or 0) - times, parts["text_encoder_2"].config.projection_dim


SDXL = Family(
    SDXL_LAYOUT,
    _encode,
    _predict,
    _limits,
    added=_added,
    text_width=lambda config: int(config.cross_attention_dim),
    pooled=_pooled,
)
