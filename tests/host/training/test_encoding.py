"""Encoding a picture folder: a few pictures in memory, progress, notes, and who is to blame for values that are not finite."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from systolora.assets import pipeline_folder
from systolora.errors import UserError
from systolora.models.encoding import encode_pictures
from systolora.models.pipeline import PipelineParts, load_parts
from systolora.training import batches
from systolora.training.batches import encode_data
from systolora.training.pictures import load_picture
from systolora.training.settings import TrainSettings

COUNT = 43


@pytest.fixture(scope="module")
def parts() -> PipelineParts:
    return load_parts(pipeline_folder())


@pytest.fixture
def settings(tmp_path: Path) -> TrainSettings:
    random = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(COUNT):
        colours = random.integers(0, 256, (20 + number % 5, 18, 3), np.uint8)
        Image.fromarray(colours).save(folder / f"{number:03}.png")
    return TrainSettings(model="m", data=str(folder), output="o", prompt="a red heart", random_flip=True)


def counting(make: Callable[..., Any], counts: list[int]) -> Callable[..., Any]:
    """`make`, noting at each call how many of the results so far are still held by anyone."""
    made: list[weakref.ref] = []

    def call(*arguments: Any) -> Any:
        result = make(*arguments)
        made.append(weakref.ref(result))
        counts.append(sum(reference() is not None for reference in made))
        return result

    return call


@pytest.mark.parametrize("count", [9, COUNT])
def test_pixels_of_a_few_pictures_are_held_whatever_their_number(
    parts: PipelineParts, settings: TrainSettings, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    for path in sorted(Path(settings.data).iterdir())[count:]:
        path.unlink()
    loaded: list[int] = []
    stacked: list[int] = []
    monkeypatch.setattr(batches, "load_picture", counting(load_picture, loaded))
    monkeypatch.setattr(batches.torch, "stack", counting(torch.stack, stacked))
    encode_data(parts, settings)
    assert len(loaded) == count and max(loaded) == 8
    # A stack of pixels and those of its latents (mean and deviation, at a quarter of the pixels), for each eight pictures.
    assert max(stacked) <= 1 + 2 * -(-count // 8)


def test_encoding_in_parts_gives_the_bits_of_encoding_all_at_once(
    parts: PipelineParts, settings: TrainSettings
) -> None:
    paths = sorted(Path(settings.data).iterdir())
    pixels = torch.stack([torch.from_numpy(load_picture(path, 16)) for path in paths])
    data = encode_data(parts, settings)
    for flipped, view in enumerate((pixels, pixels.flip(-1))):
        mean, deviation = encode_pictures(parts.vae, view)
        assert torch.equal(data.buckets[0].mean[flipped], mean) and torch.equal(
            data.buckets[0].deviation[flipped], deviation
        )
    assert data.count == COUNT and data.notes == ()


def test_progress_counts_pictures_from_none_to_all(parts: PipelineParts, settings: TrainSettings) -> None:
    seen: list[tuple[int, int]] = []
    encode_data(parts, settings, lambda done, total: seen.append((done, total)))
    assert seen == [(done, COUNT) for done in (0, 8, 16, 24, 32, 40, COUNT)]


def test_a_broken_picture_is_found_before_anything_is_encoded(parts: PipelineParts, settings: TrainSettings) -> None:
    last = sorted(Path(settings.data).iterdir())[-1]
    last.write_bytes(last.read_bytes()[:-40])
    seen: list[int] = []
    with pytest.raises(UserError, match=f"{last.name}: cannot be read as a picture"):
        encode_data(parts, settings, lambda done, total: seen.append(done))
    assert not seen


def test_cut_captions_are_said_with_their_files(parts: PipelineParts, settings: TrainSettings) -> None:
    long = "a red heart on a blue background " * 4
    for number in (3, 5):
        (Path(settings.data) / f"{number:03}.txt").write_text(long)
    assert encode_data(parts, settings).notes == (
        "captions of more than 24 tokens, the model's most, are cut: 003.png, 005.png",
    )


def test_transparent_pixels_take_the_background_of_the_settings(parts: PipelineParts, settings: TrainSettings) -> None:
    folder = Path(settings.data)
    for path in folder.iterdir():
        path.unlink()
    Image.new("RGBA", (16, 16), (9, 9, 9, 0)).save(folder / "a.png")
    transparent = [
        encode_data(parts, replace(settings, background=name)).buckets[0].mean for name in ("white", "#008000")
    ]
    for mean, colour in zip(transparent, ("white", "green"), strict=True):
        Image.new("RGB", (16, 16), colour).save(folder / "a.png")
        assert torch.equal(encode_data(parts, settings).buckets[0].mean, mean)
    with pytest.raises(UserError, match="--background 'whitish'"):
        encode_data(parts, replace(settings, background="whitish"))


def test_an_autoencoder_that_gives_nan_is_named_with_the_picture(parts: PipelineParts, settings: TrainSettings) -> None:
    def encode(pixels: torch.Tensor) -> SimpleNamespace:
        latents = parts.vae.encode(pixels).latents
        latents[pixels[:, 0, 0, 0] > 0.99] = float("nan")
        return SimpleNamespace(latents=latents)

    white = Path(settings.data) / "020.png"
    Image.new("RGB", (16, 16), "white").save(white)
    broken = replace(parts, vae=SimpleNamespace(encode=encode, config=parts.vae.config))
    with pytest.raises(UserError, match=f"its autoencoder gives values that are not finite for .*{white.name}"):
        encode_data(broken, replace(settings, random_flip=False))
