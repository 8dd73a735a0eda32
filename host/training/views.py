"""What becomes of each picture of a data folder: its size, the parts that are taken of it, mirrored or not; or why it is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from systolora.models.family import Shown

from .buckets import bucket_sizes, nearest_size
from .cache import EncodingCache
from .captions import CaptionedPicture
from .fingerprints import picture_digest
from .order import generator
from .pictures import CENTRE, Size, examine_pictures, parse_colour, refuse_broken, several_note
from .settings import TrainSettings

LEVELS = 8
"""Latents along a side that every size is a multiple of: what halving three times leaves whole."""


@dataclass(frozen=True)
class View:
    """One thing that is encoded of a picture: which part of it (`place`, from 0 to 1), mirrored or not."""

    place: tuple[float, float] = CENTRE
    mirrored: bool = False


@dataclass(frozen=True)
class PlannedPicture:
    """A picture that is used, and its `own` size; `size` is what its views are scaled to, `digest` of its bytes ("" without a cache)."""

    picture: CaptionedPicture
    own: Size
    size: Size
    views: tuple[View, ...]
    digest: str = ""

    def shown(self, view: View) -> Shown:
        """A view as models are told of it."""
        return Shown(self.own, self.size, view.place, view.mirrored)

    def facts(self, view: View, vae: str, background: tuple[int, int, int]) -> dict[str, Any]:
        """What the latents of a view depend on; `vae` is the digest of the autoencoder."""
        return {
            "picture": self.digest,
            "size": self.size,
            "place": view.place,
            "mirrored": view.mirrored,
            "background": background,
            "vae": vae,
        }


@dataclass(frozen=True)
class Plan:
    """The pictures that are used, in order; `notes` for the user, a line each; `skipped` counts those that are not."""

    pictures: tuple[PlannedPicture, ...]
    notes: tuple[str, ...]
    skipped: int = 0


def plan_pictures(
    pictures: Sequence[CaptionedPicture],
    settings: TrainSettings,
    resolution: int,
    factor: int,
    cache: EncodingCache | None = None,
    vae: str = "",
) -> Plan:
    """Looks at all pictures, and decodes those whose latents are not all in the cache.

    Args:
        resolution: side of the square. factor: pixels of a latent, on a side. vae: digest of the autoencoder, with a cache.

    Raises:
        UserError: for pictures that cannot be read, unless they are to be skipped, or all are.
    """
    background = parse_colour(settings.background)
    sizes = bucket_sizes(resolution, LEVELS * factor) if settings.buckets else [(resolution, resolution)]
    by_path = {picture.path: picture for picture in pictures}
    digests: dict[Path, str] = {}

    def planned(picture: CaptionedPicture, size: Size) -> PlannedPicture:
        views = _views(settings, picture)
        return PlannedPicture(picture, size, nearest_size(size, sizes), views, digests.get(picture.path, ""))

    def known(picture: CaptionedPicture | Path, size: Size) -> bool:
        if cache is None:
            return False
        own = by_path[picture if isinstance(picture, Path) else picture.path]
        digests[own.path] = picture_digest(own)
        plan = planned(own, size)
        return all(cache.holds(**plan.facts(view, vae, background)) for view in plan.views)

    findings = examine_pictures(pictures, background, known)
    if settings.on_broken == "stop" or len(findings.broken) == len(pictures):
        refuse_broken(findings)
    notes = [*several_note(findings), *(f"skipped: {error}" for _, error in findings.broken)]
    used = tuple(planned(by_path[path], size) for path, size in findings.sizes.items())
    return Plan(used, (*notes, *_bucket_note(settings, used)), len(findings.broken))


def _views(settings: TrainSettings, picture: CaptionedPicture) -> tuple[View, ...]:
    places = [CENTRE]
    if settings.random_crops:
        # Of the name, so that a picture keeps its crops whatever lies beside it.
        random = generator("crops", settings.seed, picture.path.name)
        places = [(_drawn(random), _drawn(random)) for _ in range(settings.random_crops)]
    mirrors = (False, True) if settings.random_flip else (False,)
    return tuple(View(place, mirrored) for place in places for mirrored in mirrors)


def _drawn(random: torch.Generator) -> float:
    """A number from 0 to 1 with three digits."""
    return int(torch.randint(1001, (), generator=random)) / 1000


def _bucket_note(settings: TrainSettings, used: Sequence[PlannedPicture]) -> list[str]:
    if not settings.buckets:
        return []
    counts: dict[Size, int] = {}
    for plan in used:
        counts[plan.size] = counts.get(plan.size, 0) + 1
    said = ", ".join(f"{width} x {height}: {counts[width, height]}" for width, height in sorted(counts))
    return [f"pictures by size: {said}"]
