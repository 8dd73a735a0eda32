"""Small runs on the shipped demo model: it is loaded once, and each run trains a copy of its U-Net."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from systolora.assets import pipeline_folder
from systolora.demo.sprites import make_sprites, write_image_folder
from systolora.models.pipeline import PipelineParts, load_parts
from systolora.training.settings import TrainSettings
from systolora.training.trainer import Trainer

STEPS = 4


@pytest.fixture(scope="session")
def loaded_parts() -> PipelineParts:
    return load_parts(pipeline_folder())


@pytest.fixture(scope="session")
def few_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few") / "pictures"
    return write_image_folder(folder, make_sprites(4, 0, ("heart",), ("red", "blue"), full_captions=True))


@pytest.fixture
def small(few_pictures: Path, tmp_path: Path) -> TrainSettings:
    """Settings of a run of a second or so: float32, four steps, a checkpoint after each second one."""
    return TrainSettings(
        model=str(pipeline_folder()),
        data=str(few_pictures),
        output=str(tmp_path / "run"),
        precision="float32",
        steps=STEPS,
        learning_rate=2e-3,
        schedule="cosine",
        warmup=1,
        random_flip=True,
        checkpoint_every=2,
    )


@pytest.fixture
def make_trainer(loaded_parts: PipelineParts) -> Callable[[TrainSettings], Trainer]:
    def make(settings: TrainSettings) -> Trainer:
        return Trainer(settings, replace(loaded_parts, unet=copy.deepcopy(loaded_parts.unet)))

    return make
