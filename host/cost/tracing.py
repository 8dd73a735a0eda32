"""One LoRA training step of a published model, or of any diffusers model folder, traced: as the workload that it consists of."""

from __future__ import annotations

from collections.abc import Iterable

from systolora.errors import UserError
from systolora.models.configs import build_model, model_spec, step_inputs
from systolora.offloading.attention import attention_modules
from systolora.offloading.target_names import ADAPTED, TARGETS, adapted_by
from systolora.offloading.targets import adaptable_names, layer_names, select
from torch import nn

from .layer_calls import record_step
from .step_gemms import StepGemm, StepWriter
from .step_trace import AttentionCall, Call, LinearCall, Placement
from .workloads import StepOptions, Workload, distinct_work


def trace_workload(name: str, options: StepOptions) -> Workload:
    """Traces one training step.

    Args:
        name: one of `model_configs.MODELS`, or a folder.
        options: targets: layers that run on the accelerator, one of `TARGETS`; adapt: layers that get an adapter, one of `ADAPTED`, or
            "linear", or "" for what goes with the targets; attention_products: those of attention run there too;
            resolution: pixels, 0 for the model's own; bus_bytes: channels of convolutions are padded to it; result: what
            GEMMs write and quantizations read.

    Raises:
        UserError: for a model, a target or a size that is not allowed.
    """
    _check(options)
    spec = model_spec(name)
    model = build_model(spec)
    inputs = step_inputs(spec, model, options.batch, options.resolution or spec.resolution)
    placement = _placement(model, options)
    trace = record_step(model, inputs, placement)
    chosen = tuple(call for call in trace.calls if placement.on_device(call))
    left = tuple(call for call in trace.calls if not placement.on_device(call))
    writer = StepWriter(options.rank, options.bus_bytes, options.result)
    order = tuple(work for call in chosen for work in writer.work(call))
    gemms, quantizes = distinct_work(order)
    adapters = [call for call in trace.calls if isinstance(call, LinearCall) and call.adapted]
    return Workload(
        spec=spec,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trainable=sum(options.rank * (call.in_features + call.out_features) for call in adapters),
        layers=sum(not isinstance(call, AttentionCall) for call in chosen),
        gemms=gemms,
        quantizes=quantizes,
        order=order,
        calls=chosen,
        host_calls=left,
        host_macs=_host_macs(left, options),
        trace=trace,
    )


def adapted_names(model: nn.Module, adapt: str) -> frozenset[str]:
    """Names of the linear layers that get an adapter: every one for "linear", else as `offload(model, adapt, rank=...)` does."""
    return layer_names(model, adapt) if adapt == "linear" else frozenset(adaptable_names(model, adapt))


def _placement(model: nn.Module, options: StepOptions) -> Placement:
    """What `offload` would take of the model."""
    return Placement(
        adapted=adapted_names(model, adapted_by(options.targets, options.adapt)),
        layers=frozenset(name for name, _ in select(model, options.targets).chosen),
        attention=frozenset(name for name, _ in attention_modules(model))
        if options.attention_products
        else frozenset(),
    )


def _host_macs(calls: Iterable[Call], options: StepOptions) -> int:
    """Multiply-accumulates of calls that the processor does; torch's fused attention computes the scores again in its backward."""
    writer = StepWriter(options.rank, options.bus_bytes, options.result)
    macs = 0
    for call in calls:
        macs += sum(work.macs * work.repeats for work in writer.work(call) if isinstance(work, StepGemm))
        if isinstance(call, AttentionCall) and call.needs_backward:
            macs += call.heads * call.queries * call.keys * call.width
    return macs


def _check(options: StepOptions) -> None:
    for name, allowed in (("targets", TARGETS), ("adapt", ("", *ADAPTED, "linear"))):
        if getattr(options, name) not in allowed:
            raise UserError(f"--{name} {getattr(options, name)!r}: allowed are {', '.join(filter(None, allowed))}")
    for name in ("rank", "batch"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: it must be at least 1")
    if options.resolution < 0:
        raise UserError(f"--resolution {options.resolution}: it must not be negative; 0 means the model's own")
