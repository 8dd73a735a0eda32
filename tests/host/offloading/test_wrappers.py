"""What torch, diffusers, accelerate and peft do to a module, before and after `offload`: results, what ran, and `undo`.

The table of docs/training.md is this one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from systolora.offloading.peft_layers import is_offloaded
from systolora.offloading.report import OffloadReport
from systolora.offloading.targets import OffloadError
from torch import nn

from .wrapped import (
    ERROR,
    HOOKS,
    LINEAR,
    META,
    WRAPPED,
    Net,
    accelerate_hooks,
    accelerate_hooks_removed,
    adapted_outside,
    backward_hooks,
    compiled,
    copied,
    data_parallel,
    dispatched,
    exported,
    forward_hooks,
    fused,
    group_offload,
    in_bfloat16,
    layerwise_casting,
    make,
    moving_average,
    nothing,
    own_forward,
    parametrization_removed,
    parametrized,
    relative,
    run,
    spectral_norm_old,
    traced,
    weight_norm_new,
    weight_norm_old,
    weights_on_meta,
    wrap,
)


@dataclass(frozen=True)
class Row:
    """What is done to a model, and why its plain and its adapted layers then run in torch; "" if on the device.

    Attributes:
        before, after: reasons when it is done before and after offload; None where that cannot be.
    """

    act: Callable[[Net], nn.Module]
    before: tuple[str, str] | None = ("", "")
    after: tuple[str, str] | None = ("", "")


ROWS = [
    Row(nothing),
    Row(forward_hooks, ("", HOOKS), ("", HOOKS)),
    Row(backward_hooks, ("", HOOKS), ("", HOOKS)),
    Row(layerwise_casting),
    Row(group_offload, ("", WRAPPED), ("", WRAPPED)),
    Row(accelerate_hooks, ("", WRAPPED), ("", WRAPPED)),
    Row(accelerate_hooks_removed),
    Row(dispatched, ("", WRAPPED), ("", WRAPPED)),
    Row(weights_on_meta, ("", META), ("", META)),
    Row(
        parametrized,
        ("a ParametrizedLinear is not", "a ParametrizedLinear is not"),
        ("", "a ParametrizedLinear is not"),
    ),
    Row(parametrization_removed),
    Row(
        weight_norm_new,
        ("a ParametrizedLinear is not", "a ParametrizedLinear is not"),
        ("", "a ParametrizedLinear is not"),
    ),
    Row(spectral_norm_old, ("", HOOKS), ("", HOOKS)),
    Row(weight_norm_old, ("the weight is trainable", "the weight is trainable"), ("", "the weight is trainable")),
    Row(moving_average),
    Row(copied, after=None),
    Row(compiled),
    Row(data_parallel, before=None),
    Row(traced, before=None, after=("the model is being traced",) * 2),
    Row(exported, before=None, after=("the model is being traced",) * 2),
    Row(in_bfloat16),
    Row(adapted_outside, ("", WRAPPED), ("", WRAPPED)),
    Row(
        own_forward,
        ("its forward was replaced on the instance", WRAPPED),
        ("its forward was replaced after offload", WRAPPED),
    ),
]

CASES = [
    pytest.param(row.act, when, adapted, reasons, id=f"{row.act.__name__}-{when}-{'adapted' if adapted else 'plain'}")
    for row in ROWS
    for when, reasons in (("before", row.before), ("after", row.after))
    for adapted in (False, True)
    if reasons is not None
]


def reasons_of(report: OffloadReport) -> set[str]:
    return {why for _, why in report.skipped} | {why for _, why in report.fallbacks}


@pytest.mark.parametrize(("act", "when", "adapted", "reasons"), CASES)
def test_the_result_is_the_float_model_s_and_the_report_says_what_ran(
    act: Callable[[Net], nn.Module], when: str, adapted: bool, reasons: tuple[str, str]
) -> None:
    expected = run(act(make(adapted)))
    wanted = {why for why in (reasons if adapted else reasons[:1]) if why}
    try:
        model, handle = wrap(act, when, adapted)
    except OffloadError as error:
        assert when == "before" and len(wanted) == 1 and wanted.pop() in str(error), "no layer is left for the device"
        return
    got = run(model)
    assert all(relative(a, b) < ERROR for a, b in zip(got, expected, strict=True))
    report = handle.report()
    found = reasons_of(report)
    assert len(found) == len(wanted) and all(any(why.startswith(w) for why in found) for w in wanted), str(report)
    assert not report.not_called
    assert report.int8["forward_base"] == LINEAR - len(report.skipped) - len(report.fallbacks)
    assert (report.mac_share == 1.0) == (not found) and (report.mac_share > 0) == (report.int8["forward_base"] > 0)
    handle.undo()
    assert not any(is_offloaded(module) or "systolora_layer" in vars(module) for module in model.modules())
    for a, b in zip(run(model), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("when", ["before", "after"])
def test_fused_projections_run_or_are_named(when: str) -> None:
    expected = run(fused(make()))
    model, handle = wrap(fused, when, adapted=False)
    assert all(relative(a, b) < ERROR for a, b in zip(run(model), expected, strict=True))
    report = handle.report()
    if when == "before":  # to_qkv, to_kv, two to_out, the second to_q, head and feed-forward
        assert report.int8["forward_base"] == 8 and len(report.skipped) == 5 and report.mac_share == 1.0
    else:
        assert report.int8["forward_base"] == 6 and 0.5 < report.mac_share < 0.9
        assert report.not_called == tuple(f"block.attn{i}.to_{c}" for i, c in ("1q", "1k", "1v", "2k", "2v"))
        assert "never called so far: 5 layers, such as block.attn1.to_q" in str(report)
    handle.undo()
    assert all(relative(a, b) < 1e-5 for a, b in zip(run(model), expected, strict=True))
