"""What `systolora train` prints: what is loaded and trained, progress, then what was written where; and how it ends by a signal."""

from __future__ import annotations

import json as jsonlib
import os

import typer
from rich.console import Console
from systolora.training.interrupts import EndAtOnce, Stopped, exit_code
from systolora.training.settings import TrainSettings

from .forecast import forecast
from .options import make_console


def run_training(settings: TrainSettings, json: bool) -> None:
    """Trains and prints; a signal ends it after the step, with a checkpoint.

    Of several processes the first one prints.
    """
    quiet = os.environ.get("RANK", "0") != "0"
    with EndAtOnce(None if quiet else " before the first step: nothing was changed; start it again") as ending:
        _train(settings, make_console(json, quiet), json and not quiet, ending)


def _train(settings: TrainSettings, console: Console, json: bool, ending: EndAtOnce) -> None:
    from systolora.training.parallel import ToldElsewhere
    from systolora.training.progress import load_with_progress, say, train_with_progress
    from systolora.training.run_page import PAGE_FILE

    quiet = console.quiet
    trainer = None
    try:
        trainer = load_with_progress(settings, console)
        if trainer.story:
            trainer.story.forecast = forecast(settings, trainer.parts.checked_resolution(settings.resolution))
        ending.text = None if quiet else " at once: what came after the last checkpoint is lost; go on with --resume"
        result = train_with_progress(trainer, console, "training")
        ending.text = None if quiet else f" after the end of the run: the adapter is in {result.adapter}"
    except Stopped as stop:
        if not quiet:
            typer.echo(f"systolora: {stop}", err=True)
        raise typer.Exit(exit_code(stop.signum)) from None
    except ToldElsewhere:
        raise typer.Exit(2) from None
    finally:
        if trainer:
            trainer.close()
    say(
        console,
        f"final loss {result.final_loss:.4f} after {len(result.losses)} steps, {result.seconds:.1f} s; "
        f"peak memory {result.peak_bytes / 2**20:,.0f} MiB",
    )
    say(console, result.offload_report)
    say(console, f"adapter: {result.adapter}")
    if result.averaged:
        say(console, f"its mean over the steps (--ema {settings.ema:g}): {result.averaged}")
    if trainer.story:
        say(console, f"page: {trainer.output / PAGE_FILE}")
    if json:
        summary = {
            "adapter": str(result.adapter),
            "final_loss": result.final_loss,
            "steps": len(result.losses),
            "seconds": round(result.seconds, 3),
            "peak_bytes": result.peak_bytes,
            **({"averaged": str(result.averaged)} if result.averaged else {}),
        }
        print(jsonlib.dumps(summary))
