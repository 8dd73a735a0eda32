"""What choosing the dataflow for each GEMM gains, beside the gains that the CDM-QTA paper reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PAPER = (1.22, 1.27)
"""The paper's hybrid over weight-stationary only and output-stationary only."""

_CLOSE = 0.2
"""A gain is like the paper's if what it is above one differs from the paper's by at most this share of that."""


@dataclass(frozen=True)
class Gain:
    """Cycles of one set of layers on one array, by policy."""

    array: str
    targets: str
    cycles: dict[str, int]

    @property
    def ratios(self) -> tuple[float, float]:
        """How much faster choosing per GEMM is than weight- and output-stationary only."""
        return self.cycles["ws"] / self.cycles["auto"], self.cycles["os"] / self.cycles["auto"]

    @property
    def shares(self) -> tuple[float, float]:
        """Both gains as shares of the paper's: 1 is the same, 2 twice as much above one."""
        over_ws, over_os = ((ratio - 1) / (paper - 1) for ratio, paper in zip(self.ratios, PAPER, strict=True))
        return over_ws, over_os

    @property
    def distance(self) -> float:
        """How far the worse of the two gains is from the paper's, as a share of it."""
        return max(abs(share - 1) for share in self.shares)

    def __str__(self) -> str:
        return f"{self.array}, {self.targets} ({self.ratios[0]:.2f} and {self.ratios[1]:.2f})"


def two_sided(found: Sequence[Gain]) -> list[str]:
    """Rows in which both gains, over weight- and over output-stationary, are the paper's: within a fifth, above or below."""
    return [str(gain) for gain in found if gain.distance <= _CLOSE]


def like_the_paper(found: Sequence[Gain]) -> list[str]:
    """Rows in which both gains are at least what is left of the paper's if one fifth of it is taken off, however much they are above."""
    return [str(gain) for gain in found if min(gain.shares) >= 1 - _CLOSE]


def verdict(found: Sequence[Gain]) -> str:
    """What of the paper's two gains these rows show, in sentences for docs/performance.md."""
    both, nearest = two_sided(found), min(found, key=lambda gain: gain.distance)
    reached = like_the_paper(found)
    shares = " and ".join(f"{share:.0%}" for share in nearest.shares)
    first = f"Rows in which both are the paper's: {'; '.join(both)}." if both else "No row has both gains of the paper."
    lines = [
        f"{first} (A gain counts as the paper's if what it is above one is within {_CLOSE:.0%} of it, above or below.)",
        f"The nearest row is {nearest}: its gains over weight- and output-stationary are {shares} of the paper's.",
        f"Rows in which both are at least {1 - _CLOSE:.0%} of the paper's, however far above: {'; '.join(reached) or 'none'}.",
    ]
    return "\n".join(lines)
