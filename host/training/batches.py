"""What each training step sees: a pure function of (seed, step), so that an interrupted run goes on with the same bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from systolora.errors import UserError
from systolora.models.encoding import PICTURES_AT_ONCE, caption_lengths, caption_limit, encode_captions, encode_pictures
from systolora.models.pipeline import PipelineParts
from torch import Tensor

from .cache import EncodingCache, model_digest
from .captions import CaptionedPicture, names_of
from .order import batch_place, generator
from .pictures import Size, load_picture, parse_colour
from .repeats import picture_repeats
from .settings import TrainSettings
from .sources import find_data
from .views import Plan, PlannedPicture, View, plan_pictures

__all__ = ["Batch", "Bucket", "EncodedPictures", "draw_batch", "encode_data", "generator"]


@dataclass(frozen=True)
class Bucket:
    """Pictures of one size.

    Attributes:
        mean, deviation: latents, float32 [views, pictures, channels, height, width]; views are the crops, each as it is and, with
            mirrored pictures, mirrored.
        pictures: number of each among all. order: those that come in an epoch, as places here, a repeated one several times.
    """

    mean: Tensor
    deviation: Tensor
    pictures: tuple[int, ...]
    order: tuple[int, ...]


@dataclass(frozen=True)
class EncodedPictures:
    """The data set as the U-Net sees it, encoded once.

    Attributes:
        buckets: the latents, one for each size of pictures.
        text: float32 [pictures, tokens, width]. empty: float32 [tokens, width], of the empty caption.
        notes: what the user should know of the pictures and captions, a line each. skipped: pictures that were left out.
    """

    buckets: tuple[Bucket, ...]
    text: Tensor
    empty: Tensor
    notes: tuple[str, ...] = ()
    skipped: int = 0

    @property
    def count(self) -> int:
        """Number of pictures."""
        return self.text.shape[0]

    @property
    def mean(self) -> Tensor:
        """Of the only bucket."""
        (bucket,) = self.buckets
        return bucket.mean

    @property
    def deviation(self) -> Tensor:
        """Of the only bucket."""
        (bucket,) = self.buckets
        return bucket.deviation


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
    """Reads and encodes the pictures and captions of a run; no more than a few pictures are held as pixels at once.

    Args:
        on_picture: called with (pictures encoded so far, all of them), from (0, all) on.

    Raises:
        UserError: for a bad folder, picture, caption or setting, or a model that gives values that are not finite.
    """
    folder, resolution = Path(settings.data), parts.checked_resolution(settings.resolution)
    pictures, notes = find_data(folder, settings)
    cache = EncodingCache(Path(settings.cache_dir)) if settings.cache_dir else None
    vae = model_digest(parts.vae) if cache else ""
    plan = plan_pictures(pictures, settings, resolution, parts.vae_factor, cache, vae)
    used = [planned.picture for planned in plan.pictures]
    notes += [*plan.notes, *_cut_captions(parts, used)]
    text = _encode_texts(parts, [*(picture.caption for picture in used), ""], cache)
    latents = list(_encode_plan(parts.vae, plan, settings, cache, vae, on_picture or (lambda done, total: None)))
    repeats = picture_repeats(folder, used, settings.repeats)
    if cache:
        notes += [*cache.notes, f"{cache.hits} encodings were in {cache.folder}, {cache.made} were made"]
    return EncodedPictures(_buckets(plan, latents, repeats), text[:-1], text[-1], tuple(notes), plan.skipped)


def _encode_texts(parts: PipelineParts, captions: Sequence[str], cache: EncodingCache | None) -> Tensor:
    """Embeddings, one row a caption. With a cache each is encoded alone, so that it does not depend on those beside it."""
    if cache is None:
        return encode_captions(parts.tokenizer, parts.text_encoder, captions)
    encoder, limit = model_digest(parts.text_encoder), caption_limit(parts.tokenizer, parts.text_encoder)

    def row(caption: str) -> Tensor:
        def made() -> Mapping[str, Tensor]:
            return {"text": encode_captions(parts.tokenizer, parts.text_encoder, [caption])}

        tokens = parts.tokenizer([caption], truncation=False).input_ids[0]
        return cache.get(made, caption=caption, tokens=tokens, limit=limit, encoder=encoder)["text"]

    rows = {caption: row(caption) for caption in dict.fromkeys(captions)}
    return torch.cat([rows[caption] for caption in captions])


Latents = tuple[Tensor, Tensor]
"""(mean, deviation) of a picture, each [views, channels, height, width]."""


def _encode_plan(
    vae: Any,
    plan: Plan,
    settings: TrainSettings,
    cache: EncodingCache | None,
    digest: str,
    on_picture: Callable[[int, int], None],
) -> Iterator[Latents]:
    """The latents of each picture. A few of one size are encoded at once; with a cache each alone, whose bits then depend on no other."""
    background, total, done = parse_colour(settings.background), len(plan.pictures), 0
    for some in _groups(plan.pictures, 1 if cache else PICTURES_AT_ONCE):
        on_picture(done, total)
        if cache:
            yield _cached(vae, some[0], background, cache, digest)
        else:
            yield from _encode_views(vae, some, background)
        done += len(some)
    on_picture(done, total)


def _groups(pictures: Sequence[PlannedPicture], most: int) -> Iterator[list[PlannedPicture]]:
    """Neighbours of one size, no more than `most` at once."""
    some: list[PlannedPicture] = []
    for planned in pictures:
        if some and (len(some) == most or some[0].size != planned.size):
            yield some
            some = []
        some.append(planned)
    if some:
        yield some


def _cached(
    vae: Any, planned: PlannedPicture, background: tuple[int, int, int], cache: EncodingCache, digest: str
) -> Latents:
    def latents(view: View) -> Mapping[str, Tensor]:
        ((mean, deviation),) = _encode_views(vae, [replace(planned, views=(view,))], background)
        return {"mean": mean, "deviation": deviation}

    views = [cache.get(partial(latents, view), **planned.facts(view, digest, background)) for view in planned.views]
    return torch.cat([view["mean"] for view in views]), torch.cat([view["deviation"] for view in views])


def _encode_views(vae: Any, some: Sequence[PlannedPicture], background: tuple[int, int, int]) -> list[Latents]:
    """The latents of a few pictures of one size, with as many views each."""
    views: list[Latents] = []
    for number, view in enumerate(some[0].views):
        if not (view.mirrored and views):  # a mirrored view comes after the same one as it is
            pixels = torch.stack([_pixels(planned, number, background) for planned in some])
        views.append(encode_pictures(vae, pixels.flip(-1) if view.mirrored else pixels))
    mean, deviation = (torch.stack(tensors) for tensors in zip(*views, strict=True))
    good = (mean.isfinite() & deviation.isfinite()).flatten(2).all(2).all(0)
    if not good.all():
        raise UserError(
            f"--model: its autoencoder gives values that are not finite for {some[int(good.long().argmin())].picture.path}"
        )
    return list(zip(mean.unbind(1), deviation.unbind(1), strict=True))


def _pixels(planned: PlannedPicture, view: int, background: tuple[int, int, int]) -> Tensor:
    return torch.from_numpy(load_picture(planned.picture, planned.size, background, planned.views[view].place))


def _buckets(plan: Plan, latents: Sequence[Latents], repeats: Sequence[int]) -> tuple[Bucket, ...]:
    """The pictures by size, in the order of their sizes."""
    members: dict[Size, list[int]] = {}
    for number, planned in enumerate(plan.pictures):
        members.setdefault(planned.size, []).append(number)
    return tuple(
        Bucket(
            torch.cat([latents[number][0][:, None] for number in members[size]], 1),
            torch.cat([latents[number][1][:, None] for number in members[size]], 1),
            tuple(members[size]),
            tuple(place for place, number in enumerate(members[size]) for _ in range(repeats[number])),
        )
        for size in sorted(members)
    )


def _cut_captions(parts: PipelineParts, pictures: Sequence[CaptionedPicture]) -> list[str]:
    limit = caption_limit(parts.tokenizer, parts.text_encoder)
    lengths = caption_lengths(parts.tokenizer, [picture.caption for picture in pictures])
    cut = [picture.path for picture, length in zip(pictures, lengths, strict=True) if length > limit]
    return [f"captions of more than {limit} tokens, the model's most, are cut: {names_of(cut)}"] if cut else []


def draw_batch(data: EncodedPictures, settings: TrainSettings, timesteps: int, step: int, micro: int) -> Batch:
    """Micro-batch `micro` of optimizer step `step`, all of one size; every picture comes as often as any other, in an order of its own.

    Args:
        timesteps: length of the noise schedule.
    """
    size = settings.batch
    counts = [len(bucket.order) for bucket in data.buckets]
    number, places = batch_place(counts, size, settings.seed, step * settings.accumulation + micro)
    bucket = data.buckets[number]
    chosen = [bucket.order[place] for place in places]
    random = generator("batch", settings.seed, step, micro)
    view = torch.randint(bucket.mean.shape[0], (size,), generator=random)
    mean, deviation = bucket.mean[view, chosen], bucket.deviation[view, chosen]
    latents = mean + deviation * torch.randn(mean.shape, generator=random)
    noise = torch.randn(mean.shape, generator=random)
    if settings.noise_offset:
        noise = noise + settings.noise_offset * torch.randn(*mean.shape[:2], 1, 1, generator=random)
    when = torch.randint(timesteps, (size,), generator=random)
    dropped = torch.rand(size, generator=random) < settings.caption_dropout
    own = data.text[[bucket.pictures[place] for place in chosen]]
    return Batch(latents, noise, when, torch.where(dropped[:, None, None], data.empty, own))
