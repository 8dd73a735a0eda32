"""`train` and `simulate` mean the same: one declaration of their options, and the GEMMs of a real step are those that are traced."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace

import pytest
from systolora.assets import pipeline_folder
from systolora.cost.settings import SimulateSettings
from systolora.cost.workloads import StepOptions, trace_workload
from systolora.errors import UserError
from systolora.hls.isa import Gemm, OperandA
from systolora.models.pipeline import PipelineParts
from systolora.offloading.target_names import TARGETS
from systolora.options import rule_of
from systolora.sim.functional.emulator import EmulatorDevice
from systolora.training.settings import TrainSettings, check_settings
from systolora.training.trainer import Trainer

SHARED = ("targets", "adapt", "attention_products", "rank")


def shape(op: Gemm) -> tuple[int, ...]:
    """What is multiplied, however it is tiled, in whichever dataflow, and whichever operand takes which place."""
    if op.scales_swapped:
        turned = {"transpose_a": not op.transpose_b, "transpose_b": not op.transpose_a}
        op = replace(op, m=op.n, n=op.m, **turned)  # type: ignore[arg-type]
    patches = (op.channels, op.kernel_height, op.kernel_width, op.step) if op.a_form == OperandA.PATCHES else ()
    return (
        op.m,
        op.n,
        op.k,
        op.transpose_a,
        op.transpose_b,
        op.accumulate,
        op.bias,
        op.a_form,
        op.b_form,
        op.result,
        *patches,
    )


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("targets", TARGETS)
def test_a_real_step_submits_the_gemms_that_simulate_traces(
    small: TrainSettings, loaded_parts: PipelineParts, targets: str, products: bool
) -> None:
    """The same options to both, all others as they are by default: the adapter's place included."""
    import copy

    options = {"targets": targets, "attention_products": products}
    submitted: Counter[tuple[int, ...]] = Counter()
    with EmulatorDevice() as device:
        device.trace = lambda program, index, op: submitted.update([shape(op)]) if isinstance(op, Gemm) else None
        run = replace(small, precision="int8", batch=1, checkpoint_every=0, **options)
        parts = replace(loaded_parts, unet=copy.deepcopy(loaded_parts.unet))
        trainer = Trainer(run, parts, device=device)
        assert not submitted
        trainer.step(0)
        trainer.close()
    resolution = SimulateSettings().resolution
    workload = trace_workload(str(pipeline_folder()), StepOptions(resolution=resolution, **options))
    traced: Counter[tuple[int, ...]] = Counter()
    for item in workload.gemms:
        traced[shape(item.gemm.op)] += item.count
    assert submitted - traced == Counter(), "submitted, but not in the model"
    assert traced - submitted == Counter(), "in the model, but not submitted"
    assert ("forward_scores" in {item.gemm.kind for item in workload.gemms}) is products


def test_options_of_the_same_name_have_the_same_default_and_choices() -> None:
    ours, theirs = ({item.name: item for item in fields(kind)} for kind in (TrainSettings, SimulateSettings))
    for name in SHARED:
        assert ours[name].default == theirs[name].default == {f.name: f.default for f in fields(StepOptions)}[name]
        assert set(rule_of(ours[name]).choices) <= set(rule_of(theirs[name]).choices)
    assert rule_of(ours["targets"]).choices == rule_of(theirs["targets"]).choices == TARGETS


@pytest.mark.parametrize("changes", [{"precision": "float32"}, {"method": "intlora-mul", "targets": "kv"}])
def test_attention_products_without_a_device_for_them_are_refused(
    small: TrainSettings, changes: dict[str, str]
) -> None:
    given = replace(small, **{"precision": "int8", "attention_products": True, **changes})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="--attention-products goes with --method lora and --precision int8"):
        check_settings(given)
