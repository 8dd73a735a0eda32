"""The judge: a small classifier that says what a sprite picture shows.

It scores generated pictures without a person: which shape (the new concepts included, or none), which colour,
which background. Its inner features give a Frechet distance between two sets of pictures (Heusel et al. 2017,
"GANs trained by a two time-scale update rule", with these features in the place of Inception's).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from safetensors import safe_open
from safetensors.torch import save_file
from systolora.assets import judge_file
from torch import nn
from torch.nn import functional

from .sampling import pictures_to_tensor
from .scribbles import make_scribbles
from .sprites import BACKGROUNDS, COLOURS, SHAPES, Sprite, make_sprites

NO_SHAPE = "none"
"""The judge's word for a picture that shows none of the shapes."""

SHAPE_LABELS: tuple[str, ...] = (*SHAPES, NO_SHAPE)
COLOUR_LABELS: tuple[str, ...] = tuple(COLOURS)
BACKGROUND_LABELS: tuple[str, ...] = tuple(BACKGROUNDS)

_FEATURES = 64
_UNKNOWN = -100  # functional.cross_entropy leaves this label out


@dataclass(frozen=True)
class Verdict:
    """What the judge sees in n pictures: n words of each kind and features float32 [n, 64]."""

    shapes: tuple[str, ...]
    colours: tuple[str, ...]
    backgrounds: tuple[str, ...]
    features: np.ndarray


@dataclass(frozen=True)
class PromptAccuracy:
    """Shares (0 to 1) of pictures that show the shape, the colour, the background that was asked for."""

    shape: float
    colour: float
    background: float


class Judge(nn.Module):
    """Five convolutions, one feature layer, one linear head a question."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_convolution(3, 24, 1),
            *_convolution(24, 48, 2),
            *_convolution(48, 48, 1),
            *_convolution(48, 72, 2),
            *_convolution(72, 96, 2),
            nn.Flatten(),
            nn.Linear(96 * 4, _FEATURES),
            nn.ReLU(),
        )
        self.shape = nn.Linear(_FEATURES, len(SHAPE_LABELS))
        self.colour = nn.Linear(_FEATURES, len(COLOUR_LABELS))
        self.background = nn.Linear(_FEATURES, len(BACKGROUND_LABELS))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """float32 [n, 3, 16, 16] in -1 to 1 to features [n, 64] and the three heads' logits."""
        features = self.body(images)
        return features, (self.shape(features), self.colour(features), self.background(features))

    @torch.no_grad()
    def look(self, pictures: np.ndarray) -> Verdict:
        """Judge pictures, uint8 [n, 16, 16, 3]; raises ValueError for another shape or type."""
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[1:] != (16, 16, 3):
            raise ValueError(
                f"the judge got {pictures.dtype} {pictures.shape}, but it judges uint8 pictures [n, 16, 16, 3]"
            )
        features, logits = self(pictures_to_tensor(pictures))
        labels = (SHAPE_LABELS, COLOUR_LABELS, BACKGROUND_LABELS)
        words = [
            tuple(names[i] for i in scores.argmax(1).tolist()) for names, scores in zip(labels, logits, strict=True)
        ]
        return Verdict(words[0], words[1], words[2], features.numpy())

    def concept_share(self, pictures: np.ndarray, concept: str) -> float:
        """The share (0 to 1) of pictures, uint8 [n, 16, 16, 3], whose shape is `concept`.

        Raises ValueError for an unknown concept or no pictures.
        """
        if concept not in SHAPE_LABELS:
            raise ValueError(f"the judge does not know {concept!r}; it knows {', '.join(SHAPE_LABELS)}")
        if not len(pictures):
            raise ValueError("a share of no pictures is not defined: give at least one picture")
        shapes = self.look(pictures).shapes
        return sum(shape == concept for shape in shapes) / len(shapes)

    def prompt_accuracy(self, pictures: np.ndarray, sprites: Sequence[Sprite]) -> PromptAccuracy:
        """How many pictures, uint8 [n, 16, 16, 3], show what the n descriptions ask for."""
        if len(pictures) != len(sprites) or not sprites:
            raise ValueError(
                f"{len(pictures)} pictures and {len(sprites)} descriptions: give as many of both, at least one"
            )
        seen = self.look(pictures)
        return PromptAccuracy(
            _agreement(seen.shapes, [sprite.shape for sprite in sprites]),
            _agreement(seen.colours, [sprite.colour for sprite in sprites]),
            _agreement(seen.backgrounds, [sprite.background for sprite in sprites]),
        )

    def save(self, path: Path) -> None:
        """Write the weights as float32 safetensors, the labels in the file's header."""
        weights = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        save_file(weights, str(path), metadata=_label_header())


def load_judge(path: Path | None = None) -> Judge:
    """The judge of that file, or the one that ships with the package, in evaluation mode.

    Raises ValueError if the file was trained for other labels.
    """
    source = Path(path) if path is not None else judge_file()
    with safe_open(str(source), framework="pt") as file:
        header = file.metadata() or {}
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    if header != _label_header():
        raise ValueError(f"{source} judges other labels than this version draws; train it again")
    judge = Judge()
    judge.load_state_dict(weights)
    return judge.eval()


def concept_share(pictures: np.ndarray, concept: str) -> float:
    """`Judge.concept_share` of the judge that ships with the package."""
    return _shipped_judge().concept_share(pictures, concept)


def frechet_distance(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """The squared Frechet distance of two sets of features, [n, d] and [m, d], taken as Gaussians.

    |mean_a - mean_b|^2 + trace(cov_a + cov_b - 2 (cov_a cov_b)^(1/2)), computed in float64. It is 0 for equal
    sets. Raises ValueError for fewer than two rows or different widths.
    """
    a, b = np.asarray(features_a, np.float64), np.asarray(features_b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"features {a.shape} and {b.shape}: give two matrices of equal width, two rows or more")
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(np.atleast_2d(cov_a))
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    # The trace of (cov_a cov_b)^(1/2) is that of the symmetric root cov_b root, which has real eigenvalues.
    cross = np.sqrt(np.linalg.eigvalsh(root @ np.atleast_2d(cov_b) @ root).clip(0)).sum()
    gap = a.mean(0) - b.mean(0)
    return float(gap @ gap + np.trace(np.atleast_2d(cov_a)) + np.trace(np.atleast_2d(cov_b)) - 2 * cross)


def train_judge(
    autoencoder: AutoencoderTiny,
    seed: int = 0,
    steps: int = 900,
    pictures: int = 8000,
    report: Callable[[str], None] | None = None,
) -> Judge:
    """Train a judge from scratch on sprites of every shape and on scribbles.

    Half of the pictures are seen through the autoencoder, since generated pictures come out of it. The
    caller's torch random state is unchanged.
    """
    images, labels = _training_pictures(pictures, seed)
    copies = _through(autoencoder, images)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = Judge().train()
        optimizer = torch.optim.AdamW(judge.parameters(), 3e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
        for step in range(steps):
            pick = torch.randint(len(images), (64,))
            through = torch.rand(64, 1, 1, 1) < 0.5
            batch = torch.where(through, copies[pick], images[pick])
            batch = batch + 0.15 * torch.rand(64, 1, 1, 1) * torch.randn_like(batch)
            _, logits = judge(batch)
            losses = [functional.cross_entropy(head, labels[pick, i]) for i, head in enumerate(logits)]
            loss = torch.stack(losses).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if report and (step % 300 == 0 or step == steps - 1):
                report(f"judge step {step}: loss {loss.item():.4f}")
    return judge.eval()


def _convolution(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()


def _training_pictures(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images float32 [n, 3, 16, 16] and labels int64 [n, 3]; one in eight is a scribble, labelled "none"."""
    drawn = make_sprites(count, seed + 100, SHAPES)
    scribbles = [make_scribbles(count // 16, seed + 200, one_ink) for one_ink in (False, True)]
    labels = [
        (SHAPES.index(s.shape), COLOUR_LABELS.index(s.colour), BACKGROUND_LABELS.index(s.background))
        for s in drawn.sprites
    ]
    labels += [(SHAPE_LABELS.index(NO_SHAPE), _UNKNOWN, _UNKNOWN)] * (2 * (count // 16))
    return pictures_to_tensor(np.concatenate([drawn.pictures, *scribbles])), torch.tensor(labels)


@torch.no_grad()
def _through(autoencoder: AutoencoderTiny, images: torch.Tensor) -> torch.Tensor:
    parts = [autoencoder.decode(autoencoder.encode(part).latents).sample for part in images.split(250)]
    return torch.cat(parts).clamp(-1, 1)


def _agreement(seen: Sequence[str], wanted: Sequence[str]) -> float:
    return sum(a == b for a, b in zip(seen, wanted, strict=True)) / len(wanted)


def _label_header() -> dict[str, str]:
    # One entry: safetensors writes several in no fixed order, and equal judges shall be equal files.
    labels = {"shapes": SHAPE_LABELS, "colours": COLOUR_LABELS, "backgrounds": BACKGROUND_LABELS}
    return {"labels": json.dumps(labels)}


@lru_cache(maxsize=1)
def _shipped_judge() -> Judge:
    return load_judge()
