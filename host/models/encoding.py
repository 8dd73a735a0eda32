"""Pictures and captions as the U-Net sees them: latents of the autoencoder, embeddings of the text encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from systolora.errors import UserError
from torch import Tensor

PICTURES_AT_ONCE = 8
CAPTIONS_AT_ONCE = 16


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
    for part in pixels.split(PICTURES_AT_ONCE):
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


def caption_limit(tokenizer: Any, text_encoder: Any) -> int:
    """The most tokens of a caption: what the tokenizer says, as far as the text encoder has positions.

    A tokenizer that was saved without `model_max_length` says 10^30.

    Raises:
        UserError: if neither says.
    """
    positions = getattr(text_encoder.config, "max_position_embeddings", None)
    limits = [
        limit for limit in (tokenizer.model_max_length, positions) if isinstance(limit, int) and 0 < limit < 2**31
    ]
    if not limits:
        raise UserError(
            "--model: neither its tokenizer (model_max_length) nor its text encoder says how long a text may be"
        )
    return min(limits)


def caption_lengths(tokenizer: Any, captions: Sequence[str]) -> list[int]:
    """Tokens of each caption, uncut, with those that mark its start and end."""
    return [len(tokens) for tokens in tokenizer(list(captions), truncation=False).input_ids]


@torch.no_grad()
def encode_captions(tokenizer: Any, text_encoder: Any, captions: Sequence[str]) -> Tensor:
    """Text embeddings, float32 [count, tokens, width], padded or cut to `caption_limit`; one row per caption.

    Raises:
        UserError: if tokenizer and text encoder do not go together, or a text gives values that are not finite.
    """
    return encode_rows(lambda some: {"text": embed_captions(tokenizer, text_encoder, some)}, captions)["text"]


def embed_captions(tokenizer: Any, text_encoder: Any, captions: Sequence[str]) -> Tensor:
    """As `encode_captions`, of a few captions at once and with gradients.

    Raises:
        UserError: if tokenizer and text encoder do not go together.
    """
    limit = caption_limit(tokenizer, text_encoder)
    tokens = tokenizer(list(captions), padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
    check_tokens(text_encoder, int(tokens.input_ids.max()))
    embedded: Tensor = text_encoder(tokens.input_ids)[0]
    return embedded


def check_tokens(text_encoder: Any, largest: int) -> None:
    """Raises UserError if a text encoder does not know the largest token that its tokenizer gives."""
    if largest >= text_encoder.config.vocab_size:
        raise UserError(
            f"--model: its tokenizer gives token {largest}, where its text encoder knows {text_encoder.config.vocab_size}; "
            "the two are of different models"
        )


@torch.no_grad()
def encode_rows(encode: Callable[[list[str]], dict[str, Tensor]], captions: Sequence[str]) -> dict[str, Tensor]:
    """What `encode` gives for all captions, a few at once and each text once; one row per caption in every tensor.

    Raises:
        UserError: if a text gives values that are not finite.
    """
    unique = list(dict.fromkeys(captions))
    found = [encode(unique[at : at + CAPTIONS_AT_ONCE]) for at in range(0, len(unique), CAPTIONS_AT_ONCE)]
    rows = {name: torch.cat([some[name] for some in found]) for name in found[0]}
    for tensor in rows.values():
        bad = (~tensor.isfinite()).flatten(1).any(1)
        if bad.any():
            caption = unique[int(bad.nonzero()[0])]
            raise UserError(f"--model: its text encoder gives values that are not finite for {caption[:60]!r}")
    place = {caption: number for number, caption in enumerate(unique)}
    order = [place[caption] for caption in captions]
    return {name: tensor[order] for name, tensor in rows.items()}
