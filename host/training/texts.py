"""Captions as the model is told them, kept on disk where there is a cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from systolora.models.family import Rows
from systolora.models.pipeline import PipelineParts

from .cache import EncodingCache, model_digest


def encode_texts(parts: PipelineParts, captions: Sequence[str], cache: EncodingCache | None) -> Rows:
    """Rows of captions, one each in every tensor. With a cache each is encoded alone, so that it does not depend on those beside it.

    Raises:
        UserError: as `PipelineParts.encode`.
    """
    if cache is None:
        return parts.encode(captions)
    limits = parts.family.limits(parts)
    facts = {
        "limits": [limit for _, limit in limits],
        "pipeline": type(parts.pipe).__name__,
        "zeros": bool(parts.pipe is not None and parts.pipe.config.get("force_zeros_for_empty_prompt")),
        "encoders": [model_digest(encoder) for encoder in parts.encoders.values()],
    }

    def row(caption: str) -> Rows:
        tokens = [list(tokenizer([caption], truncation=False).input_ids[0]) for tokenizer, _ in limits]
        return cache.get(lambda: parts.encode([caption]), caption=caption, tokens=tokens, **facts)

    rows = {caption: row(caption) for caption in dict.fromkeys(captions)}
    names = next(iter(rows.values()))
    return {name: torch.cat([rows[caption][name] for caption in captions]) for name in names}
