"""Settings of flow matching; `TrainSettings` has them too."""

from __future__ import annotations

from dataclasses import dataclass

from systolora.options import setting

_STEPS = "Training"
"""Heading of the help."""


@dataclass(frozen=True)
class FlowSettings:
    """How models that are trained by flow matching (SD 3, Flux) are."""

    flow_density: str = setting(
        "logit_normal",
        "flow matching: density of the times that are drawn",
        group=_STEPS,
        choices=("logit_normal", "uniform", "mode"),
    )
    flow_weighting: str = setting(
        "none", "flow matching: weight of the loss by time", group=_STEPS, choices=("none", "sigma_sqrt", "cosmap")
    )
    guidance: float = setting(
        3.5, "guidance that a distilled model (Flux dev) is told in training", group=_STEPS, least=0, most=100
    )
