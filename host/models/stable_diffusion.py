"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a U-Net, nothing added."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .encoding import caption_limit, embed_captions
from .family import Family, Rows
from .layouts import SD_LAYOUT


def _encode(parts: Any, captions: list[str]) -> Rows:
    return {"text": embed_captions(parts.tokenizer, parts.text_encoder, captions)}


def predict(model: Any, noisy: Tensor, timesteps: Tensor, rows: Mapping[str, Tensor]) -> Tensor:
    """The U-Net's prediction, shaped as noisy."""
    predicted: Tensor = model(noisy, timesteps, rows["text"]).sample
    return predicted


def _width(config: Any) -> int | None:
    return config.cross_attention_dim if isinstance(config.cross_attention_dim, int) else None


STABLE_DIFFUSION = Family(
    SD_LAYOUT,
    _encode,
    predict,
    lambda parts: [(parts.tokenizer, caption_limit(parts.tokenizer, parts.text_encoder))],
    text_width=_width,
)
