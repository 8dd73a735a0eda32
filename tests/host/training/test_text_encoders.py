"""Text encoders that are trained, with what else a run may have: a LoRA to begin with, the adapter's mean, micro-batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from systolora.adapters.convert import convert_adapter
from systolora.errors import UserError
from systolora.training.adapter import ADAPTER_FILE, AVERAGE_FILE
from systolora.training.reports import StepReport
from systolora.training.settings import TrainSettings
from systolora.training.trainer import Trainer

from ..models.tiny_families import SIDE, make_family

CAPTIONS = ("a red heart", "a blue star")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_family("sdxl", tmp_path_factory.mktemp("sdxl") / "model")


@pytest.fixture
def settings(model: Path, tmp_path: Path) -> TrainSettings:
    data, random = tmp_path / "pictures", np.random.default_rng(0)
    data.mkdir()
    for number, caption in enumerate(CAPTIONS):
        Image.fromarray(random.integers(0, 256, (9, 10, 3), np.uint8)).save(data / f"{number}.png")
        (data / f"{number}.txt").write_text(caption)
    return TrainSettings(
        model=str(model),
        data=str(data),
        output=str(tmp_path / "run"),
        steps=2,
        learning_rate=0.02,
        resolution=SIDE,
        precision="float32",
        checkpoint_every=0,
        report_to="none",
        train_text_encoder=True,
    )


def values_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.optimization.named.items()}


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
def test_a_run_begins_with_the_adapters_of_unet_and_text_encoders(
    settings: TrainSettings, tmp_path: Path, form: str
) -> None:
    first = Trainer(replace(settings, rank=3, alpha=6.0))
    start = first.run().adapter
    first.close()
    if form == "kohya":
        convert_adapter(start, "kohya", start := tmp_path / "kohya.safetensors")
    second = Trainer(replace(settings, rank=3, alpha=6.0, init_from=str(start), output=str(tmp_path / "second")))
    wanted, found = values_of(first), values_of(second)
    second.close()
    assert {name.split(".")[0] for name in found} >= {"text_encoder", "text_encoder_2"}
    assert wanted.keys() == found.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_an_adapter_of_the_unet_alone_or_of_encoders_that_stay_is_refused(
    settings: TrainSettings, tmp_path: Path
) -> None:
    alone = Trainer(replace(settings, train_text_encoder=False, output=str(tmp_path / "alone")))
    start = alone.run().adapter
    alone.close()
    with pytest.raises(
        UserError,
        match="it does not adapt the text_encoder, which this run trains; .* or leave --train-text-encoder out",
    ):
        Trainer(replace(settings, init_from=str(start)))
    both = Trainer(replace(settings, output=str(tmp_path / "both")))
    start = both.run().adapter
    both.close()
    with pytest.raises(UserError, match="it adapts the text_encoder.* too, which this run does not train"):
        Trainer(replace(settings, init_from=str(start), train_text_encoder=False, output=str(tmp_path / "third")))


def test_the_mean_is_of_the_text_encoders_too_and_goes_on(settings: TrainSettings, model: Path, tmp_path: Path) -> None:
    settings = replace(settings, ema=0.15, steps=3, checkpoint_every=2)
    trainer, mean = Trainer(settings), {}
    count = iter(range(10))

    def follow(report: StepReport) -> None:
        number = next(count)
        decay = min(0.15, (1 + number) / (10 + number)) if number else 0.0
        for name, value in values_of(trainer).items():
            mean[name] = decay * mean.get(name, value) + (1 - decay) * value

    trainer.run(follow)
    trainer.close()
    found = dict(zip(trainer.optimization.named, trainer.optimization.average._model.shadow_params, strict=True))  # type: ignore[union-attr]
    assert all(torch.allclose(found[name], mean[name], atol=1e-7) for name in mean)
    files = {name: load_file(trainer.output / name) for name in (ADAPTER_FILE, AVERAGE_FILE)}
    assert files[ADAPTER_FILE].keys() == files[AVERAGE_FILE].keys()
    for part in ("unet.", "text_encoder.", "text_encoder_2."):
        some = [name for name in files[ADAPTER_FILE] if name.startswith(part)]
        assert some and not all(torch.equal(files[ADAPTER_FILE][name], files[AVERAGE_FILE][name]) for name in some)
    pipeline = DiffusionPipeline.from_pretrained(str(model), local_files_only=True)
    pipeline.load_lora_weights(str(trainer.output), weight_name=AVERAGE_FILE)
    ups = [value for name, value in pipeline.text_encoder.named_parameters() if "q_proj.lora_B" in name]
    own = [mean[f"text_encoder.{name}"] for name in mean_names(mean)]
    assert len(ups) == len(own) > 0 and all(torch.allclose(a, b, atol=1e-7) for a, b in zip(ups, own, strict=True))

    half = replace(settings, output=str(tmp_path / "half"))
    for part in (replace(half, steps=2), replace(half, resume=True)):
        resumed = Trainer(part)
        resumed.run()
        resumed.close()
    again = load_file(Path(half.output) / AVERAGE_FILE)
    assert all(torch.equal(value, files[AVERAGE_FILE][name]) for name, value in again.items())


def mean_names(mean: Mapping[str, torch.Tensor]) -> list[str]:
    """Of the first text encoder's `up` factors of queries, without the part's name."""
    found = [name for name in mean if name.startswith("text_encoder.") and "q_proj.lora_B" in name]
    return [name.removeprefix("text_encoder.") for name in found]


def gradients_of(settings: TrainSettings) -> dict[str, torch.Tensor]:
    trainer = Trainer(settings)
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in trainer.parameters:
            value.normal_(std=0.05, generator=random)
    trainer._gradients(0)
    trainer.close()
    return {name: value.grad.clone() for name, value in trainer.optimization.named.items() if value.grad is not None}


def test_two_micro_batches_give_the_gradients_of_one_batch(settings: TrainSettings, tmp_path: Path) -> None:
    settings = replace(settings, caption_dropout=0.4, random_flip=True)
    whole = gradients_of(replace(settings, batch=4))
    halves = gradients_of(replace(settings, batch=2, accumulation=2, output=str(tmp_path / "halves")))
    assert whole.keys() == halves.keys()
    for part in ("text_encoder.", "text_encoder_2.", ""):
        names = [name for name in whole if name.startswith(part or ("down_blocks", "mid_block", "up_blocks"))]
        one, two = (torch.cat([found[name].flatten() for name in names]) for found in (whole, halves))
        assert one.norm() > 0 and (one - two).norm() < 1e-5 * one.norm()


def test_with_int8_and_micro_batches_it_goes_on_with_the_same_bits(settings: TrainSettings, tmp_path: Path) -> None:
    settings = replace(
        settings, precision="int8", rounding="stochastic", accumulation=2, steps=3, checkpoint_every=2, dropout=0.2
    )
    outputs = []
    for name, parts in (("whole", [{}]), ("half", [{"steps": 2}, {"resume": True}])):
        for changes in parts:
            trainer = Trainer(replace(settings, output=str(tmp_path / name), **changes))
            trainer.run()
            trainer.close()
        outputs.append(load_file(tmp_path / name / ADAPTER_FILE))
    assert outputs[0].keys() == outputs[1].keys()
    assert all(torch.equal(outputs[0][name], outputs[1][name]) for name in outputs[0])
