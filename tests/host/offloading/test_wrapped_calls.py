"""Hooks, copies, checkpointing and weights that others read or make: what is called, counted and given back."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import systolora
import torch
from accelerate.hooks import remove_hook_from_module
from diffusers import Flux2Transformer2DModel
from systolora.offloading.attention import attention_modules
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from .wrapped import (
    ERROR,
    LINEAR,
    accelerate_hooks,
    leaves,
    make,
    relative,
    run,
    spectral_norm_old,
)


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
