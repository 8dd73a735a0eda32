"""What a run tells of a step, and of itself at its end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StepReport:
    """What a step tells: its number from 1, loss (mean over the global batch), learning rate, seconds, and how many of them the device
    took."""

    step: int
    loss: float
    learning_rate: float
    seconds: float
    device_seconds: float = 0.0


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves: the adapter's file, the loss of every step, seconds of this process, the most memory that it ever held, in
    bytes, the device's report, and the file of the adapter's mean over the steps, if one was kept."""

    adapter: Path
    losses: list[float]
    seconds: float
    peak_bytes: int
    offload_report: str
    averaged: Path | None = None

    @property
    def final_loss(self) -> float:
        """Mean loss of the last tenth of the steps."""
        tail = self.losses[-max(1, len(self.losses) // 10) :]
        return sum(tail) / len(tail)
