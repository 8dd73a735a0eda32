"""What a training run shows on the way: a progress bar on a terminal, a line now and then anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .settings import TrainSettings
from .trainer import StepReport, Trainer, TrainResult

SECONDS_BETWEEN_LINES = 30.0


def say(console: Console, text: str) -> None:
    """Prints a line that may hold names of files, which are no markup."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def load_with_progress(
    settings: TrainSettings, console: Console, clock: Callable[[], float] = time.monotonic
) -> Trainer:
    """Makes a trainer, and says what is loaded, encoded and trained."""
    say(console, f"loading the model {settings.model}")
    with _bar(console, "pictures") as bar:
        trainer = Trainer(settings, on_picture=_Counter(bar, "encoding the pictures", "encoded", console, clock).show)
    for line in (*trainer.notes, _plan(trainer)):
        say(console, line)
    return trainer


def train_with_progress(
    trainer: Trainer, console: Console, title: str, clock: Callable[[], float] = time.monotonic
) -> TrainResult:
    """Runs a trainer, and shows its loss, speed and the time left on `console`.

    Args:
        title: begins the bar, and the lines where there is no terminal. clock: seconds, for tests.
    """
    total = trainer.settings.steps
    with _bar(console, "steps") as bar:
        counter = _Counter(bar, title, "steps", console, clock, trainer.start)
        smooth = _Smooth()
        counter.show(trainer.start, total)
        trainer.on_note = lambda text: say(bar.console if bar else console, f"note: {text}")

        def show(report: StepReport) -> None:
            smooth.add(report)
            left = (total - report.step) * smooth.seconds
            counter.show(report.step, total, f"loss {smooth.loss:.4f}  {1 / smooth.seconds:.2f} steps/s", left)

        return trainer.run(show)


def _plan(trainer: Trainer) -> str:
    """One line that says what is going to happen."""
    settings, count = trainer.settings, sum(parameter.numel() for parameter in trainer.parameters)
    return (
        f"{_pictures(trainer)}; adapter of rank {settings.rank} with {count:,} parameters; "
        f"steps {trainer.start + 1} to {settings.steps}, pictures per step: {settings.batch * settings.accumulation}"
        if trainer.start < settings.steps
        else f"all {settings.steps} steps are done: only the adapter is written"
    )


def _pictures(trainer: Trainer) -> str:
    """How many pictures there are, of which size, and how many were left out."""
    data, factor = trainer.data, trainer.parts.vae_factor
    shapes = {tuple(factor * side for side in bucket.mean.shape[:-3:-1]) for bucket in data.buckets}
    sizes = " x ".join(map(str, *shapes)) + " pixels" if len(shapes) == 1 else f"{len(shapes)} sizes"
    skipped = f" ({data.skipped} skipped)" if data.skipped else ""
    return f"{data.count} pictures{skipped} of {sizes}"


class _Smooth:
    """Running means of loss and seconds, over about the last twenty steps."""

    def __init__(self) -> None:
        self.count, self.loss, self.seconds = 0, 0.0, 0.0

    def add(self, report: StepReport) -> None:
        self.count += 1
        keep = min(0.95, 1 - 1 / self.count)
        self.loss = keep * self.loss + (1 - keep) * report.loss
        self.seconds = keep * self.seconds + (1 - keep) * report.seconds


class _Counter:
    """Shows how many of all are done: on the bar, or in lines: the first, the last, and one every `SECONDS_BETWEEN_LINES`."""

    def __init__(
        self,
        bar: Progress | None,
        title: str,
        unit: str,
        console: Console,
        clock: Callable[[], float],
        start: int = 0,
    ) -> None:
        self.bar, self.title, self.unit, self.console, self.clock, self.start = bar, title, unit, console, clock, start
        self.task = bar.add_task(title, total=None, completed=start, facts="") if bar else None
        self.printed = -SECONDS_BETWEEN_LINES

    def show(self, done: int, total: int, facts: str = "", left: float | None = None) -> None:
        if self.bar and self.task is not None:
            self.bar.update(self.task, completed=done, total=total, facts=facts)
            return
        now = self.clock()
        if done == self.start or (
            done < total and done > self.start + 1 and now - self.printed < SECONDS_BETWEEN_LINES
        ):
            return
        self.printed = now
        text = f"{self.title}: {done} of {total} {self.unit}{f', {facts}' if facts else ''}"
        say(self.console, text + (f", {_span(left)} left" if left and done < total else ""))


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


@contextmanager
def _bar(console: Console, unit: str) -> Iterator[Progress | None]:
    """A progress bar, or None where the console is no terminal."""
    if not console.is_terminal or console.quiet:
        yield None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit}  {{task.fields[facts]}}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield progress
