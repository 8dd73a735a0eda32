"""What each training step sees: a pure function of (seed, step), so that an interrupted run goes on with the same bits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from systolora.models.pipeline import PipelineParts, encode_captions, encode_pictures
from torch import Tensor

from .pictures import find_pictures, load_picture
from .settings import TrainSettings


@dataclass(frozen=True)
class EncodedPictures:
    """The data set as the U-Net sees it, encoded once.

    Attributes:
        mean, deviation: latents, float32 [flips, pictures, channels, height, width]; flips is 1, or 2 with mirrored pictures.
        text: float32 [pictures, tokens, width]. empty: float32 [tokens, width], of the empty caption.
    """

    mean: Tensor
    deviation: Tensor
    text: Tensor
    empty: Tensor

    @property
    def count(self) -> int:
        """Number of pictures."""
        return self.text.shape[0]


@dataclass(frozen=True)
class Batch:
    """One micro-batch: latents, noise [batch, channels, height, width]; timesteps [batch]; text [batch, tokens, width]."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    text: Tensor

    def part(self, rank: int, world: int) -> Batch:
        """The share of process `rank` of `world`: every world-th picture."""
        return Batch(*(tensor[rank::world] for tensor in (self.latents, self.noise, self.timesteps, self.text)))


def encode_data(
    parts: PipelineParts, settings: TrainSettings, on_picture: Callable[[int, int], None] | None = None
) -> EncodedPictures:
    """Reads and encodes the pictures and captions of a run.

    Args:
        on_picture: called with (pictures encoded so far, all of them), from (0, all) on.

    Raises:
        UserError: for a bad folder, picture or caption.
    """
    pictures = find_pictures(Path(settings.data), settings.prompt)
    resolution = settings.resolution or parts.resolution
    if on_picture:
        on_picture(0, len(pictures))
    pixels = torch.stack([torch.from_numpy(load_picture(picture.path, resolution)) for picture in pictures])
    views = [pixels, pixels.flip(-1)] if settings.random_flip else [pixels]
    encoded = [encode_pictures(parts.vae, view) for view in views]
    captions = [picture.caption for picture in pictures]
    text = encode_captions(parts.tokenizer, parts.text_encoder, [*captions, ""])
    mean, deviation = (torch.stack(tensors) for tensors in zip(*encoded, strict=True))
    if on_picture:
        on_picture(len(pictures), len(pictures))
    return EncodedPictures(mean, deviation, text[:-1], text[-1])


def generator(*key: object) -> torch.Generator:
    """A random generator that depends on the key alone."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def draw_batch(data: EncodedPictures, settings: TrainSettings, timesteps: int, step: int, micro: int) -> Batch:
    """Micro-batch `micro` of optimizer step `step`; every picture comes once an epoch, in an order of its own.

    Args:
        timesteps: length of the noise schedule.
    """
    size = settings.batch
    first = (step * settings.accumulation + micro) * size
    chosen = [_picture_number(data.count, settings.seed, first + i) for i in range(size)]
    random = generator("batch", settings.seed, step, micro)
    flip = torch.randint(data.mean.shape[0], (size,), generator=random)
    mean, deviation = data.mean[flip, chosen], data.deviation[flip, chosen]
    latents = mean + deviation * torch.randn(mean.shape, generator=random)
    noise = torch.randn(mean.shape, generator=random)
    if settings.noise_offset:
        noise = noise + settings.noise_offset * torch.randn(*mean.shape[:2], 1, 1, generator=random)
    when = torch.randint(timesteps, (size,), generator=random)
    dropped = torch.rand(size, generator=random) < settings.caption_dropout
    text = torch.where(dropped[:, None, None], data.empty, data.text[chosen])
    return Batch(latents, noise, when, text)


def _picture_number(count: int, seed: int, position: int) -> int:
    epoch, place = divmod(position, count)
    return int(torch.randperm(count, generator=generator("order", seed, epoch))[place])
