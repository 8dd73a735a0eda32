"""`train` and `simulate` mean the same: one declaration of their options, and the GEMMs and QUANTIZEs of a real step are those that are traced."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace

import pytest
from systolora.assets import pipeline_folder
from systolora.cost.run import step_options
from systolora.cost.settings import SimulateSettings
from systolora.cost.tracing import trace_workload
from systolora.cost.workloads import StepOptions
from systolora.errors import UserError
from systolora.hls.isa import Gemm, OperandA, Quantize, Result
from systolora.models.pipeline import PipelineParts
from systolora.offloading.target_names import TARGETS, TRANSFER_TYPES
from systolora.options import rule_of
from systolora.sim.functional.device import Program
from systolora.sim.functional.emulator import EmulatorDevice
from systolora.training.settings import TrainSettings, check_settings
from systolora.training.trainer import Trainer

TRAIN, SIMULATE = ({item.name: item for item in fields(kind)} for kind in (TrainSettings, SimulateSettings))
SHARED = ("targets", "adapt", "attention_products", "rank")


def shape(op: Gemm) -> tuple[object, ...]:
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


def quantized(op: Quantize) -> tuple[object, ...]:
    """What is quantized, from which type."""
    return ("quantize", op.m, op.n, op.source, op.axis)


CASES = [
    *((targets, products, "") for targets in TARGETS for products in (False, True)),
    ("kv", False, "float32"),
    ("all", True, "float32"),
]


@pytest.mark.parametrize(("targets", "products", "crossing"), CASES)
def test_a_real_step_submits_what_simulate_traces(
    small: TrainSettings, loaded_parts: PipelineParts, targets: str, products: bool, crossing: str
) -> None:
    """The same options to both, all others as they are by default: the adapter's place and what crosses included."""
    import copy

    options = {"targets": targets, "attention_products": products}
    submitted: Counter[tuple[object, ...]] = Counter()

    def note(program: Program, index: int, op: object) -> None:
        if isinstance(op, Gemm):
            submitted.update([shape(op)])
        elif isinstance(op, Quantize) and ": weight," not in program.labels[index]:  # done once a run
            submitted.update([quantized(op)])

    with EmulatorDevice() as device:
        device.trace = note
        run = replace(small, precision="int8", batch=1, checkpoint_every=0, **options)
        run = replace(run, transfer_type=crossing) if crossing else run
        parts = replace(loaded_parts, unet=copy.deepcopy(loaded_parts.unet))
        trainer = Trainer(run, parts, device=device)
        assert not submitted
        trainer.step(0)
        trainer.close()
    theirs = SimulateSettings(workload=str(pipeline_folder()), **options)
    theirs = replace(theirs, result=crossing) if crossing else theirs
    workload = trace_workload(theirs.workload, step_options(theirs))
    traced: Counter[tuple[object, ...]] = Counter()
    for item in workload.gemms:
        traced[shape(item.gemm.op)] += item.count
    for each in workload.quantizes:
        traced[quantized(each.quantize.op)] += each.count
    assert submitted - traced == Counter(), "submitted, but not in the model"
    assert traced - submitted == Counter(), "in the model, but not submitted"
    assert ("forward_scores" in {item.gemm.kind for item in workload.gemms}) is products


def test_options_of_the_same_name_have_the_same_default_and_choices() -> None:
    ours, theirs = TRAIN, SIMULATE
    for name in SHARED:
        assert ours[name].default == theirs[name].default == {f.name: f.default for f in fields(StepOptions)}[name]
        assert set(rule_of(ours[name]).choices) <= set(rule_of(theirs[name]).choices)
    assert rule_of(ours["targets"]).choices == rule_of(theirs["targets"]).choices == TARGETS


def test_what_crosses_is_called_result_in_simulate_and_is_bfloat16_in_both_by_default() -> None:
    ours, theirs = rule_of(TRAIN["transfer_type"]), rule_of(SIMULATE["result"])
    assert ours.choices == theirs.choices == TRANSFER_TYPES
    assert TRAIN["transfer_type"].default == SIMULATE["result"].default == "bfloat16"
    assert StepOptions().result == step_options(SimulateSettings()).result == Result.BFLOAT16


@pytest.mark.parametrize("changes", [{"precision": "float32"}, {"method": "intlora-mul", "targets": "kv"}])
def test_attention_products_without_a_device_for_them_are_refused(
    small: TrainSettings, changes: dict[str, str]
) -> None:
    given = replace(small, **{"precision": "int8", "attention_products": True, **changes})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="--attention-products goes with --method lora and --precision int8"):
        check_settings(given)
