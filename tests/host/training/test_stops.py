"""A signal at any instant of a run ends it between two steps, with a checkpoint that goes on to the uninterrupted run's bits."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from systolora.training.adapter import ADAPTER_FILE
from systolora.training.checkpoint import list_checkpoints
from systolora.training.interrupts import Stopped
from systolora.training.run_record import read_run
from systolora.training.settings import TrainSettings
from systolora.training.trainer import Trainer

MakeTrainer = Callable[[TrainSettings], Trainer]
Arrange = Callable[[Trainer, Callable[[], None], pytest.MonkeyPatch], Any]


def adapter_of(settings: TrainSettings) -> dict[str, torch.Tensor]:
    return load_file(Path(settings.output) / ADAPTER_FILE)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def whole(small: TrainSettings, make_trainer: MakeTrainer, tmp_path: Path) -> dict[str, torch.Tensor]:
    """The adapter of the run that nothing disturbs."""
    settings = replace(small, output=str(tmp_path / "whole"))
    trainer = make_trainer(settings)
    trainer.run()
    trainer.close()
    return adapter_of(settings)


def in_optimizer_step(trainer: Trainer, strike: Callable[[], None], patch: pytest.MonkeyPatch) -> None:
    """Half of the parameters are new, half are old: where the checkpoint of an exception would be of no step at all."""
    real = torch.Tensor.addcdiv_

    def addcdiv(self: torch.Tensor, *args: Any, **named: Any) -> torch.Tensor:
        strike()
        return real(self, *args, **named)

    patch.setattr(torch.Tensor, "addcdiv_", addcdiv)


def after_optimizer_step(trainer: Trainer, strike: Callable[[], None], patch: pytest.MonkeyPatch) -> None:
    trainer.optimization.optimizer.register_step_post_hook(lambda *_: strike())


def in_forward(trainer: Trainer, strike: Callable[[], None], patch: pytest.MonkeyPatch) -> None:
    trainer.unet.mid_block.register_forward_hook(lambda *_: strike())


def in_backward(trainer: Trainer, strike: Callable[[], None], patch: pytest.MonkeyPatch) -> None:
    trainer.parameters[0].register_hook(lambda _: strike())


def in_checkpoint(trainer: Trainer, strike: Callable[[], None], patch: pytest.MonkeyPatch) -> None:
    real = os.replace

    def put(source: Any, target: Any) -> None:
        if Path(target).parent.name == "checkpoints":
            strike()
        real(source, target)

    patch.setattr(os, "replace", put)


INSTANTS = [in_optimizer_step, after_optimizer_step, in_forward, in_backward, in_checkpoint]


class Strike:
    """Sends a signal at the `number`-th call, once."""

    def __init__(self, signum: int, number: int) -> None:
        self.signum, self.left = signum, number

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(self.signum)


@pytest.mark.parametrize(
    ("instant", "signum", "number"),
    [
        (in_optimizer_step, signal.SIGINT, 3),
        (in_optimizer_step, signal.SIGTERM, 20),
        (after_optimizer_step, signal.SIGINT, 1),
        (in_forward, signal.SIGINT, 2),
        (in_forward, signal.SIGHUP, 3),
        (in_backward, signal.SIGTERM, 2),
        (in_checkpoint, signal.SIGINT, 1),
    ],
)
def test_a_signal_anywhere_in_a_step_ends_with_a_checkpoint_that_goes_on_to_the_same_bits(
    small: TrainSettings,
    make_trainer: MakeTrainer,
    whole: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    instant: Arrange,
    signum: int,
    number: int,
) -> None:
    trainer = make_trainer(small)
    with monkeypatch.context() as patch:
        instant(trainer, Strike(signum, number), patch)
        with pytest.raises(Stopped, match=r"stopped by SIG\w+ after step \d of 4; go on with --resume$") as caught:
            trainer.run()
    trainer.close()
    assert caught.value.signum == signum
    done = list_checkpoints(Path(small.output))[-1][0]
    assert f"after step {done} of" in str(caught.value) and 1 <= done < small.steps
    again = make_trainer(replace(small, resume=True))
    assert again.start == done and again.notes == [f"going on after step {done} of 4"]
    result = again.run()
    again.close()
    assert len(result.losses) == small.steps
    assert same(adapter_of(small), whole)


def test_before_the_first_step_there_is_nothing_to_save(
    small: TrainSettings, make_trainer: MakeTrainer, whole: dict[str, torch.Tensor]
) -> None:
    trainer = make_trainer(small)
    real = trainer._stop_if_asked

    def struck(flag: Any, done: int) -> None:
        signal.raise_signal(signal.SIGTERM)
        real(flag, done)

    trainer._stop_if_asked = struck  # type: ignore[method-assign]
    with pytest.raises(Stopped, match="stopped by SIGTERM before the first step: nothing to save, start it again"):
        trainer.run()
    trainer.close()
    facts = read_run(trainer.output)
    assert facts is not None and facts["state"] == "interrupted"
    assert not list_checkpoints(trainer.output)
    again = make_trainer(small)
    again.run()
    again.close()
    assert same(adapter_of(small), whole)


def test_a_signal_while_the_adapter_is_written_lets_the_run_end(
    small: TrainSettings, make_trainer: MakeTrainer, whole: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(small)
    real = trainer._save

    def struck(folder: Path) -> Path:
        signal.raise_signal(signal.SIGINT)
        return real(folder)

    trainer._save = struck  # type: ignore[method-assign]
    trainer.run()
    trainer.close()
    assert same(adapter_of(small), whole)


def test_a_second_signal_stops_at_once_without_saving(small: TrainSettings, make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(replace(small, checkpoint_every=100))

    def strike_twice(report: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        trainer.run(strike_twice)
    trainer.close()
    assert not isinstance(caught.value, Stopped)
    assert list_checkpoints(Path(small.output)) == []


def test_without_checkpoints_it_says_that_nothing_was_saved(small: TrainSettings, make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(replace(small, checkpoint_every=0))

    def strike(report: Any) -> None:
        if report.step == 2:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped, match="after step 2 of 4; nothing was saved, as --checkpoint-every is 0"):
        trainer.run(strike)
    trainer.close()
    assert not (Path(small.output) / "checkpoints").exists()


def test_a_checkpoint_that_cannot_be_written_is_told(
    small: TrainSettings, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(small)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def strike(report: Any) -> None:
        if report.step == 3:
            monkeypatch.setattr("os.fsync", full)
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(
        Stopped, match=r"cannot be written \(No space left on device\), the last checkpoint is of step 2"
    ):
        trainer.run(strike)
    trainer.close()
