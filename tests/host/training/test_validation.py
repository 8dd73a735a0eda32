"""Validation pictures of every family, drawn as the model is, without a trace in what is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from systolora.models.pipeline import load_parts
from systolora.training.adapter import ADAPTER_FILE, INTLORA_FILE
from systolora.training.settings import TrainSettings
from systolora.training.trainer import Trainer
from systolora.training.validation import draw_validation

from ..models.tiny_families import SIDE, make_family

FAMILIES = ("sdxl", "pixart-alpha", "sd3", "flux-dev")
SHOWN = {"validation_prompt": "a red heart|a blue star", "validation_every": 1, "validation_denoising": 2}


@pytest.fixture
def settings(tmp_path: Path) -> TrainSettings:
    data = tmp_path / "pictures"
    data.mkdir()
    random = np.random.default_rng(0)
    for number in range(2):
        Image.fromarray(random.integers(0, 256, (9, 10, 3), np.uint8)).save(data / f"{number}.png")
    return TrainSettings(
        data=str(data),
        prompt="a red heart",
        resolution=SIDE,
        steps=2,
        learning_rate=0.5,
        rounding="stochastic",
        checkpoint_every=0,
        report_to="none",
    )


def run(settings: TrainSettings) -> Path:
    trainer = Trainer(settings)
    try:
        trainer.run()
    finally:
        trainer.close()
    return trainer.output


def pictures_of(output: Path, step: int) -> list[np.ndarray]:
    paths = [output / "validation" / f"step-{step:07}" / f"{number}.png" for number in range(2)]
    return [np.asarray(Image.open(path)) for path in paths]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_draws_while_it_is_trained_and_trains_the_same_bits(
    name: str, settings: TrainSettings, tmp_path: Path
) -> None:
    settings = replace(settings, model=str(make_family(name, tmp_path / name / "model")))
    if name == "sdxl":
        settings = replace(settings, train_text_encoder=True, dropout=0.3)
    seen = run(replace(settings, output=str(tmp_path / "seen"), **SHOWN))
    plain = run(replace(settings, output=str(tmp_path / "plain")))
    first, second = load_file(seen / ADAPTER_FILE), load_file(plain / ADAPTER_FILE)
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    drawn = {step: pictures_of(seen, step) for step in range(3)}
    assert all(picture.shape == (SIDE, SIDE, 3) for pictures in drawn.values() for picture in pictures)
    assert not np.array_equal(drawn[0][0], drawn[2][0]), "the training shows"
    assert (seen / "run.html").read_text().count("data:image/png;base64,") == 6


def test_dropout_is_off_in_all_that_draws_and_on_again_afterwards(settings: TrainSettings, tmp_path: Path) -> None:
    model = str(make_family("sdxl", tmp_path / "model"))
    trainer = Trainer(
        replace(settings, model=model, output=str(tmp_path / "run"), train_text_encoder=True, dropout=0.5, **SHOWN)
    )
    with torch.no_grad():
        for parameter in trainer.parameters:  # factors that are not zero, so that dropout would show
            parameter.normal_(generator=torch.Generator().manual_seed(0))
    folders = [draw_validation(trainer.parts, trainer.settings, step)[0].parent for step in (1, 2)]
    first, second = (sorted(path.read_bytes() for path in folder.iterdir()) for folder in folders)
    assert first == second
    models = (trainer.unet, *trainer.text.values())
    assert len(models) == 3 and all(module.training for model in models for module in model.modules())
    trainer.close()


def test_the_scheduler_and_the_choices_of_the_pipeline_stay(settings: TrainSettings, tmp_path: Path) -> None:
    parts = load_parts(make_family("sdxl", tmp_path / "model"))
    parts.pipe.register_to_config(force_zeros_for_empty_prompt=False)
    scheduler = parts.pipe.scheduler
    seen: list[bool] = []
    whole = type(parts.pipe).__call__

    def call(pipe: object, *args: object, **options: object) -> object:
        seen.append(pipe.config.force_zeros_for_empty_prompt)  # type: ignore[attr-defined]
        return whole(pipe, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(parts.pipe), "__call__", call)
        draw_validation(parts, replace(settings, output=str(tmp_path / "run"), **SHOWN), 0)
    assert seen == [False, False]
    assert parts.pipe.scheduler is scheduler and scheduler.num_inference_steps is None


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_integers_draw_too_and_say_what_the_device_took(
    settings: TrainSettings, tmp_path: Path, precision: str
) -> None:
    model = str(make_family("sd", tmp_path / "model"))
    settings = replace(settings, model=model, method="intlora-mul", precision=precision)
    seen = replace(settings, output=str(tmp_path / "seen"), **SHOWN)
    trainer = Trainer(seen)
    reports: list[tuple[float, float]] = []
    trainer.run(lambda report: reports.append((report.device_seconds, report.seconds)))
    trainer.close()
    assert len(reports) == 2
    if precision == "int8":
        assert all(0 < device < whole for device, whole in reports)
    else:
        assert all(device == 0 for device, _ in reports)
    plain = run(replace(settings, output=str(tmp_path / "plain")))
    assert (plain / INTLORA_FILE).read_bytes() == (Path(seen.output) / INTLORA_FILE).read_bytes()
    assert not np.array_equal(pictures_of(Path(seen.output), 0)[0], pictures_of(Path(seen.output), 2)[0])
