"""Settings of the optimizer and its schedule; `TrainSettings` has them too."""

from __future__ import annotations

from dataclasses import dataclass

from systolora.options import MOST_STEPS, setting

from .optimizers import OPTIMIZERS

_STEPS = "Training"
"""Heading of the help."""


@dataclass(frozen=True)
class OptimizerSettings:
    """What takes the steps, and how long they are."""

    schedule: str = setting(
        "constant",
        "learning rate schedule",
        group=_STEPS,
        choices=("constant", "linear", "cosine", "constant_with_warmup", "cosine_with_restarts", "polynomial"),
    )
    schedule_cycles: int = setting(1, "times that cosine_with_restarts falls", group=_STEPS, above=0, most=MOST_STEPS)
    schedule_power: float = setting(1.0, "exponent of the polynomial schedule", group=_STEPS, above=0, most=100)
    warmup: int = setting(0, "steps of linear warm-up", group=_STEPS, least=0, most=MOST_STEPS)
    optimizer: str = setting(
        "adamw",
        "what takes the steps (8-bit ones need bitsandbytes, lion lion-pytorch, prodigy prodigyopt)",
        group=_STEPS,
        choices=tuple(OPTIMIZERS),
    )
    optimizer_options: str = setting("", "more of the optimizer's own, such as 'betas=0.9,0.95 eps=1e-7'", group=_STEPS)
    weight_decay: float = setting(1e-2, "weight decay of the optimizer", group=_STEPS, least=0, most=1000)
    ema: float = setting(
        0.0,
        "decay of the adapter's mean over the steps, which is written beside it; 0 turns it off",
        group=_STEPS,
        least=0,
        most=0.999999,
    )
    max_grad_norm: float = setting(
        1.0, "gradients are clipped to this norm; 0 turns it off", group=_STEPS, least=0, most=1e30
    )
