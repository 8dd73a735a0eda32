"""What `systolora train` prints: a progress bar with loss, speed and time left, then what was written where."""

from __future__ import annotations

import json as jsonlib

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .settings import TrainSettings
from .train import StepReport, Trainer, TrainResult


def run_training(settings: TrainSettings, json: bool) -> None:
    """Trains with a progress bar; Ctrl-C writes a checkpoint first."""
    console = Console(stderr=json)
    console.print("loading the model and encoding the pictures ...")
    trainer = Trainer(settings)
    try:
        result = train_with_progress(trainer, console, "training")
    except KeyboardInterrupt:
        if settings.checkpoint_every and trainer.losses:
            trainer.checkpoint(len(trainer.losses))
            console.print(f"stopped after step {len(trainer.losses)}; go on with --resume")
        raise
    finally:
        trainer.close()
    console.print(
        f"final loss {result.final_loss:.4f} after {len(result.losses)} steps, {result.seconds:.1f} s; "
        f"peak memory {result.peak_bytes / 2**20:,.0f} MiB"
    )
    console.print(result.offload_report)
    console.print(f"adapter: {result.adapter}")
    if json:
        summary = {
            "adapter": str(result.adapter),
            "final_loss": result.final_loss,
            "steps": len(result.losses),
            "seconds": round(result.seconds, 3),
            "peak_bytes": result.peak_bytes,
        }
        print(jsonlib.dumps(summary))


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
