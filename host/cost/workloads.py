"""One LoRA training step as the GEMMs and quantizations that it consists of; traced from a model (`tracing`), or a list (`gemm_list`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from systolora.hls.isa import Result
from systolora.models.configs import ModelSpec
from systolora.offloading.target_names import TRAINING_TRANSFER_TYPE

from .step_gemms import PHASES, StepGemm, StepQuantize, Work
from .step_trace import Call, Trace


@dataclass(frozen=True)
class Distinct:
    """GEMMs of a step that are alike: same shape, flags and place in the step."""

    gemm: StepGemm
    count: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates that the step needs of all of them."""
        return self.count * self.gemm.macs


@dataclass(frozen=True)
class DistinctQuantize:
    """Quantizations of a step that are alike."""

    quantize: StepQuantize
    count: int


@dataclass(frozen=True)
class Workload:
    """One training step.

    Attributes:
        spec: the model. parameters, trainable: how many it has, and its adapter.
        gemms, quantizes: distinct ones with their counts, in the order in which they first occur.
        layers: how many layers run on the accelerator.
        order: all of it call by call, in the order of the forward; each call's backward follows its forward.
        calls: the calls that it belongs to. host_calls: the multiplications that the processor does instead.
        host_macs: multiply-accumulates of those.
        trace: of the model; what the processor computes beside products. None for a list of GEMMs.
    """

    spec: ModelSpec
    parameters: int
    trainable: int
    layers: int
    gemms: tuple[Distinct, ...]
    quantizes: tuple[DistinctQuantize, ...]
    order: tuple[Work, ...]
    calls: tuple[Call, ...] = ()
    host_calls: tuple[Call, ...] = ()
    host_macs: int = 0
    trace: Trace | None = None

    def macs(self, phase: str = "") -> int:
        """Multiply-accumulates of a phase (one of `PHASES`), or of the step."""
        return sum(item.macs for item in self.gemms if phase in ("", item.gemm.phase))

    @property
    def gemm_count(self) -> int:
        """GEMMs in the step."""
        return sum(item.count for item in self.gemms)

    def macs_by_phase(self) -> dict[str, int]:
        """Phase -> multiply-accumulates."""
        return {phase: self.macs(phase) for phase in PHASES}


@dataclass(frozen=True)
class StepOptions:
    """What a traced step depends on, the model aside; see `tracing.trace_workload`.

    What `targets`, `adapt` and `attention_products` leave out is as in `offload` and `systolora train`.
    """

    targets: str = "kv"
    adapt: str = ""
    attention_products: bool = False
    rank: int = 4
    batch: int = 1
    resolution: int = 0
    bus_bytes: int = 16
    result: Result = Result[TRAINING_TRANSFER_TYPE.upper()]


def distinct_work(order: Iterable[Work]) -> tuple[tuple[Distinct, ...], tuple[DistinctQuantize, ...]]:
    """What is alike in some work, counted, in the order in which it first occurs."""
    gemms: dict[StepGemm, Distinct] = {}
    quantizes: dict[StepQuantize, DistinctQuantize] = {}
    for work in order:
        if isinstance(work, StepGemm):
            gemm = replace(work, layer="")
            count = gemms[gemm].count if gemm in gemms else 0
            gemms[gemm] = Distinct(gemms[gemm].gemm if count else work, count + work.repeats)
        else:
            quantize = replace(work, layer="")
            count = quantizes[quantize].count if quantize in quantizes else 0
            quantizes[quantize] = DistinctQuantize(
                quantizes[quantize].quantize if count else work, count + work.repeats
            )
    return tuple(gemms.values()), tuple(quantizes.values())
