"""Settings of what a run leaves on the way and shows of itself; `TrainSettings` has them too."""

from __future__ import annotations

from dataclasses import dataclass

from systolora.options import LARGEST_SEED, MOST_STEPS, setting

_RUN, _SEEN = "Run and checkpoints", "Seen while it runs"
"""Headings of the help."""


@dataclass(frozen=True)
class RunSettings:
    """Checkpoints by time, adapters on the way, validation pictures, trackers. None of them changes what is trained."""

    checkpoint_minutes: float = setting(
        0.0, "minutes between checkpoints, beside those by steps; 0 turns them off", group=_RUN, least=0, most=100_000
    )
    adapter_every: int = setting(
        0,
        "steps between adapters that are kept in OUTPUT/adapters, each to be used as the last one; 0 keeps none",
        group=_RUN,
        least=0,
        most=MOST_STEPS,
    )
    validation_prompt: str = setting(
        "", "what the validation pictures show; several prompts with | between them", group=_SEEN
    )
    validation_every: int = setting(
        100, "steps between validation pictures, which also begin and end a run", group=_SEEN, above=0, most=MOST_STEPS
    )
    validation_seed: int = setting(0, "of the validation pictures' noise", group=_SEEN, least=0, most=LARGEST_SEED)
    validation_denoising: int = setting(25, "denoising steps of a validation picture", group=_SEEN, above=0, most=1000)
    validation_guidance: float = setting(
        5.0, "classifier-free guidance of validation pictures; 1 turns it off", group=_SEEN, least=1, most=100
    )
    report_to: str = setting(
        "tensorboard",
        "trackers, of those that accelerate knows, with commas between them: tensorboard, wandb, mlflow, aim and others; or none",
        group=_SEEN,
    )


RUN_NAMES = tuple(RunSettings.__dataclass_fields__)
"""Of the settings here; they may differ between a run and its continuation."""
