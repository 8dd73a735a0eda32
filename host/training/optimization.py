"""The optimizer with a learning rate that depends on the step alone, and no step to values that are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from systolora.errors import UserError
from torch import Tensor, nn

from .average import Average
from .objective import finite
from .optimizers import optimizer_maker
from .settings import TrainSettings
from .state import put_state, take_state


class NotFiniteError(ArithmeticError):
    """A loss, gradients or weights that are NaN or infinite; the text says which, and after which step."""


class Optimization:
    """The optimizer of a run.

    Attributes:
        named: parameters of the adapters by name; all others are frozen. optimizer: over them, in that order. make: makes another
            one of its kind. average: of the parameters over the steps, or None.

    Raises:
        UserError: for an optimizer, options or a schedule that cannot be had.
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
        self.make = optimizer_maker(
            settings.optimizer,
            settings.learning_rate,
            settings.weight_decay,
            type(settings).weight_decay,
            settings.optimizer_options,
        )
        self.optimizer: torch.optim.Optimizer = self.make(self.parameters)
        self.average = Average(self.named, settings.ema) if settings.ema else None
        self._settings = settings
        self._factor = self._schedule()

    @property
    def bytes(self) -> int:
        """Size of the parameters, and of their mean if there is one."""
        return sum(parameter.nbytes for parameter in self.parameters) * (2 if self.average else 1)

    @property
    def notes(self) -> list[str]:
        """What the user should know, a line each."""
        if self._settings.optimizer == "prodigy" and self._settings.learning_rate < 0.1:
            return ["note: --optimizer prodigy finds its step size itself; its authors advise --learning-rate 1"]
        return []

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
        if self.average:
            self.average.add(step)

    def take(self, handle: Any) -> dict[str, Tensor]:
        """Copies of all that a run goes on with; `handle`: of the offload or of IntLoRA, or None."""
        state = take_state(self.named, self.optimizer, handle)
        return state | (self.average.take() if self.average else {})

    def put(self, state: Mapping[str, Tensor], handle: Any) -> None:
        """Puts back what `take` took.

        Raises:
            UserError: for what does not fit; nothing was changed then.
        """
        average = self.average.like(state) if self.average else {}
        rest = {name: tensor for name, tensor in state.items() if name not in average}
        put_state(rest, self.named, self.optimizer, handle, self.make)
        if self.average:
            self.average.put(average)

    def _schedule(self) -> Callable[[int], float]:
        from diffusers.optimization import get_scheduler

        settings = self._settings
        name = "constant_with_warmup" if settings.schedule == "constant" and settings.warmup else settings.schedule
        try:
            scheduler: Any = get_scheduler(
                name,
                self.optimizer,
                num_warmup_steps=settings.warmup,
                num_training_steps=settings.steps,
                num_cycles=settings.schedule_cycles,
                power=settings.schedule_power,
            )
        except ValueError as error:  # a polynomial one ends at a rate of its own
            raise UserError(f"--schedule {name}: {error}: raise --learning-rate") from None
        factor: Callable[[int], float] = scheduler.lr_lambdas[0]
        return factor
