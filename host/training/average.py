"""The mean of the adapter over the last steps (EMA), beside the adapter itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from systolora.errors import UserError
from torch import Tensor, nn

_NAME = "average/"


class Average:
    """An exponential moving average of parameters, float32, by diffusers' `EMAModel`.

    The decay of step n, from 1, is (n + 1) / (n + 10), and at most `decay`: the first steps do not weigh on it for long.
    """

    def __init__(self, named: Mapping[str, nn.Parameter], decay: float) -> None:
        from diffusers.training_utils import EMAModel

        self.named = named
        self._model = EMAModel(named.values(), decay=decay)

    def add(self, step: int) -> None:
        """Takes the parameters after a step, from 0, into the mean."""
        self._model.optimization_step = step  # of the step alone, so that there is no counter to keep
        self._model.step(self.named.values())

    def take(self) -> dict[str, Tensor]:
        """Copies, by name, for a checkpoint."""
        return {_NAME + name: mean.clone() for name, mean in zip(self.named, self._model.shadow_params, strict=True)}

    def like(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What of a checkpoint is the mean's.

        Raises:
            UserError: if it lacks some of it, or it has another shape or type, or is not finite.
        """
        found = {}
        for name, own in self.take().items():
            tensor = state.get(name)
            if tensor is None or tensor.shape != own.shape or tensor.dtype != own.dtype or not tensor.isfinite().all():
                raise UserError(
                    f"--resume: the checkpoint does not fit the run ({name[:60]} is not in it, or damaged); "
                    "delete it to go on from the one before, or give another --output"
                )
            found[name] = tensor
        return found

    def put(self, found: Mapping[str, Tensor]) -> None:
        """Goes on with what `like` found."""
        for name, mean in zip(self.named, self._model.shadow_params, strict=True):
            mean.copy_(found[_NAME + name])

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The mean in place of the parameters, for as long as it takes to write it."""
        self._model.store(self.named.values())
        self._model.copy_to(self.named.values())
        try:
            yield
        finally:
            self._model.restore(self.named.values())
