"""Several processes training one adapter, each with its own device: gradients are averaged, nothing else is shared.

Started by `torchrun` or `accelerate launch` (they set RANK and WORLD_SIZE); the transport is gloo. The first process writes the files
and talks; the others are silent unless something is wrong with them alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from systolora.errors import UserError
from torch import Tensor, nn


class ToldElsewhere(UserError):
    """A mistake that the first process of the run tells, so that this one need not."""


@dataclass(frozen=True)
class Processes:
    """This process's place among those that train together."""

    rank: int = 0
    world: int = 1

    @classmethod
    def current(cls) -> Processes:
        """From the environment; joins the process group on the first call."""
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world == 1:
            return cls()
        import torch.distributed as distributed

        if not distributed.is_initialized():
            distributed.init_process_group("gloo")
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def own_seed(self, seed: int) -> int:
        """A seed of this process for what should differ between them: in the first one, as alone, the run's own."""
        return seed if self.first else (seed + 0x9E3779B9 * self.rank) % 2**32

    def mean_of(self, value: float) -> float:
        """The mean of a number over all processes."""
        if self.world == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.float64)
        _reduce(tensor)
        return float(tensor / self.world)

    def largest(self, value: int) -> int:
        """The largest of a whole number over all processes; waits for all of them."""
        if self.world == 1:
            return value
        tensor = torch.tensor([value])
        _reduce(tensor, largest=True)
        return int(tensor)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces each gradient by its mean over all processes."""
        if self.world == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            _reduce(parameter.grad)
            parameter.grad /= self.world

    def told_once(self, error: UserError) -> UserError:
        """An error that all processes meet at the same point: itself in the first one, which tells it, `ToldElsewhere` in the others."""
        return error if self.first else ToldElsewhere(str(error))

    def leave(self) -> None:
        """Ends this process's part in the run, so that the others, if they wait for it, end too instead of waiting on."""
        if self.world > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What all processes do, each for itself: if it goes wrong in one, it ends in all, and one of them tells of it.

        Raises:
            Exception: the process's own; as `ToldElsewhere` where the first process of those with an error tells it.
        """
        own: Exception | None = None
        try:
            yield
        except Exception as error:
            if self.world == 1:
                raise
            own = error
        if self.world == 1:
            return
        answers: list[bool] = [False] * self.world
        with _others_alive():
            torch.distributed.all_gather_object(answers, own is not None)
        if not any(answers):
            return
        if own is not None and answers.index(True) == self.rank:
            raise own
        raise ToldElsewhere("another process of the run tells what is wrong")

    def check_batch(self, batch: int) -> None:
        """Refuses a batch that cannot be shared.

        Raises:
            UserError: if it does not divide by the number of processes.
        """
        if batch % self.world:
            raise UserError(f"--batch {batch}: it must divide by the number of processes, {self.world}")

    def change_notes(self, before: int) -> list[str]:
        """What is said of a checkpoint by `before` processes, if that is another number."""
        if before == self.world:
            return []
        return [
            f"--resume: the checkpoint is of a run with {before} process{'es' if before > 1 else ''}, this one has "
            f"{self.world}: pictures and noise are the same, the last bits are not"
        ]


def _reduce(tensor: Tensor, largest: bool = False) -> None:
    operation = torch.distributed.ReduceOp
    with _others_alive():
        torch.distributed.all_reduce(tensor, operation.MAX if largest else operation.SUM)


@contextlib.contextmanager
def _others_alive() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"another process of the run ended: see what it says ({reason})") from None
