"""What a training step needs of a board's memory, which processor and accelerator share.

Weights stay in float32 unless they are released; those of offloaded layers are there as int8 too. What is kept for the backward pass is traced
(`step_trace.Trace`), and so are shapes; how the device's copies lie is that of `offloading/layer_writer.py`, rows in whole bus words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from systolora.hls.boards import BOARD_TABLE
from systolora.hls.check import round_up
from systolora.hls.config import FLOAT_BYTES
from systolora.hls.isa import INSTRUCTION_BYTES

from .step_trace import AttentionCall, Call, ConvolutionCall, LinearCall
from .workloads import Workload

SYSTEM_BYTES = 700 << 20
"""Linux, Python, torch and diffusers: an assumption, to be replaced by a measurement on a board."""

_MOMENTS = 2
_SCORES_AT_ONCE = 4
"""grad_p, its product with p, that of p with the sums, and grad_s: what the softmax's gradient holds beside p."""


@dataclass(frozen=True)
class Footprint:
    """Bytes by what they are for.

    Attributes:
        parts: name to bytes. releasable: of the float32 weights, those that the device has as int8 too, where they are kept.
        board: of BOARD_TABLE, or "". board_bytes: its memory, 0 without a board.
    """

    parts: Mapping[str, int]
    releasable: int = 0
    board: str = ""
    board_bytes: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool | None:
        """Whether the board has so much; None without a board."""
        return self.total <= self.board_bytes if self.board else None

    def warning(self) -> str:
        """One line if it does not fit, else ""."""
        if self.fits is not False:
            return ""
        largest = sorted(self.parts.items(), key=lambda part: -part[1])[:3]
        return (
            f"warning: the step needs {self.total / 1e9:.2f} GB and {self.board} has {self.board_bytes / 1e9:.2f} GB: "
            f"{', '.join(f'{name} {size / 1e9:.2f}' for name, size in largest)} GB are the largest parts"
            + (f"; --release-weights saves {self.releasable / 1e9:.2f} GB" if self.releasable else "")
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "parts": dict(self.parts),
            "bytes": self.total,
            "bytes_with_released_weights": self.total - self.releasable,
            "board_bytes": self.board_bytes or None,
            "fits": self.fits,
        }


def step_footprint(
    workload: Workload,
    rank: int,
    bus_bytes: int,
    board: str = "",
    release_weights: bool = False,
    transfer_bytes: int = FLOAT_BYTES,
) -> Footprint:
    """What a step needs.

    Args:
        rank: of the adapter. bus_bytes: of the array's ports. board: of BOARD_TABLE, or "".
        release_weights: frozen weights of offloaded layers are kept as int8 only, as `offload(release_weights=True)` does.
        transfer_bytes: of an element of the activations and gradients that cross.

    Raises:
        ValueError: for a list of GEMMs.
    """
    if workload.trace is None:
        raise ValueError("a list of GEMMs says nothing of memory")
    layers = _layers(workload)
    twice = FLOAT_BYTES * sum(_weights(call) for call in layers)
    instructions = workload.gemm_count + sum(item.count for item in workload.quantizes)
    parts = {
        "float32 weights": FLOAT_BYTES * workload.parameters - (twice if release_weights else 0),
        "int8 weights": sum(_int8_weight(call, bus_bytes) for call in layers),
        "adapter, gradients, optimizer": FLOAT_BYTES * (2 + _MOMENTS) * workload.trainable,
        "activations kept for backward": workload.trace.kept_bytes + _int8_copies(workload, rank, bus_bytes),
        "probabilities of attention": sum(_probabilities(call, transfer_bytes) for call in workload.calls),
        "buffers and scores at work": max(
            (_at_work(call, bus_bytes, transfer_bytes) for call in workload.calls), default=0
        ),
        "programs": INSTRUCTION_BYTES * instructions,
        "system and libraries, assumed": SYSTEM_BYTES,
    }
    return Footprint(
        parts=parts,
        releasable=0 if release_weights else twice,
        board=board,
        board_bytes=BOARD_TABLE[board].dram_mb << 20 if board else 0,
    )


def _layers(workload: Workload) -> list[LinearCall | ConvolutionCall]:
    """The layers on the device, each once however often it is called."""
    calls = {call.name: call for call in workload.calls if not isinstance(call, AttentionCall)}
    return list(calls.values())


def _weights(call: LinearCall | ConvolutionCall) -> int:
    if isinstance(call, LinearCall):
        return call.in_features * call.out_features
    return call.kernel[0] * call.kernel[1] * call.in_channels * call.out_channels


def _int8_weight(call: LinearCall | ConvolutionCall, bus: int) -> int:
    """Bytes of a weight on the device, its scale in a bus word; rows as `layer_writer.Residents` and `convolution_programs` have them."""
    if isinstance(call, LinearCall):
        return call.out_features * round_up(call.in_features, bus) + bus
    if call.pixelwise:
        return call.out_channels * round_up(call.in_channels, bus) + bus
    taps = call.kernel[0] * call.kernel[1]
    return taps * round_up(call.in_channels, bus) * round_up(call.out_channels, bus) + bus


def _int8_copies(workload: Workload, rank: int, bus: int) -> int:
    """The copies of x, one for all layers that share it, and of h, which wait on the device for an adapter's gradients."""
    adapted = [call for call in workload.calls if isinstance(call, LinearCall) and call.adapted]
    inputs = {call.source: call.tokens * round_up(call.in_features, bus) for call in adapted}
    return sum(inputs.values()) + sum(call.tokens * round_up(rank, bus) for call in adapted)


def _probabilities(call: Call, element: int) -> int:
    """What offloaded attention keeps: p, of the bytes an element that it crosses in."""
    if not isinstance(call, AttentionCall) or not call.needs_backward:
        return 0
    return element * call.heads * call.queries * call.keys


def _at_work(call: Call, bus: int, element: int) -> int:
    """The most that a call's programs and what surrounds them hold at once: sources, results, and int8 copies of sources.

    A result that does not cross in float32 is there in float32 too.
    """
    result = element if element == FLOAT_BYTES else element + FLOAT_BYTES
    if isinstance(call, AttentionCall):
        scores = call.heads * call.queries * call.keys
        backward = (_SCORES_AT_ONCE - 1) * FLOAT_BYTES + result
        return (backward if call.needs_backward else 2 * element) * scores + 2 * scores
    if isinstance(call, ConvolutionCall):
        sides = (
            (call.batch * call.height * call.width, call.in_channels),
            (
                call.batch * call.out_height * call.out_width,
                call.out_channels,
            ),
        )
    else:
        sides = (call.tokens, call.in_features), (call.tokens, call.out_features)
    copies = max(rows * round_up(cols, bus) for rows, cols in sides)
    sizes = [rows * cols for rows, cols in sides]
    return copies + element * sum(sizes) + (result - element) * max(sizes)
