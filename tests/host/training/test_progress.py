"""Without a terminal a run is told in lines: what is loaded, how much there is to do, the first and last step, now and then one."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from systolora.training.progress import SECONDS_BETWEEN_LINES, load_with_progress, train_with_progress
from systolora.training.reports import StepReport
from systolora.training.settings import TrainSettings


class Clock:
    """Goes on by so many seconds at each look."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds

    def __call__(self) -> float:
        self.now += self.seconds
        return self.now


def trainer_of(steps: int, start: int = 0) -> Any:
    def run(on_step: Callable[[StepReport], None]) -> str:
        for step in range(start, steps):
            on_step(StepReport(step + 1, 0.5, 1e-3, 2.0))
        return "result"

    return SimpleNamespace(settings=SimpleNamespace(steps=steps), start=start, run=run, on_note=None)


def lines_of(trainer: Any, seconds: float) -> list[str]:
    text = io.StringIO()
    train_with_progress(trainer, Console(file=text, width=80), "training [x]", Clock(seconds))
    return text.getvalue().splitlines()


def test_first_and_last_step_and_one_line_now_and_then() -> None:
    lines = lines_of(trainer_of(100), SECONDS_BETWEEN_LINES / 10)
    assert lines[0] == "training [x]: 1 of 100 steps, loss 0.5000  0.50 steps/s, 0:03:18 left"
    assert lines[-1] == "training [x]: 100 of 100 steps, loss 0.5000  0.50 steps/s"
    assert 10 <= len(lines) <= 12


def test_a_run_that_goes_on_tells_its_own_first_step() -> None:
    assert [line.split(",")[0] for line in lines_of(trainer_of(9, start=7), 0.1)] == [
        "training [x]: 8 of 9 steps",
        "training [x]: 9 of 9 steps",
    ]


def test_a_run_of_one_step_has_one_line() -> None:
    assert len(lines_of(trainer_of(1), 0.1)) == 1


def test_a_quiet_console_shows_nothing() -> None:
    text = io.StringIO()
    train_with_progress(trainer_of(3), Console(file=text, quiet=True, force_terminal=True), "training")
    assert text.getvalue() == ""


def test_a_terminal_has_a_bar() -> None:
    text = io.StringIO()
    train_with_progress(trainer_of(3), Console(file=text, force_terminal=True, width=120), "training")
    assert "3/3" in text.getvalue() and "loss 0.5000" in text.getvalue()


@pytest.fixture
def loading(small: TrainSettings) -> Iterator[list[str]]:
    text = io.StringIO()
    trainer = load_with_progress(small, Console(file=text, width=80))
    trainer.close()
    yield text.getvalue().splitlines()


def test_loading_says_what_there_is_to_do(loading: list[str], small: TrainSettings) -> None:
    assert loading[0] == f"loading the model {small.model}"
    assert "encoding the pictures: 4 of 4 encoded" in loading
    assert loading[-1] == (
        "4 pictures of 16 x 16 pixels; adapter of rank 4 with 6,400 parameters; steps 1 to 4, pictures per step: 1"
    )
