"""One LoRA training step of a published model, or of any diffusers model folder, as the GEMMs that it consists of."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from systolora.errors import UserError
from systolora.hls.isa import Result
from systolora.models.configs import ModelSpec, build_model, model_spec, step_inputs
from systolora.offloading.targets import TARGETS, adaptable_names, layer_names
from torch import nn

from .layer_calls import AttentionCall, Call, LinearCall, record_calls
from .step_gemms import PHASES, StepGemm, StepQuantize, StepWriter, Work


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
    """

    spec: ModelSpec
    parameters: int
    trainable: int
    layers: int
    gemms: tuple[Distinct, ...]
    quantizes: tuple[DistinctQuantize, ...]
    order: tuple[Work, ...]

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
    """What a traced step depends on, the model aside; see `trace_workload`."""

    targets: str = "kv"
    adapt: str = "kv"
    rank: int = 4
    batch: int = 1
    resolution: int = 0
    bus_bytes: int = 16
    result: Result = Result.FLOAT32


def trace_workload(name: str, options: StepOptions) -> Workload:
    """Traces one training step.

    Args:
        name: one of `model_configs.MODELS`, or a folder.
        options: targets: layers that run on the accelerator, one of `TARGETS`; adapt: layers that get an adapter, one of the first three;
            resolution: pixels, 0 for the model's own; bus_bytes: channels of convolutions are padded to it; result: what
            GEMMs write and quantizations read.

    Raises:
        UserError: for a model, a target or a size that is not allowed.
    """
    _check(options)
    spec = model_spec(name)
    model = build_model(spec)
    inputs = step_inputs(spec, model, options.batch, options.resolution or spec.resolution)
    calls = record_calls(model, inputs, adapted_names(model, options.adapt).__contains__)
    wanted = layer_names(model, options.targets)
    chosen = [call for call in calls if _is_wanted(call, options.targets, wanted)]
    if not chosen:
        raise UserError(f"no layer of {spec.title} matches --targets {options.targets}")
    writer = StepWriter(options.rank, options.bus_bytes, options.result)
    order = tuple(work for call in chosen for work in writer.work(call))
    gemms, quantizes = distinct_work(order)
    adapters = [call for call in calls if isinstance(call, LinearCall) and call.adapted]
    return Workload(
        spec=spec,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trainable=sum(options.rank * (call.in_features + call.out_features) for call in adapters),
        layers=sum(not isinstance(call, AttentionCall) for call in chosen),
        gemms=gemms,
        quantizes=quantizes,
        order=order,
    )


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


def adapted_names(model: nn.Module, adapt: str) -> frozenset[str]:
    """Names of the linear layers that get an adapter: every one for "linear", else as `offload(model, adapt, rank=...)` does."""
    return layer_names(model, adapt) if adapt == "linear" else frozenset(adaptable_names(model, adapt))


def _is_wanted(call: Call, targets: str, wanted: Collection[str]) -> bool:
    """Whether a call runs on the accelerator; for "all", the products of attention as well."""
    return targets == "all" or isinstance(call, LinearCall) and call.name in wanted


def _check(options: StepOptions) -> None:
    for name, allowed in (("targets", TARGETS), ("adapt", TARGETS[:-1])):
        if getattr(options, name) not in allowed:
            raise UserError(f"--{name} {getattr(options, name)!r}: allowed are {', '.join(allowed)}")
    for name in ("rank", "batch"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: it must be at least 1")
    if options.resolution < 0:
        raise UserError(f"--resolution {options.resolution}: it must not be negative; 0 means the model's own")
