"""Settings of prior preservation; `TrainSettings` has them too."""

from __future__ import annotations

from dataclasses import dataclass

from systolora.options import setting

_PRIOR = "Prior preservation"
"""Heading of the help."""


@dataclass(frozen=True)
class PriorSettings:
    """Pictures of the class that the subject belongs to (DreamBooth)."""

    class_prompt: str = setting(
        "", "prior preservation: what the class of the subject is called; empty turns it off", group=_PRIOR
    )
    class_data: str = setting(
        "", "folder of pictures of the class; empty: class_pictures in the output folder", group=_PRIOR
    )
    class_images: int = setting(
        100, "pictures of the class; the model generates those that are missing", group=_PRIOR, above=0, most=100_000
    )
    class_steps: int = setting(
        0, "denoising steps for each; 0: as many as its pipeline takes", group=_PRIOR, least=0, most=10_000
    )
    prior_weight: float = setting(1.0, "weight of the loss on the class", group=_PRIOR, above=0, most=1000)
