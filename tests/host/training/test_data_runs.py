"""Runs on pictures of several shapes, with repeats, crops, a cache and broken files: they stop, resume and end with the same bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from systolora.errors import UserError
from systolora.models.pipeline import PipelineParts
from systolora.training.adapter import ADAPTER_FILE
from systolora.training.batches import draw_batch, encode_data
from systolora.training.progress import load_with_progress
from systolora.training.settings import TrainSettings
from systolora.training.trainer import Trainer

MakeTrainer = Callable[[TrainSettings], Trainer]
SHAPES = {"tall/0.png": (20, 60), "tall/1.png": (30, 80), "wide/2.png": (80, 30), "3.png": (40, 40), "4.png": (64, 60)}


@pytest.fixture
def shapes(small: TrainSettings, tmp_path: Path) -> TrainSettings:
    random = np.random.default_rng(0)
    folder = tmp_path / "shapes"
    for name, (width, height) in SHAPES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).save(folder / name)
    return replace(
        small,
        data=str(folder),
        prompt="a heart",
        resolution=64,
        buckets=True,
        batch=2,
        random_crops=2,
        repeats="tall=2",
        subfolders=True,
        cache_dir=str(tmp_path / "cache"),
    )


def run(trainer: Trainer) -> dict[str, bytes]:
    try:
        trainer.run()
    finally:
        trainer.close()
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(trainer.output / ADAPTER_FILE).items()}


def test_a_run_in_buckets_goes_on_with_the_same_bits(
    shapes: TrainSettings, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    whole = run(make_trainer(replace(shapes, steps=4, schedule="constant")))
    half = replace(shapes, output=str(tmp_path / "half"), schedule="constant")
    run(make_trainer(replace(half, steps=2)))
    assert run(make_trainer(replace(half, steps=4, resume=True))) == whole


def _times(count: int, random: torch.Generator) -> torch.Tensor:
    return torch.randint(1000, (count,), generator=random)


def test_each_batch_has_one_size_and_repeated_pictures_come_more_often(
    shapes: TrainSettings, loaded_parts: PipelineParts
) -> None:
    data = encode_data(loaded_parts, shapes)
    assert len(data.buckets) == 3
    assert sorted(number for bucket in data.buckets for number in bucket.pictures) == [0, 1, 2, 3, 4]
    assert sum(len(bucket.order) for bucket in data.buckets) == 7
    sizes = {tuple(draw_batch(data, shapes, _times, step, 0).latents.shape) for step in range(7)}
    assert len(sizes) == 3 and all(size[0] == 2 for size in sizes)
    (note,) = [note for note in data.notes if note.startswith("pictures by size: ")]
    assert note.count(" x ") == 3


def test_the_cache_may_lie_elsewhere_on_resume_but_not_come_or_go(
    shapes: TrainSettings, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    run(make_trainer(replace(shapes, steps=2)))
    moved = replace(shapes, steps=2, resume=True, cache_dir=str(tmp_path / "other"))
    trainer = make_trainer(moved)
    assert trainer.start == 2
    trainer.close()
    with pytest.raises(UserError, match="--cache-dir is False but the checkpoint has True"):
        make_trainer(replace(moved, cache_dir=""))


def test_broken_pictures_stop_the_run_or_are_skipped_and_named(
    shapes: TrainSettings, loaded_parts: PipelineParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shapes.data)
    (folder / "bad.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="bad.png: cannot be read as a picture"):
        encode_data(loaded_parts, shapes)
    skipping = replace(shapes, on_broken="skip")
    data = encode_data(loaded_parts, skipping)
    assert data.count == 5 and data.skipped == 1
    assert [note for note in data.notes if note.startswith("skipped: ") and "bad.png" in note]
    monkeypatch.setattr("systolora.training.trainer.load_model", lambda *names: loaded_parts)
    console = Console(record=True, width=200)
    trainer = load_with_progress(replace(skipping, precision="float32"), console)
    trainer.unet.delete_adapters("default")
    trainer.close()
    assert "5 pictures (1 skipped) of 3 sizes" in console.export_text()
    for path in folder.rglob("*.png"):
        path.write_bytes(b"none")
    with pytest.raises(UserError, match="the same holds for"):
        encode_data(loaded_parts, skipping)


def test_a_crop_shows_the_part_that_it_says(tmp_path: Path) -> None:
    from systolora.training.pictures import load_picture

    halves = np.zeros((16, 32, 3), np.uint8)
    halves[:, 16:] = 255
    Image.fromarray(halves).save(tmp_path / "a.png")
    left, middle, right = (load_picture(tmp_path / "a.png", 16, place=(place, 0.5)) for place in (0, 0.5, 1))
    assert left.max() == -1 and right.min() == 1 and (middle[:, :, :8] == -1).all() and (middle[:, :, 8:] == 1).all()
    assert torch.from_numpy(load_picture(tmp_path / "a.png", (24, 8))).shape == (3, 8, 24)


def test_pictures_of_the_class_have_sizes_of_their_own_and_broken_ones_are_named(
    shapes: TrainSettings, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    folder, random = tmp_path / "class", np.random.default_rng(1)
    folder.mkdir()
    for number, (width, height) in enumerate([(40, 80), (64, 64), (50, 50)]):
        Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    prior = {"class_prompt": "a star", "class_data": str(folder), "class_images": 3, "on_broken": "skip"}
    whole = replace(shapes, schedule="constant", steps=3, **prior)
    trainer = make_trainer(whole)
    assert trainer.prior is not None and trainer.prior.count == 3 and trainer.prior.skipped == 1
    assert sorted(len(bucket.pictures) for bucket in trainer.prior.buckets) == [1, 2]
    notes = [note for note in trainer.notes if note.startswith("note: pictures of the class: ")]
    assert any("skipped: " in note and "broken.png" in note for note in notes)
    assert any("pictures by size: " in note for note in notes)
    expected = run(trainer)
    half = replace(whole, output=str(tmp_path / "half"))
    run(make_trainer(replace(half, steps=2)))
    assert run(make_trainer(replace(half, resume=True))) == expected
