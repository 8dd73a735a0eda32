"""What was offloaded and what ran where: a report made from the counters of the layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from .layer import OffloadedLayer
from .quantization import GEMM_KINDS

_FORWARD = tuple(kind for kind in GEMM_KINDS if kind.startswith("forward"))


@dataclass(frozen=True)
class OffloadReport:
    """What an offload has done so far.

    Attributes:
        adapted, frozen: names of the offloaded layers with and without adapter.
        skipped: adapted or targeted layers that were left in torch, with the reason.
        int8, float32: GEMMs by kind that ran on the device, and in torch because their kind is switched off.
        int8_macs, float32_macs: their multiply-accumulates, by kind, without what gradient checkpointing repeats.
        host_macs: multiply-accumulates, forward, of the Linear and convolution layers that ran in torch: the other ones, and
            offloaded ones whose calls fell back; without what gradient checkpointing repeats.
        fallbacks: calls of offloaded layers that ran in torch altogether: (layer, reason) to how often.
        device: name of the device. device_bytes: its memory in use.
        not_called: offloaded layers that no forward has come to yet, once others ran.
        released: layers whose frozen weight exists on the device only.
        transfers: in which type activations and gradients cross, in words.
    """

    adapted: tuple[str, ...]
    frozen: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    int8: dict[str, int]
    float32: dict[str, int]
    int8_macs: dict[str, int]
    float32_macs: dict[str, int]
    host_macs: int
    fallbacks: dict[tuple[str, str], int]
    device: str
    device_bytes: int
    not_called: tuple[str, ...] = ()
    released: int = 0
    transfers: str = ""

    @property
    def mac_share(self) -> float:
        """Share (0 to 1) of the forward multiply-accumulates of Linear and convolution layers that ran on the device.

        The products inside attention are in neither number. 0 before the first forward pass.
        """
        device = sum(self.int8_macs.get(kind, 0) for kind in _FORWARD)
        total = device + self.host_macs + sum(self.float32_macs.get(kind, 0) for kind in _FORWARD)
        return device / total if total else 0.0

    def __str__(self) -> str:
        lines = [
            f"offloaded to {self.device}: {len(self.adapted)} adapted and {len(self.frozen)} frozen layers, "
            f"{self.device_bytes / 2**20:.1f} MiB of device memory in use",
            f"INT8 GEMMs: {_counts(self.int8)}",
        ]
        if any(self.float32.values()):
            lines.append(f"float32 GEMMs (kind switched off): {_counts(self.float32)}")
        lines.append(
            f"share of the forward multiply-accumulates of Linear and convolution layers: {100 * self.mac_share:.2f} %"
        )
        if self.transfers:
            lines.append(self.transfers)
        if self.released:
            lines.append(f"frozen weights kept as INT8 only: {self.released} layers")
        reasons: Counter[str] = Counter(reason for _, reason in self.skipped)
        lines += [f"left in torch: {count} layers, {reason}" for reason, count in reasons.items()]
        if self.not_called:
            lines.append(f"never called so far: {len(self.not_called)} layers, such as {self.not_called[0]}")
        calls: Counter[str] = Counter()
        for (_, reason), count in self.fallbacks.items():
            calls[reason] += count
        lines += [f"fell back to torch: {count} calls, {reason}" for reason, count in calls.items()]
        return "\n".join(lines)


def sum_by_kind(layers: Iterable[OffloadedLayer], name: str) -> dict[str, int]:
    """One of the counters of `OffloadedLayer`, summed over layers, for every kind of GEMM_KINDS and those of attention that ran."""
    total: Counter[str] = Counter()
    for layer in layers:
        total.update(getattr(layer, name))
    return {kind: total[kind] for kind in (*GEMM_KINDS, *(kind for kind in total if kind not in GEMM_KINDS))}


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in counts.items() if count) or "none yet"
