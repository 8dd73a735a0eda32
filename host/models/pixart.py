"""PixArt-Alpha and Sigma: a T5 text encoder with a mask of its tokens, a transformer, resolution and aspect ratio for Alpha 1024."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .family import Family, Rows, Shown
from .layouts import PIXART_LAYOUT

_TOKENS = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}
"""Of a caption, as the pipelines take them."""


def _encode(parts: Any, captions: list[str]) -> Rows:
    text, mask, _, _ = parts.pipe.encode_prompt(
        captions,
        do_classifier_free_guidance=False,
        clean_caption=False,
        max_sequence_length=_TOKENS[type(parts.pipe).__name__],
    )
    return {"text": text, "mask": mask}


def _added(model: Any, views: Sequence[Shown], guidance: float) -> Rows:
    if not model.config.use_additional_conditions:
        return {}
    sides = [(float(view.size[1]), float(view.size[0])) for view in views]
    return {
        "resolution": torch.tensor(sides),
        "aspect_ratio": torch.tensor([[height / width] for height, width in sides]),
    }


def _predict(model: Any, noisy: Tensor, timesteps: Tensor, rows: Mapping[str, Tensor]) -> Tensor:
    predicted: Tensor = model(
        noisy,
        encoder_hidden_states=rows["text"],
        encoder_attention_mask=rows["mask"],
        timestep=timesteps,
        added_cond_kwargs={name: rows.get(name) for name in ("resolution", "aspect_ratio")},
    ).sample
    # The second half of the channels, where there is one, is a variance, which is not trained.
    return predicted[:, : noisy.shape[1]]


PIXART = Family(
    PIXART_LAYOUT,
    _encode,
    _predict,
    lambda parts: [(parts.pipe.tokenizer, _TOKENS[type(parts.pipe).__name__])],
    added=_added,
    text_width=lambda config: config.caption_channels,
    cells=2,
)
