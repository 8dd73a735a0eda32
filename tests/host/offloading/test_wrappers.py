"""What torch, diffusers, accelerate and peft do to a module, before and after `offload`: results, what ran, and `undo`.

The table of docs/training.md is this one.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import systolora
import torch
from accelerate import cpu_offload, dispatch_model
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from diffusers import Flux2Transformer2DModel
from diffusers.hooks import apply_group_offloading, apply_layerwise_casting
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import FusedAttnProcessor2_0
from diffusers.training_utils import EMAModel
from peft import LoraConfig, inject_adapter_in_model
from systolora.offloading.attention import attention_modules
from systolora.offloading.peft_layers import is_offloaded
from systolora.offloading.report import OffloadReport
from systolora.offloading.targets import OffloadError
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

ERROR = 0.03
"""Largest relative difference (2-norm) from the float model to which the same was done: INT8 through ten layers in a row."""
LINEAR = 11


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class Net(nn.Module):
    """A transformer block of diffusers between two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 16)
        self.block = BasicTransformerBlock(16, 2, 8, cross_attention_dim=24, activation_fn="gelu")

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        return self.block(self.head(x), encoder_hidden_states=text)


def make(adapted: bool = False) -> Net:
    torch.manual_seed(0)
    model = Net().requires_grad_(False)
    if adapted:
        torch.manual_seed(1)
        config = LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
        inject_adapter_in_model(config, model)
    return model


def run(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Output, and gradient of the input."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(2, 9, 16, generator=generator, requires_grad=True)
    text = torch.randn(2, 5, 24, generator=generator)
    y = model(x, text)
    y.float().square().mean().backward()
    assert x.grad is not None
    return y.detach().float(), x.grad.float()


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def leaves(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


class Scaled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 1.1 * weight


def nothing(model: Net) -> nn.Module:
    return model


def forward_hooks(model: Net) -> nn.Module:
    for layer in leaves(model):
        layer.register_forward_pre_hook(lambda _, inputs: (1.5 * inputs[0],))
        layer.register_forward_hook(lambda _, __, output: 0.7 * output)
    return model


def backward_hooks(model: Net) -> nn.Module:
    for layer in leaves(model):
        layer.register_full_backward_hook(lambda _, grads, __: tuple(None if g is None else 1.2 * g for g in grads))
    return model


def layerwise_casting(model: Net) -> nn.Module:
    skip = ("norm", "lora_A", "lora_B")  # as `enable_layerwise_casting` does
    apply_layerwise_casting(model, torch.float8_e4m3fn, torch.float32, skip_modules_pattern=skip)
    return model


def group_offload(model: Net) -> nn.Module:
    cpu = torch.device("cpu")
    apply_group_offloading(model, onload_device=cpu, offload_device=cpu, offload_type="leaf_level")
    return model


def accelerate_hooks(model: Net) -> nn.Module:
    for layer in leaves(model):
        add_hook_to_module(layer, ModelHook())
        add_hook_to_module(layer, ModelHook(), append=True)
    return model


def accelerate_hooks_removed(model: Net) -> nn.Module:
    remove_hook_from_module(accelerate_hooks(model), recurse=True)
    return model


def dispatched(model: Net) -> nn.Module:
    return dispatch_model(model, {"": "cpu"}, force_hooks=True)


def weights_on_meta(model: Net) -> nn.Module:
    return cpu_offload(model, torch.device("cpu"))


def parametrized(model: Net) -> nn.Module:
    for layer in leaves(model):
        parametrize.register_parametrization(layer, "weight", Scaled())
    return model


def parametrization_removed(model: Net) -> nn.Module:
    for layer in leaves(parametrized(model)):
        parametrize.remove_parametrizations(layer, "weight")
    return model


def weight_norm_new(model: Net) -> nn.Module:
    for layer in leaves(model):
        parametrizations.weight_norm(layer)
    return model.requires_grad_(False)


def weight_norm_old(model: Net) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for layer in leaves(model):
            weight_norm(layer)
    return model.requires_grad_(False)


def spectral_norm_old(model: Net) -> nn.Module:
    for layer in leaves(model):
        spectral_norm(layer, n_power_iterations=50)
        for hook in layer._forward_pre_hooks.values():
            hook(layer, ())  # in training mode it estimates the norm; in evaluation it keeps the estimate
    return model.requires_grad_(False).eval()


def fused(model: Net) -> nn.Module:
    for attention in (model.block.attn1, model.block.attn2):
        attention.fuse_projections()
        attention.set_processor(FusedAttnProcessor2_0())
    return model.requires_grad_(False)


def moving_average(model: Net) -> nn.Module:
    average = EMAModel(model.parameters(), decay=0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.2)
    average.step(model.parameters())
    average.store(model.parameters())
    average.copy_to(model.parameters())
    return model


def copied(model: Net) -> nn.Module:
    return copy.deepcopy(model)


def compiled(model: Net) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


def data_parallel(model: Net) -> nn.Module:
    return nn.DataParallel(model)


def traced(model: Net) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(model, (torch.randn(2, 9, 16), torch.randn(2, 5, 24)), check_trace=False)


def exported(model: Net) -> nn.Module:
    return torch.export.export(model, (torch.randn(2, 9, 16), torch.randn(2, 5, 24))).module()


def in_bfloat16(model: Net) -> nn.Module:
    model.register_forward_pre_hook(lambda _, inputs: tuple(x.bfloat16() for x in inputs))
    return model.to(torch.bfloat16)


def own_forward(model: Net) -> nn.Module:
    """A forward that never comes back to the layer's own."""
    for layer in leaves(model):
        layer.forward = lambda x, layer=layer: nn.functional.linear(x, layer.weight, layer.bias)  # type: ignore[method-assign]
    return model


class Outside(nn.Module):
    """An adapter as kohya's networks have it: outside the model, in the place of a layer's forward, which it calls."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.down = nn.Linear(layer.in_features, 2, bias=False)
        self.up = nn.Linear(2, layer.out_features, bias=False)
        self.org_forward = layer.forward
        layer.forward = self.forward  # type: ignore[method-assign]

    def forward(self, x: Tensor) -> Tensor:
        return self.org_forward(x) + self.up(self.down(x))


def adapted_outside(model: Net) -> nn.Module:
    torch.manual_seed(3)
    for layer in leaves(model):
        Outside(layer)
    return model


HOOKS, WRAPPED, META = (
    "the base layer has hooks",
    "the base layer's forward is wrapped",
    "the weight is on the meta device",
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


def wrap(act: Callable[[Net], nn.Module], when: str, adapted: bool) -> tuple[nn.Module, Any]:
    if when == "before":
        wrapped = act(make(adapted))
        handle = systolora.offload(wrapped, "linear")
        return wrapped, handle
    model = make(adapted)
    handle = systolora.offload(model, "linear")
    return act(model), handle


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


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_checkpointing_repeats_is_not_counted_twice(reentrant: bool) -> None:
    """Only the block is checkpointed, and the head runs in torch: counted twice, the share would be higher."""
    shares = []
    for checkpointed in (False, True):
        model = make()
        model.head.requires_grad_(True)
        handle = systolora.offload(model, "linear")
        if checkpointed:
            block = model.block.forward
            model.block.forward = lambda *args, block=block, **named: checkpoint(  # type: ignore[method-assign]
                partial(block, **named), *args, use_reentrant=reentrant
            )
        run(model)
        report = handle.report()
        shares.append(report.mac_share)
        assert report.int8["forward_base"] == (20 if checkpointed else 10)
        assert report.host_macs == 18 * 16 * 16
    assert shares[0] == shares[1] < 1.0


def test_calls_that_fall_back_count_as_the_host_s() -> None:
    model = make()
    handle = systolora.offload(model, "linear")
    run(model)
    assert handle.report().mac_share == 1.0 and handle.report().host_macs == 0
    model.block.ff.requires_grad_(True)
    run(model)
    report = handle.report()
    assert report.host_macs == 18 * 2 * 16 * 64
    assert report.mac_share == pytest.approx(
        1 - report.host_macs / (report.host_macs + report.int8_macs["forward_base"])
    )


def test_hooks_put_on_before_and_taken_off_after_undo() -> None:
    """A wrapper that holds the offloaded forward when the offload is undone still gives the float model."""
    model = make()
    expected = run(model)
    handle = systolora.offload(model, "linear")
    held = [layer.forward for layer in leaves(model)]  # as a library that keeps them in a place of its own
    handle.undo()
    for layer, forward in zip(leaves(model), held, strict=True):
        layer.forward = forward  # type: ignore[method-assign]
    assert all(torch.equal(a, b) for a, b in zip(run(model), expected, strict=True))


def test_hooks_removed_while_offloaded() -> None:
    model = accelerate_hooks(make())
    handle = systolora.offload(model, "linear")
    remove_hook_from_module(model, recurse=True)
    expected = run(make())
    run(model)
    assert handle.report().int8["forward_base"] == LINEAR and not handle.report().fallbacks
    handle.undo()
    assert all(torch.equal(a, b) for a, b in zip(run(model), expected, strict=True))


def test_hooks_on_the_adapter_alone_are_called() -> None:
    expected, model = make(adapted=True), make(adapted=True)
    for each in (expected, model):
        each.block.attn1.to_q.lora_B["default"].register_forward_hook(lambda _, __, output: 0 * output)
    handle = systolora.offload(model, "linear")
    assert all(relative(a, b) < ERROR for a, b in zip(run(model), run(expected), strict=True))
    assert handle.report().fallbacks == {("block.attn1.to_q", "a layer of the adapter has hooks"): 1}


def test_a_copy_s_calls_are_its_own() -> None:
    model = make()
    model.head.requires_grad_(True)
    handle = systolora.offload(model, "linear")
    run(copy.deepcopy(model))
    assert handle.report().host_macs == 0 and not any(handle.report().int8.values())


class Pool(nn.Module):
    """Reads the weight of its layer instead of calling it, as HunyuanDiT's pooler does."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(16, 16)
        self.out = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(nn.functional.linear(x, self.q_proj.weight, self.q_proj.bias))


def test_a_layer_whose_weight_is_read_keeps_it() -> None:
    model = Pool().requires_grad_(False)
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    expected = model(x)
    handle = systolora.offload(model, "linear", release_weights=True)
    assert relative(model(x), expected) < ERROR
    report = handle.report()
    assert report.skipped == (("q_proj", "Pool computes with its weight itself"),)
    assert report.released == 1


def test_weights_that_hooks_make_are_not_released() -> None:
    expected = run(spectral_norm_old(make()))
    model = spectral_norm_old(make())
    handle = systolora.offload(model, "linear", release_weights=True)
    assert handle.report().released == 0
    assert all(relative(a, b) < ERROR for a, b in zip(run(model), expected, strict=True))


def test_a_released_weight_that_is_parametrized_later_is_an_error_and_undone() -> None:
    model = make()
    expected = run(model)
    handle = systolora.offload(model, "linear", release_weights=True)
    parametrize.register_parametrization(model.head, "weight", nn.Identity())
    with pytest.raises(RuntimeError, match="'head' cannot run in torch .its weight was parametrized after"):
        run(model)
    handle.undo()
    assert all(relative(a, b) < ERROR for a, b in zip(run(model), expected, strict=True))
    assert type(model.head).__name__ == "ParametrizedLinear"
    parametrize.remove_parametrizations(model.head, "weight")
    assert type(model.head) is nn.Linear


def test_products_of_attentions_without_to_q_are_found() -> None:
    with torch.device("meta"):
        model = Flux2Transformer2DModel(num_layers=1, num_single_layers=1)
    names = [name for name, _ in attention_modules(model)]
    assert names == ["transformer_blocks.0.attn", "single_transformer_blocks.0.attn"]
