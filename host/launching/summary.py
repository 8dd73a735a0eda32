"""What a launch says at the end: which models were offloaded, what ran where, and what was not offloaded and why."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from systolora.offloading.report import OffloadReport  # it loads torch, which a script may not even have

MADE_BY = "systolora launch"
"""Stands in the JSON report, so that the next launch knows its own file."""


@dataclass(frozen=True)
class Summary:
    """What a launch did.

    Attributes:
        models: (class, report) of the offloaded ones. refused: (class, reason) of those that could not be.
        optimizers: how many the script made.
    """

    models: tuple[tuple[str, OffloadReport], ...]
    refused: tuple[tuple[str, str], ...]
    optimizers: int

    @property
    def ran(self) -> bool:
        """Whether any GEMM ran on the device."""
        return any(sum(report.int8.values()) for _, report in self.models)

    def __str__(self) -> str:
        lines = [f"{name}: {report}" for name, report in self.models]
        lines += [f"NOT offloaded: {name}: {reason}" for name, reason in self.refused]
        if not self.models:
            lines.append(f"NOTHING WAS OFFLOADED: {self._why()}; the script ran in torch alone")
        elif not self.ran:
            lines.append("NOTHING RAN ON THE DEVICE: no forward pass came to an offloaded layer")
        if _processes() > 1:
            lines.append(f"these are the counts of the first of {_processes()} processes")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "made_by": MADE_BY,
            "ran_on_device": self.ran,
            "optimizers": self.optimizers,
            "processes": _processes(),
            "models": [{"class": name, **_facts(report)} for name, report in self.models],
            "not_offloaded": [{"class": name, "reason": reason} for name, reason in self.refused],
        }

    def _why(self) -> str:
        if not self.optimizers:
            return "the script made no torch optimizer"
        if self.refused:
            return "no model could be"
        return "the parameters of its optimizers belong to no torch module"


def _facts(report: OffloadReport) -> dict[str, Any]:
    return {
        "device": report.device,
        "mac_share": round(report.mac_share, 6),
        "adapted": list(report.adapted),
        "frozen": list(report.frozen),
        "skipped": [{"layer": name, "reason": reason} for name, reason in report.skipped],
        "not_called": list(report.not_called),
        "int8_gemms": report.int8,
        "int8_macs": report.int8_macs,
        "torch_macs": report.host_macs,
        "fallbacks": [
            {"layer": layer, "reason": reason, "calls": calls} for (layer, reason), calls in report.fallbacks.items()
        ],
    }


def _processes() -> int:
    """Of the run, of which this is one, as torchrun and accelerate say."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def say(text: str) -> None:
    """A line, or more, on standard error, from the first process of a run alone."""
    if os.environ.get("RANK", "0") == "0":
        for line in text.splitlines():
            print(f"systolora launch: {line}", file=sys.stderr, flush=True)
