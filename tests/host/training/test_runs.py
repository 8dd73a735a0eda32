"""Whole runs: what they refuse, what they leave when something goes wrong, and what they tell."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from systolora.errors import UserError
from systolora.training.adapter import ADAPTER_FILE
from systolora.training.checkpoint import list_checkpoints
from systolora.training.folder import LOG_FILE
from systolora.training.interrupts import Stopped
from systolora.training.settings import TrainSettings
from systolora.training.trainer import Trainer

MakeTrainer = Callable[[TrainSettings], Trainer]


def run(trainer: Trainer, on_step: Callable[[Any], Any] | None = None) -> None:
    try:
        trainer.run(on_step)
    finally:
        trainer.close()


def steps_of(settings: TrainSettings) -> list[int]:
    return [step for step, _ in list_checkpoints(Path(settings.output))]


def test_a_fresh_run_does_not_touch_the_checkpoints_of_another(small: TrainSettings, make_trainer: MakeTrainer) -> None:
    run(make_trainer(small))
    before = {path: path.read_bytes() for path in Path(small.output).rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="checkpoints of a run, up to step 4; go on with --resume, or give another"):
        make_trainer(replace(small, steps=2))
    assert {path: path.read_bytes() for path in Path(small.output).rglob("*") if path.is_file()} == before


def test_two_runs_at_once_are_refused(small: TrainSettings, make_trainer: MakeTrainer) -> None:
    first = make_trainer(small)
    with pytest.raises(UserError, match="another run is writing there"):
        make_trainer(small)
    run(first)
    with pytest.raises(RuntimeError, match="has run"):
        first.run()


def test_resume_without_a_checkpoint_says_so(small: TrainSettings, make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(replace(small, resume=True))
    assert trainer.start == 0
    assert trainer.notes == [f"--resume: there is no checkpoint in {small.output} yet; the run starts at step 1"]
    trainer.close()
    assert not Path(small.output).exists()


def test_a_moved_model_and_moved_data_are_the_same_and_changed_data_are_not(
    small: TrainSettings, make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(make_trainer(replace(small, steps=2)))
    shutil.copytree(small.model, tmp_path / "model")
    shutil.copytree(small.data, tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    moved = replace(small, model="model/", data="./data", resume=True)
    trainer = make_trainer(moved)
    assert trainer.start == 2
    trainer.close()
    picture = next(path for path in sorted((tmp_path / "data").iterdir()) if path.suffix == ".png")
    picture.unlink()
    metadata = tmp_path / "data" / "metadata.jsonl"
    if metadata.exists():
        metadata.write_text("\n".join(row for row in metadata.read_text().splitlines() if picture.name not in row))
    with pytest.raises(UserError, match=f"--data is not what the checkpoint was trained on .gone: {picture.name}"):
        make_trainer(moved)


@pytest.mark.parametrize("how", ["last step", "weights"])
def test_a_run_that_diverges_writes_no_adapter_and_keeps_the_last_checkpoint(
    small: TrainSettings, make_trainer: MakeTrainer, how: str
) -> None:
    run(make_trainer(replace(small, steps=2)))
    good = (Path(small.output) / ADAPTER_FILE).read_bytes()
    trainer = make_trainer(replace(small, steps=3, resume=True))
    if how == "weights":
        rate = float("inf")
        trainer.optimization.optimizer.register_step_pre_hook(
            lambda optimizer, *_: optimizer.param_groups[0].update(lr=rate)
        )
        message = (
            "the adapter's weights are not finite after step 3: lower --learning-rate; the last checkpoint is of step 2"
        )
    else:
        trainer.parameters[0].register_hook(lambda gradient: gradient * float("nan"))
        message = "the norm of the gradients of step 3 is nan: lower --learning-rate; the last checkpoint is of step 2"
    with pytest.raises(UserError, match=message):
        run(trainer)
    assert (Path(small.output) / ADAPTER_FILE).read_bytes() == good
    assert steps_of(small) == [2]


def test_weights_of_the_model_that_are_not_finite_are_not_blamed_on_the_learning_rate(
    small: TrainSettings, make_trainer: MakeTrainer
) -> None:
    trainer = make_trainer(small)
    with torch.no_grad():
        trainer.unet.conv_in.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(
        UserError, match="the loss of step 1 is nan, before anything was trained: the weights in --model"
    ):
        run(trainer)


def test_the_last_step_has_a_checkpoint(small: TrainSettings, make_trainer: MakeTrainer) -> None:
    run(make_trainer(replace(small, steps=3, checkpoint_every=500)))
    assert steps_of(small) == [3]


def test_a_model_with_dropout_goes_on_with_the_same_bits(
    small: TrainSettings, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    def with_dropout(settings: TrainSettings) -> Trainer:
        trainer = make_trainer(settings)
        for module in trainer.unet.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.3
        return trainer

    whole, without = (replace(small, output=str(tmp_path / name)) for name in ("whole", "without"))
    run(with_dropout(whole))
    run(make_trainer(without))

    def strike(report: Any) -> None:
        if report.step == 3:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped):
        run(with_dropout(small), strike)
    torch.rand(17)
    run(with_dropout(replace(small, resume=True)))
    mine, theirs, plain = (load_file(Path(each.output) / ADAPTER_FILE) for each in (small, whole, without))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert any(not torch.equal(mine[name], plain[name]) for name in plain)


def rows(settings: TrainSettings) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(settings.output) / LOG_FILE).read_text().splitlines()]


def test_a_disk_that_is_full_for_a_while_does_not_end_the_run(
    small: TrainSettings, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(small)
    said: list[str] = []
    trainer.on_note = said.append
    real = os.fsync

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        run(trainer, lambda report: patch.setattr("os.fsync", real) if report.step == 3 else None)
    assert said == [
        f"{small.output} cannot be written (No space left on device): there is no checkpoint of step 2; going on"
    ]
    assert steps_of(small) == [4] and len(rows(small)) == 4


def test_an_adapter_that_cannot_be_written_at_the_end_is_kept_elsewhere_and_resume_writes_it(
    small: TrainSettings, make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(small)
    spare = tmp_path / "spare"
    spare.mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(spare))
    place = Path(small.output) / ADAPTER_FILE
    with pytest.raises(UserError, match="the adapter cannot be written there .*; it is in") as caught:
        run(trainer, lambda report: place.mkdir() if report.step == small.steps else None)
    kept = load_file(str(caught.value).rpartition("it is in ")[2])
    place.rmdir()
    run(make_trainer(replace(small, resume=True)))
    written = load_file(place)
    assert all(torch.equal(kept[name], written[name]) for name in written)


def test_the_files_of_a_run_name_no_folder_of_this_computer(small: TrainSettings, make_trainer: MakeTrainer) -> None:
    run(make_trainer(small))
    with safe_open(str(Path(small.output) / ADAPTER_FILE), framework="pt") as file:
        header = file.metadata()
    assert json.loads(header["systolora"])["model"] == Path(small.model).name
    private = {small.data, small.output, small.model, str(Path(small.model).parent), str(Path.cwd())}
    for path in Path(small.output).rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [name for name in private if name.encode() in content], path


def test_an_output_that_cannot_be_written_is_told_before_anything_is_loaded(
    small: TrainSettings, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="--output .*file/run: it cannot be written"):
        Trainer(replace(small, output=str(tmp_path / "file" / "run"), model="nowhere", data="nowhere"))
