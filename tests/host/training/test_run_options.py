"""Dropout, bfloat16 in torch, the adapter's mean and other optimizers, each in whole runs on the demo model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from systolora.errors import UserError
from systolora.training.adapter import ADAPTER_FILE, AVERAGE_FILE, adapter_tensors
from systolora.training.checkpoint import list_checkpoints
from systolora.training.settings import TrainSettings, check_settings
from systolora.training.trainer import Trainer

MakeTrainer = Callable[[TrainSettings], Trainer]

EVERYTHING = {"ema": 0.5, "dropout": 0.1, "mixed_precision": "bf16", "optimizer_options": "betas=0.8,0.9"}


def adapters(settings: TrainSettings, *names: str) -> dict[str, torch.Tensor]:
    folder = Path(settings.output)
    return {f"{file} {name}": tensor for file in names for name, tensor in load_file(folder / file).items()}


@pytest.mark.parametrize("change", [{}, {"precision": "int8", "rounding": "stochastic", "optimizer": "adafactor"}])
def test_a_run_with_everything_goes_on_with_the_same_bits(
    small: TrainSettings, make_trainer: MakeTrainer, change: dict
) -> None:
    settings = replace(small, **EVERYTHING | change | ({"optimizer_options": ""} if change else {}))
    trainer = make_trainer(settings)
    trainer.run()
    trainer.close()
    whole = adapters(settings, ADAPTER_FILE, AVERAGE_FILE)
    list_checkpoints(Path(settings.output))[-1][1].unlink()
    resumed = make_trainer(replace(settings, resume=True))
    assert resumed.start == 2
    resumed.run()
    resumed.close()
    again = adapters(settings, ADAPTER_FILE, AVERAGE_FILE)
    assert whole.keys() == again.keys() and all(torch.equal(whole[name], again[name]) for name in whole)


def test_the_mean_over_the_steps_lies_beside_the_adapter(small: TrainSettings, make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(replace(small, ema=0.15))
    mean: dict[str, torch.Tensor] = {}

    def follow(report: object) -> None:
        now = {name: tensor.clone() for name, tensor in adapter_tensors(trainer.unet).items()}
        number = len(seen)
        decay = min(0.15, (1 + number) / (10 + number)) if number else 0.0
        for name, value in now.items():
            mean[name] = decay * mean.get(name, value) + (1 - decay) * value
        seen.append(now)

    seen: list[dict[str, torch.Tensor]] = []
    result = trainer.run(follow)
    assert result.averaged == result.adapter.with_name(AVERAGE_FILE)
    averaged, adapter = load_file(result.averaged), load_file(result.adapter)
    assert averaged.keys() == adapter.keys() == mean.keys()
    assert all(torch.equal(adapter[name], seen[-1][name]) for name in adapter), "the adapter is the last step's"
    assert all(torch.allclose(averaged[name], mean[name], atol=1e-7) for name in mean)
    assert not all(torch.equal(averaged[name], adapter[name]) for name in mean)
    trainer.close()


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_bfloat16_in_torch_follows_float32(small: TrainSettings, make_trainer: MakeTrainer, precision: str) -> None:
    """All INT8 GEMMs run as before; the adapter's weights stay float32."""
    reports, losses = [], []
    for mixed in ("no", "bf16"):
        settings = replace(small, precision=precision, mixed_precision=mixed, targets="attention", checkpoint_every=0)
        trainer = make_trainer(replace(settings, output=f"{small.output}-{mixed}"))
        result = trainer.run()
        losses.append(result.losses)
        assert all(parameter.dtype == torch.float32 for parameter in trainer.parameters)
        reports.append(trainer.handle.report().int8 if trainer.handle else {})
        assert "fell back" not in result.offload_report
        trainer.close()
    assert losses[0] == pytest.approx(losses[1], rel=0.03) and losses[0] != losses[1]
    assert reports[0] == reports[1]


def test_dropout_runs_on_the_device_and_stands_in_the_file(small: TrainSettings, make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(replace(small, precision="int8", dropout=0.3, checkpoint_every=0))
    result = trainer.run()
    assert "fell back" not in result.offload_report
    with safe_open(str(result.adapter), framework="pt") as file:
        assert json.loads(file.metadata()["lora_adapter_metadata"])["unet.lora_dropout"] == 0.3
    trainer.close()


@pytest.mark.parametrize("option", ["dropout", "ema"])
def test_what_integers_cannot_follow_is_refused(small: TrainSettings, option: str) -> None:
    with pytest.raises(UserError, match=f"--{option} goes with --method lora"):
        check_settings(replace(small, method="intlora-mul", precision="int8", **{option: 0.5}))


def test_a_file_of_another_program_in_the_means_place_is_not_overwritten(
    small: TrainSettings, make_trainer: MakeTrainer
) -> None:
    folder = Path(small.output)
    folder.mkdir()
    (folder / AVERAGE_FILE).write_bytes(b"somebody's")
    with pytest.raises(UserError, match=f"{AVERAGE_FILE} in it was not written by systolora train"):
        make_trainer(replace(small, ema=0.9))
    assert (folder / AVERAGE_FILE).read_bytes() == b"somebody's"
