"""AdamW with a learning rate that depends on the step alone, and no step to values that are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from .objective import finite
from .settings import TrainSettings


class NotFiniteError(ArithmeticError):
    """A loss, gradients or weights that are NaN or infinite; the text says which, and after which step."""


class Optimization:
    """The optimizer of a run.

    Attributes:
        named: parameters of the adapters by name; all others are frozen. optimizer: torch's AdamW over them, in that order.
    """

    def __init__(self, model: nn.Module, settings: TrainSettings, text: Mapping[str, nn.Module] | None = None) -> None:
        """text: text encoders that are trained too; their names begin those of their parameters."""
        models = {"": model, **{f"{name}.": encoder for name, encoder in (text or {}).items()}}
        self.named: Mapping[str, nn.Parameter] = {
            f"{above}{name}": value
            for above, part in models.items()
            for name, value in part.named_parameters()
            if value.requires_grad
        }
        self.parameters = list(self.named.values())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self._settings = settings
        self._factor = self._schedule()

    @property
    def bytes(self) -> int:
        """Size of the parameters."""
        return sum(parameter.nbytes for parameter in self.parameters)

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0. Of the step alone, so that there is no state to keep."""
        return self._settings.learning_rate * self._factor(step)

    def apply(self, step: int) -> None:
        """Clips the gradients, takes the step, and forgets the gradients.

        Raises:
            NotFiniteError: for gradients, before the step; for weights, after it.
        """
        limit = self._settings.max_grad_norm or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, limit))
        if not math.isfinite(norm):
            raise NotFiniteError(f"the norm of the gradients of step {step + 1} is {norm}")
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if not finite(self.parameters):
            raise NotFiniteError(f"the adapter's weights are not finite after step {step + 1}")

    def _schedule(self) -> Callable[[int], float]:
        from diffusers.optimization import get_scheduler

        settings = self._settings
        name = "constant_with_warmup" if settings.schedule == "constant" and settings.warmup else settings.schedule
        scheduler: Any = get_scheduler(
            name, self.optimizer, num_warmup_steps=settings.warmup, num_training_steps=settings.steps
        )
        factor: Callable[[int], float] = scheduler.lr_lambdas[0]
        return factor
