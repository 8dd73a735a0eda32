"""A progress bar of a training run: loss, speed and time left."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .trainer import StepReport, Trainer, TrainResult


def train_with_progress(trainer: Trainer, console: Console, title: str) -> TrainResult:
    """Runs a trainer under a progress bar on `console`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        total = trainer.settings.steps
        task = progress.add_task(title, total=total, completed=trainer.start, facts="")
        smooth = [0.0, 0.0]

        def show(report: StepReport) -> None:
            keep = min(0.95, 1 - 1 / (report.step - trainer.start + 1))
            smooth[0] = keep * smooth[0] + (1 - keep) * report.loss if smooth[1] else report.loss
            smooth[1] = keep * smooth[1] + (1 - keep) * report.seconds if smooth[1] else report.seconds
            progress.update(task, advance=1, facts=f"loss {smooth[0]:.4f}  {1 / smooth[1]:.1f} steps/s")

        return trainer.run(show)
