"""What is particular to a family of models: how text is encoded, what else the model is told, how it is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .layouts import Layout

Rows = dict[str, Tensor]
"""Tensors by name, one row for each caption or picture. `text` is always among those of captions."""


@dataclass(frozen=True)
class Shown:
    """What the model sees of a picture.

    Attributes:
        own: (width, height) of the picture in pixels. size: of what is cut out of it, once it is scaled to just cover that.
        place: from 0 to 1, where in the scaled picture that is. mirrored: afterwards.
    """

    own: tuple[int, int]
    size: tuple[int, int]
    place: tuple[float, float] = (0.5, 0.5)
    mirrored: bool = False

    @property
    def corner(self) -> tuple[int, int]:
        """(top, left) of what is cut out, in the scaled picture, which is mirrored too."""
        scale = max(size / own for size, own in zip(self.size, self.own, strict=True))
        across, down = (round(own * scale) - size for own, size in zip(self.own, self.size, strict=True))
        left = round(across * self.place[0])
        return round(down * self.place[1]), across - left if self.mirrored else left


def nothing_added(model: Any, views: Sequence[Shown], guidance: float) -> Rows:
    """For models that are told nothing but the text."""
    return {}


@dataclass(frozen=True)
class Family:
    """One family.

    Attributes:
        layout: of its folders.
        encode: (parts, captions) -> rows of the captions; gradients flow to text encoders that are trained.
        predict: (model, noisy [batch, channels, height, width], timesteps [batch], rows of the batch) -> what the model predicts, as
            noisy is.
        added: (model, views, guidance) -> rows of the pictures, beside the text's.
        limits: (parts) -> (tokenizer, most tokens) of each text encoder.
        text_width: of the model's configuration; None where it cannot be told. channels: latent channels that it takes.
        pooled: (configuration, parts by name) -> width of the pooled text that the model takes, and that its text encoders give.
        flow: whether it is trained by flow matching; else by its scheduler's noise schedule.
        cells: latents along one side of what the model takes as one token. side: latents of its own resolution, for models whose
            configuration has no `sample_size`.
    """

    layout: Layout
    encode: Callable[[Any, list[str]], Rows]
    predict: Callable[[Any, Tensor, Tensor, Mapping[str, Tensor]], Tensor]
    limits: Callable[[Any], list[tuple[Any, int]]]
    added: Callable[[Any, Sequence[Shown], float], Rows] = nothing_added
    text_width: Callable[[Any], int | None] = lambda config: None
    channels: Callable[[Any], int] = lambda config: int(config.in_channels)
    pooled: Callable[[Any, Mapping[str, Any]], tuple[int, int]] = lambda config, parts: (0, 0)
    flow: bool = False
    cells: int = 1
    side: int = 0
