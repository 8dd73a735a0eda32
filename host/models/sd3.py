"""Stable Diffusion 3 and 3.5: two CLIP text encoders and, where the folder has it, T5; a transformer trained by flow matching."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .encoding import caption_limit
from .family import Family, Rows
from .layouts import SD3_LAYOUT

_T5_TOKENS = 256
"""Of a caption, as the pipeline takes them."""


def _encode(parts: Any, captions: list[str]) -> Rows:
    """Without T5 its tokens are zeros, as in the pipeline."""
    text, _, pooled, _ = parts.pipe.encode_prompt(
        captions, None, None, do_classifier_free_guidance=False, max_sequence_length=_T5_TOKENS
    )
    return {"text": text, "pooled": pooled}


def _predict(model: Any, noisy: Tensor, timesteps: Tensor, rows: Mapping[str, Tensor]) -> Tensor:
    predicted: Tensor = model(
        noisy, timestep=timesteps, encoder_hidden_states=rows["text"], pooled_projections=rows["pooled"]
    ).sample
    return predicted


def _limits(parts: Any) -> list[tuple[Any, int]]:
    pipe = parts.pipe
    pairs = ((pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2))
    limits = [(tokenizer, caption_limit(tokenizer, encoder)) for tokenizer, encoder in pairs]
    return limits if pipe.text_encoder_3 is None else [*limits, (pipe.tokenizer_3, _T5_TOKENS)]


def _pooled(config: Any, parts: Mapping[str, Any]) -> tuple[int, int]:
    given = sum(parts[name].config.projection_dim for name in ("text_encoder", "text_encoder_2"))
    return config.pooled_projection_dim, given


SD3 = Family(
    SD3_LAYOUT,
    _encode,
    _predict,
    _limits,
    text_width=lambda config: int(config.joint_attention_dim),
    pooled=_pooled,
    flow=True,
    cells=2,
)
