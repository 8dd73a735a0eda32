"""Flow matching as Stable Diffusion 3 and Flux are trained: a straight line from latents to noise, whose velocity is predicted."""

from __future__ import annotations

from typing import Any

from systolora.errors import UserError
from systolora.models.pipeline import PipelineParts
from systolora.options import option_name
from torch import Generator, Tensor
from torch.nn import functional

from .batches import Batch
from .objective import Objective, Predict
from .settings import TrainSettings

_MODE_SCALE = 1.29
"""Of the "mode" density, the SD 3 paper's choice."""


class FlowObjective:
    """The loss of one model.

    Args:
        noise: FlowMatchEulerDiscreteScheduler with the model's sigmas, shifted as its configuration says. predict: how the model is
            called. density: of the times that are drawn: logit_normal, uniform or mode. weighting: of the loss: none, sigma_sqrt or cosmap.
    """

    def __init__(self, noise: Any, predict: Predict, density: str = "logit_normal", weighting: str = "none") -> None:
        self.noise = noise
        self.predict = predict
        self.density = density
        self.weighting = weighting

    @property
    def timesteps(self) -> int:
        """Length of the schedule."""
        return int(self.noise.config.num_train_timesteps)

    def draw_times(self, count: int, random: Generator) -> Tensor:
        """Places in the schedule of a micro-batch, int64 [count]; place 0 is all noise."""
        from diffusers.training_utils import compute_density_for_timestep_sampling

        share = compute_density_for_timestep_sampling(
            self.density, count, logit_mean=0.0, logit_std=1.0, mode_scale=_MODE_SCALE, generator=random
        )
        return (share * self.timesteps).long().clamp(0, self.timesteps - 1)

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Mean weighted squared error of a micro-batch, a float32 scalar."""
        from diffusers.training_utils import compute_loss_weighting_for_sd3

        sigmas = self.noise.sigmas[batch.timesteps]
        part = sigmas[:, None, None, None]
        noisy = (1 - part) * batch.latents + part * batch.noise
        predicted = self.predict(model, noisy, self.noise.timesteps[batch.timesteps], batch.rows)
        loss = functional.mse_loss(predicted.float(), self.target(batch), reduction="none").mean((1, 2, 3))
        weights: Tensor = compute_loss_weighting_for_sd3(self.weighting, sigmas)
        return (loss * weights).mean()

    def target(self, batch: Batch) -> Tensor:
        """The velocity, from latents to noise, [batch, channels, height, width]."""
        return batch.noise - batch.latents


def objective_of(parts: PipelineParts, settings: TrainSettings) -> Objective | FlowObjective:
    """The loss that the family and the scheduler of a model demand.

    Raises:
        UserError: for a model that predicts something else, or a setting that its kind of training has not.
    """
    predict = parts.family.predict
    plain, title = TrainSettings(), parts.family.layout.title
    if settings.guidance != plain.guidance and not getattr(parts.unet.config, "guidance_embeds", False):
        raise UserError(
            f"--guidance {settings.guidance:g}: it is for distilled models that are told one (Flux dev), and this {title} is not; leave it out"
        )
    if parts.family.flow:
        if settings.snr_gamma:
            raise UserError(
                f"--snr-gamma {settings.snr_gamma:g}: {title} is trained by flow matching, which has no such weight; "
                "leave it out (--flow-weighting has others)"
            )
        return FlowObjective(parts.noise, predict, settings.flow_density, settings.flow_weighting)
    for name in ("flow_density", "flow_weighting"):
        if getattr(settings, name) != getattr(plain, name):
            raise UserError(
                f"{option_name(name)} {getattr(settings, name)}: it is for models that are trained by flow matching, and this is a "
                f"{title}; leave it out"
            )
    return Objective(parts.noise, settings.snr_gamma, predict)
