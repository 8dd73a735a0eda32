"""What each training step sees: a pure function of (seed, step), so that an interrupted run goes on with the same bits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from systolora.errors import UserError
from systolora.models.encoding import PICTURES_AT_ONCE, encode_pictures
from systolora.models.family import View
from systolora.models.pipeline import PipelineParts
from torch import Tensor

from .captions import CaptionedPicture, find_pictures, folder_notes, names_of
from .pictures import check_pictures, load_picture, parse_colour, picture_size
from .settings import TrainSettings


@dataclass(frozen=True)
class EncodedPictures:
    """The data set as the model sees it, encoded once.

    Attributes:
        mean, deviation: latents, float32 [flips, pictures, channels, height, width]; flips is 1, or 2 with mirrored pictures.
        text: float32 [pictures, tokens, width]. empty: float32 [tokens, width], of the empty caption.
        notes: what the user should know of the pictures and captions, a line each.
        told: what else the model is told of each picture and its caption, [pictures, ...] by name, as its family does.
        empty_told: of the empty caption, [...] by name; what is not named depends on the picture alone.
        captions: of the pictures, for text encoders that are trained.
    """

    mean: Tensor
    deviation: Tensor
    text: Tensor
    empty: Tensor
    notes: tuple[str, ...] = ()
    told: Mapping[str, Tensor] = field(default_factory=dict)
    empty_told: Mapping[str, Tensor] = field(default_factory=dict)
    captions: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Number of pictures."""
        return self.text.shape[0]


@dataclass(frozen=True)
class Batch:
    """One micro-batch: latents, noise [batch, channels, height, width]; timesteps [batch]; text [batch, tokens, width]; told: what
    else the model is told, [batch, ...] by name; captions: what the text is of."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    text: Tensor
    told: Mapping[str, Tensor] = field(default_factory=dict)
    captions: tuple[str, ...] = ()

    @property
    def rows(self) -> dict[str, Tensor]:
        """All that the model is told beside noisy latents and time, as `Family.predict` takes it."""
        return {"text": self.text, **self.told}

    def part(self, rank: int, world: int) -> Batch:
        """The share of process `rank` of `world`: every world-th picture."""
        latents, noise, when, text = (
            tensor[rank::world] for tensor in (self.latents, self.noise, self.timesteps, self.text)
        )
        told = {name: tensor[rank::world] for name, tensor in self.told.items()}
        return Batch(latents, noise, when, text, told, self.captions[rank::world])

    def encoded_anew(self, parts: PipelineParts) -> Batch:
        """With the text of its captions as the text encoders give it now, with gradients."""
        rows = parts.family.encode(parts, list(self.captions))
        return replace(self, text=rows.pop("text"), told={**self.told, **rows})


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
    rows = parts.encode([*(picture.caption for picture in pictures), ""])
    text = rows.pop("text")
    views = [View(*picture_size(path), resolution) for path in paths]
    added = parts.family.added(parts.unet, views, settings.guidance)
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
    return EncodedPictures(
        torch.cat(means, 1),
        torch.cat(deviations, 1),
        text[:-1],
        text[-1],
        tuple(notes),
        told={name: tensor[:-1] for name, tensor in rows.items()} | added,
        empty_told={name: tensor[-1] for name, tensor in rows.items()},
        captions=tuple(picture.caption for picture in pictures),
    )


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
    limit, longer = parts.cut([picture.caption for picture in pictures])
    cut = [picture.path for picture, long in zip(pictures, longer, strict=True) if long]
    return [f"captions of more than {limit} tokens, the model's most, are cut: {names_of(cut)}"] if cut else []


def generator(*key: object) -> torch.Generator:
    """A random generator that depends on the key alone."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def draw_batch(
    data: EncodedPictures,
    settings: TrainSettings,
    draw_times: Callable[[int, torch.Generator], Tensor],
    step: int,
    micro: int,
    kind: str = "",
) -> Batch:
    """Micro-batch `micro` of optimizer step `step`; every picture comes once an epoch, in an order of its own.

    Args:
        draw_times: of the objective: (count, random) -> timesteps. kind: begins the name of the random numbers, for other data.
    """
    size = settings.batch
    first = (step * settings.accumulation + micro) * size
    chosen = [_picture_number(data.count, settings.seed, first + i, kind) for i in range(size)]
    random = generator(f"{kind}batch", settings.seed, step, micro)
    flip = torch.randint(data.mean.shape[0], (size,), generator=random)
    mean, deviation = data.mean[flip, chosen], data.deviation[flip, chosen]
    latents = mean + deviation * torch.randn(mean.shape, generator=random)
    noise = torch.randn(mean.shape, generator=random)
    if settings.noise_offset:
        noise = noise + settings.noise_offset * torch.randn(*mean.shape[:2], 1, 1, generator=random)
    when = draw_times(size, random)
    dropped = torch.rand(size, generator=random) < settings.caption_dropout
    told = {name: tensor[chosen] for name, tensor in data.told.items()}
    told |= {name: _or_empty(dropped, told[name], empty) for name, empty in data.empty_told.items()}
    said = (
        tuple("" if gone else data.captions[n] for n, gone in zip(chosen, dropped, strict=True))
        if data.captions
        else ()
    )
    return Batch(latents, noise, when, _or_empty(dropped, data.text[chosen], data.empty), told, said)


def _or_empty(dropped: Tensor, rows: Tensor, empty: Tensor) -> Tensor:
    """`rows` [batch, ...] with `empty` [...] where `dropped` [batch]."""
    return torch.where(dropped.view(-1, *(1,) * empty.ndim), empty, rows)


def _picture_number(count: int, seed: int, position: int, kind: str) -> int:
    epoch, place = divmod(position, count)
    return int(torch.randperm(count, generator=generator(f"{kind}order", seed, epoch))[place])
