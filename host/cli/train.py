"""What `systolora train` prints: a progress bar with loss, speed and time left, then what was written where."""

from __future__ import annotations

import json as jsonlib

from rich.console import Console
from systolora.training.progress import train_with_progress
from systolora.training.settings import TrainSettings
from systolora.training.trainer import Trainer


def run_training(settings: TrainSettings, json: bool) -> None:
    """Trains with a progress bar; Ctrl-C writes a checkpoint first."""
    console = Console(stderr=json)
    console.print("loading the model and encoding the pictures ...")
    trainer = Trainer(settings)
    for note in trainer.notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
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
