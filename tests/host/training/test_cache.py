"""Encodings on disk: a second run takes them, what they depend on makes another entry, damage is found, said and mended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from systolora.errors import UserError
from systolora.models.pipeline import PipelineParts
from systolora.training.batches import EncodedPictures, encode_data
from systolora.training.cache import EncodingCache, model_digest
from systolora.training.settings import TrainSettings


@pytest.fixture
def settings(tmp_path: Path) -> TrainSettings:
    random = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(random.integers(0, 256, (30, 20, 3), np.uint8)).save(folder / f"{number}.png")
    return TrainSettings(
        model="m",
        data=str(folder),
        output="o",
        prompt="a heart",
        random_flip=True,
        resolution=16,
        cache_dir=str(tmp_path / "cache"),
    )


def same(first: EncodedPictures, second: EncodedPictures) -> bool:
    pairs = [(first.text, second.text), (first.empty, second.empty)]
    for one, other in zip(first.buckets, second.buckets, strict=True):
        pairs += [(one.mean, other.mean), (one.deviation, other.deviation)]
    return all(torch.equal(one, other) for one, other in pairs)


def entries(settings: TrainSettings) -> list[Path]:
    return sorted(Path(settings.cache_dir).rglob("*.safetensors"))


def test_a_second_run_decodes_and_encodes_nothing(
    loaded_parts: PipelineParts, settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = encode_data(loaded_parts, settings)
    assert (
        first.notes[-1] == f"0 encodings were in {settings.cache_dir}, 8 were made"
    )  # 3 pictures, 2 views; 2 captions

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("called")

    monkeypatch.setattr(Image.Image, "convert", never)
    monkeypatch.setattr(loaded_parts.vae, "encode", never)
    monkeypatch.setattr(loaded_parts.text_encoder, "forward", never)
    second = encode_data(loaded_parts, settings)
    assert same(first, second)
    assert second.notes[-1] == f"8 encodings were in {settings.cache_dir}, 0 were made"


def test_with_a_cache_the_latents_are_those_without_to_rounding(
    loaded_parts: PipelineParts, settings: TrainSettings
) -> None:
    cached, plain = encode_data(loaded_parts, settings), encode_data(loaded_parts, replace(settings, cache_dir=""))
    torch.testing.assert_close(cached.buckets[0].mean, plain.buckets[0].mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(cached.text, plain.text, rtol=0, atol=1e-5)


def test_the_bits_of_an_entry_do_not_depend_on_what_lies_beside_it(
    loaded_parts: PipelineParts, settings: TrainSettings
) -> None:
    first = encode_data(loaded_parts, settings)
    entries(settings)[0].unlink()
    entries(settings)[3].unlink()
    assert same(first, encode_data(loaded_parts, settings))


CHANGES: dict[str, Callable[[TrainSettings], TrainSettings]] = {
    "resolution": lambda settings: replace(settings, resolution=32),
    "background": lambda settings: replace(settings, background="black"),
    "crops": lambda settings: replace(settings, random_crops=2),
    "caption": lambda settings: replace(settings, prompt="another"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_an_entry_depends_on_makes_another(
    loaded_parts: PipelineParts, settings: TrainSettings, what: str
) -> None:
    encode_data(loaded_parts, settings)
    before = len(entries(settings))
    changed = CHANGES[what](settings)
    found = encode_data(loaded_parts, changed)
    assert len(entries(settings)) > before
    assert same(found, encode_data(loaded_parts, replace(changed, cache_dir=str(Path(settings.output) / "none"))))


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_another_picture_under_the_same_name_is_encoded_anew(
    loaded_parts: PipelineParts, settings: TrainSettings
) -> None:
    first = encode_data(loaded_parts, settings)
    Image.new("RGB", (20, 30), "red").save(Path(settings.data) / "1.png")
    second = encode_data(loaded_parts, settings)
    assert second.notes[-1].startswith("6 encodings were in")
    assert not torch.equal(first.buckets[0].mean[:, 1], second.buckets[0].mean[:, 1]) and torch.equal(
        first.buckets[0].mean[:, 0], second.buckets[0].mean[:, 0]
    )


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "renamed"])
def test_a_damaged_entry_is_said_and_made_anew(
    loaded_parts: PipelineParts, settings: TrainSettings, damage: str
) -> None:
    first = encode_data(loaded_parts, settings)
    path, other = entries(settings)[:2]
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes({"cut": data[:-9], "bit": data, "empty": b"", "renamed": other.read_bytes()}[damage])
    second = encode_data(loaded_parts, settings)
    (said,) = [note for note in second.notes if "cannot be used" in note]
    assert str(path) in said and said.endswith("it is made anew")
    assert same(first, second)
    assert encode_data(loaded_parts, settings).notes == (f"8 encodings were in {settings.cache_dir}, 0 were made",)


def test_a_cache_that_cannot_be_written_is_said(
    loaded_parts: PipelineParts, settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (Path(settings.data) / "file").write_text("")
    with pytest.raises(UserError, match="--cache-dir .*file/in: it cannot be written"):
        encode_data(loaded_parts, replace(settings, cache_dir=f"{settings.data}/file/in"))

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("systolora.training.cache.write_atomically", full)
    notes = encode_data(loaded_parts, settings).notes
    assert [note for note in notes if "No space left" in note] == [
        f"--cache-dir {settings.cache_dir}: it cannot be written (No space left on device): what is encoded is not kept"
    ]


def test_the_digest_of_a_model_is_of_its_weights_and_configuration(loaded_parts: PipelineParts) -> None:
    layer = torch.nn.Linear(2, 2)
    layer.config = SimpleNamespace(to_dict=lambda: {"width": 2, "_name_or_path": "here"})  # type: ignore[assignment]
    first = model_digest(layer)
    layer.config = SimpleNamespace(to_dict=lambda: {"width": 2, "_name_or_path": "there"})  # type: ignore[assignment]
    assert model_digest(layer) == first
    layer.config = SimpleNamespace(to_dict=lambda: {"width": 3})  # type: ignore[assignment]
    assert model_digest(layer) != first
    layer.config = SimpleNamespace(to_dict=lambda: {"width": 2})  # type: ignore[assignment]
    with torch.no_grad():
        layer.weight[0, 0] += 1
    assert model_digest(layer) != first
    assert model_digest(loaded_parts.vae) != model_digest(loaded_parts.text_encoder)


def test_facts_of_any_order_are_one_entry(tmp_path: Path) -> None:
    cache = EncodingCache(tmp_path)
    made = cache.get(lambda: {"a": torch.ones(2)}, first=1, second=[2, 3])
    assert torch.equal(cache.get(lambda: {}, second=[2, 3], first=1)["a"], made["a"]) and (cache.hits, cache.made) == (
        1,
        1,
    )
    assert not cache.holds(first=1, second=[3, 2])


def test_crops_of_a_picture_stay_when_others_come(settings: TrainSettings, loaded_parts: PipelineParts) -> None:
    crops = replace(settings, random_crops=3, cache_dir="")
    first = encode_data(loaded_parts, crops)
    assert (
        first.buckets[0].mean.shape[0] == 6
        and len({place.mean().item() for place in first.buckets[0].mean[::2, 0]}) == 3
    )
    Image.new("RGB", (20, 30)).save(Path(settings.data) / "0a.png")
    second = encode_data(loaded_parts, crops)
    torch.testing.assert_close(second.buckets[0].mean[:, [0, 2, 3]], first.buckets[0].mean, rtol=0, atol=1e-5)
