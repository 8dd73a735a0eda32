"""How good a fine-tuned sprite model is: concept score, Frechet distance, loss on held-out pictures, error of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from systolora.demo.judge import Judge, frechet_distance
from systolora.demo.sampling import generate_pictures, pictures_to_tensor
from systolora.demo.sprites import SpriteSet, make_sprites
from systolora.models.encoding import encode_captions, encode_pictures
from systolora.models.pipeline import PipelineParts
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Measured:
    """concept: share of generated pictures that show it (0 to 1). frechet: distance of their features to drawn ones.
    loss: mean squared error of the predicted noise on held-out pictures of the concept, with fixed noise."""

    concept: float
    frechet: float
    loss: float


@dataclass(frozen=True)
class TestSet:
    """What all models are judged by: prompts, drawn pictures of the concept, and fixed noise.

    Attributes:
        latents, noise: float32 [n, channels, height, width]. timesteps: int64 [n]. text: float32 [n, tokens, width].
        features: the judge's, of drawn pictures.
    """

    concept: str
    prompts: tuple[str, ...]
    features: np.ndarray
    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    text: Tensor
    steps: int


def make_test_set(
    parts: PipelineParts, judge: Judge, concept: str, prompts: list[str], pictures: int, steps: int
) -> TestSet:
    """Draws the test set of a concept, the same for every model.

    Args:
        prompts: for the generated pictures. pictures: drawn ones, for the Frechet distance; a quarter of them for the loss.
        steps: denoising steps of the generated pictures.
    """
    drawn: SpriteSet = make_sprites(pictures, 9000, (concept,), full_captions=True)
    few = max(2, pictures // 4)
    mean, _ = encode_pictures(parts.vae, pictures_to_tensor(drawn.pictures[:few]))
    text = encode_captions(parts.tokenizer, parts.text_encoder, list(drawn.captions[:few]))
    generator = torch.Generator().manual_seed(9000)
    # Each picture at four timesteps, spread evenly over the schedule.
    latents, text = mean.repeat(4, 1, 1, 1), text.repeat(4, 1, 1)
    noise = torch.randn(latents.shape, generator=generator)
    total = int(parts.noise.config.num_train_timesteps)
    timesteps = torch.linspace(0, total - 1, len(latents)).long()[torch.randperm(len(latents), generator=generator)]
    features = judge.look(drawn.pictures).features
    return TestSet(concept, tuple(prompts), features, latents, noise, timesteps, text, steps)


@torch.no_grad()
def measure(pipeline: Any, unet: Any, parts: PipelineParts, judge: Judge, tests: TestSet, seed: int) -> Measured:
    """Generates the test set's prompts with a U-Net and judges them.

    Args:
        pipeline: of diffusers, whose `unet` is replaced for the call. seed: of the generated pictures' first noise.
    """
    unet.eval()
    own, pipeline.unet = pipeline.unet, unet
    try:
        pictures = generate_pictures(pipeline, list(tests.prompts), seed, steps=tests.steps)
    finally:
        pipeline.unet = own
    noisy = parts.noise.add_noise(tests.latents, tests.noise, tests.timesteps)
    losses = [
        functional.mse_loss(unet(some, at, text).sample.float(), target, reduction="sum").item()
        for some, at, text, target in zip(
            *(tensor.split(32) for tensor in (noisy, tests.timesteps, tests.text, tests.noise)), strict=True
        )
    ]
    return Measured(
        concept=judge.concept_share(pictures, tests.concept),
        frechet=frechet_distance(judge.look(pictures).features, tests.features),
        loss=sum(losses) / tests.noise.numel(),
    )


def weight_error(deployed: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> float:
    """|deployed - wanted| / |wanted| over all layers together (2-norm)."""
    error = sum(float(np.square(deployed[name] - target, dtype=np.float64).sum()) for name, target in wanted.items())
    size = sum(float(np.square(target, dtype=np.float64).sum()) for target in wanted.values())
    return (error / size) ** 0.5


def with_unet(parts: PipelineParts, unet: Any) -> PipelineParts:
    """The same parts with another U-Net."""
    return replace(parts, unet=unet)
