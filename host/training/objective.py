"""What a diffusion model is trained to predict, and how much each timestep counts. Flow matching: `flow`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from systolora.errors import UserError
from systolora.models.stable_diffusion import predict as predict_unet
from torch import Generator, Tensor
from torch.nn import functional

from .batches import Batch

PREDICTIONS = ("epsilon", "v_prediction", "sample")
"""Values of a scheduler's `prediction_type` that are trained: the noise, the velocity, the clean latents."""


Predict = Callable[[Any, Tensor, Tensor, Mapping[str, Tensor]], Tensor]
"""(model, noisy, timesteps, rows of the batch) -> what the model predicts: `Family.predict`."""


class Objective:
    """The loss of one model.

    Args:
        noise: DDPMScheduler with the model's noise schedule and prediction type. snr_gamma: of min-SNR weights; 0 turns them off.
        predict: how the model is called.

    Raises:
        UserError: for a model that predicts something else.
    """

    def __init__(self, noise: Any, snr_gamma: float = 0.0, predict: Predict = predict_unet) -> None:
        config = noise.config
        if config.get("use_flow_sigmas"):
            raise UserError(
                "--model: its scheduler has use_flow_sigmas, so it is a flow-matching model, which is not trained here"
            )
        self.prediction = str(config.get("prediction_type", "epsilon"))
        if self.prediction not in PREDICTIONS:
            raise UserError(
                f"--model: its scheduler's prediction_type is {self.prediction!r}; trained are {', '.join(PREDICTIONS)}"
            )
        self.noise = noise
        self.snr_gamma = snr_gamma
        self.predict = predict

    @property
    def timesteps(self) -> int:
        """Length of the noise schedule."""
        return int(self.noise.config.num_train_timesteps)

    def draw_times(self, count: int, random: Generator) -> Tensor:
        """Timesteps of a micro-batch, int64 [count], each as likely."""
        return torch.randint(self.timesteps, (count,), generator=random)

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Mean weighted squared error of a micro-batch, a float32 scalar."""
        noisy = self.noise.add_noise(batch.latents, batch.noise, batch.timesteps)
        predicted = self.predict(model, noisy, batch.timesteps, batch.rows)
        loss = functional.mse_loss(predicted.float(), self.target(batch), reduction="none").mean((1, 2, 3))
        if self.snr_gamma:
            loss = loss * self.weight(batch.timesteps)
        return loss.mean()

    def target(self, batch: Batch) -> Tensor:
        """What the model should predict, [batch, channels, height, width]."""
        if self.prediction == "sample":
            return batch.latents
        if self.prediction == "v_prediction":
            velocity: Tensor = self.noise.get_velocity(batch.latents, batch.noise, batch.timesteps)
            return velocity
        return batch.noise

    def weight(self, timesteps: Tensor) -> Tensor:
        """Min-SNR weights (Hang et al. 2023, equation 4) of timesteps, float32 [batch].

        In the units of the prediction: min(snr, gamma) of the clean latents, divided by snr for the noise and by snr + 1 for the
        velocity. Schedules that end at snr = 0 have their limits: 1 for the noise, 0 for the others.
        """
        kept = self.noise.alphas_cumprod[timesteps]
        snr = kept / (1 - kept)
        if self.prediction == "epsilon":
            return (self.snr_gamma / snr).clamp(max=1)
        most = snr.clamp(max=self.snr_gamma)
        return most / (snr + 1) if self.prediction == "v_prediction" else most


def finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no tensor holds a NaN or an infinity."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
