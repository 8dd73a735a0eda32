"""What each training step sees: a pure function of (seed, step), so that an interrupted run goes on with the same bits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from systolora.errors import UserError
from systolora.models.encoding import PICTURES_AT_ONCE, caption_lengths, caption_limit, encode_captions, encode_pictures
from systolora.models.pipeline import PipelineParts
from torch import Tensor

from .captions import CaptionedPicture, find_pictures, folder_notes, names_of
from .pictures import check_pictures, load_picture, parse_colour
from .settings import TrainSettings


@dataclass(frozen=True)
class EncodedPictures:
    """The data set as the U-Net sees it, encoded once.

    Attributes:
        mean, deviation: latents, float32 [flips, pictures, channels, height, width]; flips is 1, or 2 with mirrored pictures.
        text: float32 [pictures, tokens, width]. empty: float32 [tokens, width], of the empty caption.
        notes: what the user should know of the pictures and captions, a line each.
    """

    mean: Tensor
    deviation: Tensor
    text: Tensor
    empty: Tensor
    notes: tuple[str, ...] = ()

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
        """The share of process `rank` of `world`: as many pictures each, one after the other, as micro-batches of that size have them."""
        size = len(self.timesteps) // world
        mine = slice(rank * size, (rank + 1) * size)
        return Batch(*(tensor[mine] for tensor in (self.latents, self.noise, self.timesteps, self.text)))


def encode_data(
    parts: PipelineParts, settings: TrainSettings, on_picture: Callable[[int, int], None] | None = None
) -> EncodedPictures:
    """Reads and encodes the pictures and captions of a run; no more than a few pictures are held as pixels at once.

    Args:
        on_picture: called with (pictures encoded so far, all of them), from (0, all) on.

    Raises:
        UserError: for a bad folder, picture, caption or setting, or a model that gives values that are not finite.
    """
    folder, background = Path(settings.data), parse_colour(settings.background)
    resolution = parts.checked_resolution(settings.resolution)
    pictures = find_pictures(folder, settings.prompt)
    paths = [picture.path for picture in pictures]
    notes = [*folder_notes(folder, pictures), *check_pictures(paths, background), *_cut_captions(parts, pictures)]
    text = encode_captions(parts.tokenizer, parts.text_encoder, [*(picture.caption for picture in pictures), ""])
    means, deviations = [], []
    for start in range(0, len(paths), PICTURES_AT_ONCE):
        if on_picture:
            on_picture(start, len(paths))
        some = paths[start : start + PICTURES_AT_ONCE]
        pixels = torch.stack([torch.from_numpy(load_picture(path, resolution, background)) for path in some])
        mean, deviation = _encode_views(parts.vae, pixels, settings.random_flip, some)
        means.append(mean)
        deviations.append(deviation)
    if on_picture:
        on_picture(len(paths), len(paths))
    return EncodedPictures(torch.cat(means, 1), torch.cat(deviations, 1), text[:-1], text[-1], tuple(notes))


def _encode_views(vae: Any, pixels: Tensor, flip: bool, paths: Sequence[Path]) -> tuple[Tensor, Tensor]:
    """(mean, deviation), [flips, pictures, channels, height, width], of a few pictures and, with `flip`, their mirror images."""
    views = [pixels, pixels.flip(-1)] if flip else [pixels]
    mean, deviation = (
        torch.stack(tensors) for tensors in zip(*(encode_pictures(vae, view) for view in views), strict=True)
    )
    good = (mean.isfinite() & deviation.isfinite()).flatten(2).all(2).all(0)
    if not good.all():
        raise UserError(
            f"--model: its autoencoder gives values that are not finite for {paths[int(good.long().argmin())]}"
        )
    return mean, deviation


def _cut_captions(parts: PipelineParts, pictures: Sequence[CaptionedPicture]) -> list[str]:
    limit = caption_limit(parts.tokenizer, parts.text_encoder)
    lengths = caption_lengths(parts.tokenizer, [picture.caption for picture in pictures])
    cut = [picture.path for picture, length in zip(pictures, lengths, strict=True) if length > limit]
    return [f"captions of more than {limit} tokens, the model's most, are cut: {names_of(cut)}"] if cut else []


def generator(*key: object) -> torch.Generator:
    """A random generator that depends on the key alone."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def draw_batch(data: EncodedPictures, settings: TrainSettings, timesteps: int, step: int, micro: int) -> Batch:
    """Micro-batch `micro` of optimizer step `step`; every picture comes once an epoch, in an order of its own.

    What is drawn belongs to the whole step: it is the same however the step is cut into micro-batches and processes.

    Args:
        timesteps: length of the noise schedule.
    """
    whole = settings.batch * settings.accumulation
    mine = slice(micro * settings.batch, (micro + 1) * settings.batch)
    chosen = [_picture_number(data.count, settings.seed, step * whole + i) for i in range(whole)[mine]]
    random = generator("batch", settings.seed, step, 0)
    shape = (whole, *data.mean.shape[2:])
    flip = torch.randint(data.mean.shape[0], (whole,), generator=random)[mine]
    spread, noise = (torch.randn(shape, generator=random)[mine] for _ in range(2))
    if settings.noise_offset:
        noise = noise + settings.noise_offset * torch.randn(*shape[:2], 1, 1, generator=random)[mine]
    when = torch.randint(timesteps, (whole,), generator=random)[mine]
    dropped = torch.rand(whole, generator=random)[mine] < settings.caption_dropout
    latents = data.mean[flip, chosen] + data.deviation[flip, chosen] * spread
    text = torch.where(dropped[:, None, None], data.empty, data.text[chosen])
    return Batch(latents, noise, when, text)


def _picture_number(count: int, seed: int, position: int) -> int:
    epoch, place = divmod(position, count)
    return int(torch.randperm(count, generator=generator("order", seed, epoch))[place])
