"""What each training step sees: a pure function of (seed, step), so that an interrupted run goes on with the same bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from systolora.errors import UserError
from systolora.models.encoding import PICTURES_AT_ONCE, encode_pictures
from systolora.models.family import Shown
from systolora.models.pipeline import PipelineParts
from torch import Tensor

from .cache import EncodingCache, model_digest
from .captions import CaptionedPicture, names_of
from .order import batch_place, generator
from .pictures import Size, load_picture, parse_colour
from .repeats import picture_repeats
from .settings import TrainSettings
from .sources import find_data
from .texts import encode_texts
from .views import Plan, PlannedPicture, View, plan_pictures


@dataclass(frozen=True)
class Bucket:
    """Pictures of one size.

    Attributes:
        mean, deviation: latents, float32 [views, pictures, channels, height, width]; views are the crops, each as it is and, with
            mirrored pictures, mirrored.
        pictures: number of each among all. order: those that come in an epoch, as places here, a repeated one several times.
        added: what the model is told of each view, beside its caption, [views, pictures, ...] by name, as its family does.
    """

    mean: Tensor
    deviation: Tensor
    pictures: tuple[int, ...]
    order: tuple[int, ...]
    added: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class EncodedPictures:
    """The data set as the model sees it, encoded once.

    Attributes:
        buckets: the latents, one for each size of pictures.
        text: float32 [pictures, tokens, width]. empty: float32 [tokens, width], of the empty caption.
        told: what else the model is told of each picture's caption, [pictures, ...] by name, as its family does.
        empty_told: the same of the empty caption, [...] by name.
        captions: of the pictures, for text encoders that are trained.
        notes: what the user should know of the pictures and captions, a line each. skipped: pictures that were left out.
    """

    buckets: tuple[Bucket, ...]
    text: Tensor
    empty: Tensor
    notes: tuple[str, ...] = ()
    told: Mapping[str, Tensor] = field(default_factory=dict)
    empty_told: Mapping[str, Tensor] = field(default_factory=dict)
    captions: tuple[str, ...] = ()
    skipped: int = 0

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
        """The share of process `rank` of `world`: as many pictures each, one after the other, as micro-batches of that size have them."""
        size = len(self.timesteps) // world
        mine = slice(rank * size, (rank + 1) * size)
        told = {name: tensor[mine] for name, tensor in self.told.items()}
        return Batch(
            self.latents[mine], self.noise[mine], self.timesteps[mine], self.text[mine], told, self.captions[mine]
        )

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
    folder, resolution = Path(settings.data), parts.checked_resolution(settings.resolution)
    pictures, notes = find_data(folder, settings)
    cache = EncodingCache(Path(settings.cache_dir)) if settings.cache_dir else None
    vae = model_digest(parts.vae) if cache else ""
    plan = plan_pictures(pictures, settings, resolution, parts.vae_factor, cache, vae)
    used = [planned.picture for planned in plan.pictures]
    notes += [*plan.notes, *_cut_captions(parts, used)]
    rows = encode_texts(parts, [*(picture.caption for picture in used), ""], cache)
    text = rows.pop("text")
    latents = list(_encode_plan(parts.vae, plan, settings, cache, vae, on_picture or (lambda done, total: None)))
    repeats = picture_repeats(folder, used, settings.repeats)
    if cache:
        notes += [*cache.notes, f"{cache.hits} encodings were in {cache.folder}, {cache.made} were made"]
    return EncodedPictures(
        _buckets(plan, latents, repeats, lambda shown: parts.family.added(parts.unet, shown, settings.guidance)),
        text[:-1],
        text[-1],
        tuple(notes),
        told={name: tensor[:-1] for name, tensor in rows.items()},
        empty_told={name: tensor[-1] for name, tensor in rows.items()},
        captions=tuple(picture.caption for picture in used),
        skipped=plan.skipped,
    )


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


def _buckets(
    plan: Plan,
    latents: Sequence[Latents],
    repeats: Sequence[int],
    added: Callable[[Sequence[Shown]], Mapping[str, Tensor]],
) -> tuple[Bucket, ...]:
    """The pictures by size, in the order of their sizes."""
    members: dict[Size, list[int]] = {}
    for number, planned in enumerate(plan.pictures):
        members.setdefault(planned.size, []).append(number)
    buckets = []
    for size in sorted(members):
        own = [plan.pictures[number] for number in members[size]]
        views = [
            added([planned.shown(view) for planned, view in zip(own, some, strict=True)])
            for some in zip(*(planned.views for planned in own), strict=True)
        ]
        buckets.append(
            Bucket(
                torch.cat([latents[number][0][:, None] for number in members[size]], 1),
                torch.cat([latents[number][1][:, None] for number in members[size]], 1),
                tuple(members[size]),
                tuple(place for place, number in enumerate(members[size]) for _ in range(repeats[number])),
                {name: torch.stack([view[name] for view in views]) for name in views[0]},
            )
        )
    return tuple(buckets)


def _cut_captions(parts: PipelineParts, pictures: Sequence[CaptionedPicture]) -> list[str]:
    limit, longer = parts.cut([picture.caption for picture in pictures])
    cut = [picture.path for picture, long in zip(pictures, longer, strict=True) if long]
    return [f"captions of more than {limit} tokens, the model's most, are cut: {names_of(cut)}"] if cut else []


def draw_batch(
    data: EncodedPictures,
    settings: TrainSettings,
    draw_times: Callable[[int, torch.Generator], Tensor],
    step: int,
    micro: int,
    kind: str = "",
) -> Batch:
    """Micro-batch `micro` of optimizer step `step`, all of one size; every picture comes as often as any other, in an order of its own.

    Where all pictures have one size, what is drawn belongs to the whole step: it is the same however the step is cut into micro-batches
    and processes.

    Args:
        draw_times: of the objective: (count, random) -> timesteps. kind: begins the name of the random numbers, for other data.
    """
    counts = [len(bucket.order) for bucket in data.buckets]
    number = step * settings.accumulation + micro
    of, places = batch_place(counts, settings.batch, settings.seed, number, kind)
    bucket = data.buckets[of]
    chosen = [bucket.order[place] for place in places]
    pictures = [bucket.pictures[place] for place in chosen]
    # Batches of several sizes have their own noise each: shares of one stream would overlap.
    whole, mine, key = settings.batch * settings.accumulation, micro, (step, 0)
    if len(counts) > 1:
        whole, mine, key = settings.batch, 0, (step, micro)
    share = slice(mine * settings.batch, (mine + 1) * settings.batch)
    random = generator(f"{kind}batch", settings.seed, *key)
    shape = (whole, *bucket.mean.shape[2:])
    view = torch.randint(bucket.mean.shape[0], (whole,), generator=random)[share]
    spread, noise = (torch.randn(shape, generator=random)[share] for _ in range(2))
    if settings.noise_offset:
        noise = noise + settings.noise_offset * torch.randn(*shape[:2], 1, 1, generator=random)[share]
    when = draw_times(whole, random)[share]
    dropped = torch.rand(whole, generator=random)[share] < settings.caption_dropout
    latents = bucket.mean[view, chosen] + bucket.deviation[view, chosen] * spread
    told = {name: _or_empty(dropped, rows[pictures], data.empty_told[name]) for name, rows in data.told.items()}
    told |= {name: rows[view, chosen] for name, rows in bucket.added.items()}
    said = (
        tuple("" if gone else data.captions[n] for n, gone in zip(pictures, dropped, strict=True))
        if data.captions
        else ()
    )
    return Batch(latents, noise, when, _or_empty(dropped, data.text[pictures], data.empty), told, said)


def _or_empty(dropped: Tensor, rows: Tensor, empty: Tensor) -> Tensor:
    """`rows` [batch, ...] with `empty` [...] where `dropped` [batch]."""
    return torch.where(dropped.view(-1, *(1,) * empty.ndim), empty, rows)
