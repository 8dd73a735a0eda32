"""Adapters of any origin and state below `offload`: what runs on the device, what falls back to torch and is counted."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import systolora
import torch
from peft import LoraConfig, get_peft_model
from systolora.offloading.peft_layers import OffloadedLinear
from torch import nn

from .tiny_unet import (
    ADAPTED_OUTPUT_ERROR,
    GRADIENT_ERROR,
    KEY_VALUE,
    adapted,
    gradients,
    loss_of,
    make_unet,
    output_of,
    randomize,
    relative,
)


@pytest.mark.parametrize("how", ["add_adapter", "load_lora_adapter", "get_peft_model", "offload"])
def test_adapters_of_any_origin(how: str, tmp_path: Path) -> None:
    model: Any = make_unet()
    config = LoraConfig(r=4, lora_alpha=4, target_modules=KEY_VALUE)
    if how == "add_adapter":
        model.requires_grad_(False)
        model.add_adapter(config)
    elif how == "load_lora_adapter":
        source = adapted(KEY_VALUE, trained=True)
        source.save_lora_adapter(tmp_path)
        model.requires_grad_(False)
        model.load_lora_adapter(tmp_path, prefix=None, weight_name="pytorch_lora_weights.safetensors")
    elif how == "get_peft_model":
        model = get_peft_model(model, config)
    handle = systolora.offload(model, "kv", rank=4 if how == "offload" else None)
    report = handle.report()
    assert (len(report.adapted), len(report.frozen)) == (8, 0)
    if how != "load_lora_adapter":
        assert all(
            name.split(".")[-3] in ("lora_A", "lora_B") for name, p in model.named_parameters() if p.requires_grad
        )
    loss_of(model, 0).backward()
    assert handle.report().int8["forward_up"] == 8


def test_no_adapter_means_frozen_layers() -> None:
    unet = make_unet().requires_grad_(False)
    expected = output_of(unet)
    handle = systolora.offload(unet, "attention")
    assert relative(output_of(unet), expected) < ADAPTED_OUTPUT_ERROR
    report = handle.report()
    assert (len(report.adapted), len(report.frozen)) == (0, 32)
    unet.add_adapter(LoraConfig(r=2, target_modules=KEY_VALUE))
    output_of(unet)
    assert "8 layers, its adapter was added after offload" in str(handle.report())


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"use_dora": True}, "adapter variant DoraLinearVariant"),
        ({"lora_bias": True, "init_lora_weights": True}, "the adapter has a bias"),
    ],
)
def test_what_the_device_cannot_do_falls_back_and_is_counted(settings: dict[str, Any], reason: str) -> None:
    unet = adapted(KEY_VALUE, trained=True, **settings)
    expected = output_of(unet)
    handle = systolora.offload(unet, "kv")
    assert torch.equal(output_of(unet), expected)
    report = handle.report()
    assert len(report.fallbacks) == 8
    assert all(reason in why and count == 1 for (_, why), count in report.fallbacks.items())
    assert f"8 calls, {reason}" in str(report)
    assert not any(report.int8.values())


def test_two_adapters_at_once_fall_back_and_one_of_them_does_not() -> None:
    unet = adapted(KEY_VALUE, trained=True)
    unet.add_adapter(LoraConfig(r=2, lora_alpha=8, target_modules=KEY_VALUE), adapter_name="other")
    randomize(unet)
    handle = systolora.offload(unet, "kv")
    for names in (["default", "other"], ["other"], ["default"]):
        unet.set_adapters(names)
        got = output_of(unet)
        handle.undo()
        expected = output_of(unet)
        handle = systolora.offload(unet, "kv")
        assert relative(got, expected) < ADAPTED_OUTPUT_ERROR
    unet.set_adapters(["default", "other"])
    output_of(unet)
    assert "8 calls, 2 adapters are active at once" in str(handle.report())


def test_merge_unmerge_disable_and_scale() -> None:
    unet = adapted(KEY_VALUE, trained=True)
    unet.eval()
    plain = copy.deepcopy(unet)
    handle = systolora.offload(unet, "kv")

    def both(action: str, *arguments: Any) -> None:
        for model in (unet, plain):
            getattr(model, action)(*arguments)
        assert relative(output_of(unet), output_of(plain)) < ADAPTED_OUTPUT_ERROR, action

    start = output_of(unet)
    both("fuse_lora")
    both("unfuse_lora")
    assert relative(output_of(unet), start) < 1e-3
    both("disable_adapters")
    assert not torch.equal(output_of(unet), start)
    both("enable_adapters")
    assert relative(output_of(unet), start) < 1e-3
    both("set_adapters", ["default"], 3.0)
    assert not handle.report().fallbacks


def test_weights_that_are_loaded_later_reach_the_device() -> None:
    unet, other = adapted(trained=True), adapted(trained=True)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    systolora.offload(unet, "linear")
    output_of(unet)
    unet.load_state_dict(other.state_dict())
    systolora.offload(other, "linear")
    assert torch.equal(output_of(unet), output_of(other))


def test_dropout_runs_on_the_device() -> None:
    unet, plain = (adapted(KEY_VALUE, trained=True, lora_dropout=0.3) for _ in range(2))
    handle = systolora.offload(unet, "kv")
    results = []
    for model in (unet, plain):
        model.train()
        torch.manual_seed(3)
        results.append(gradients(model))
    got, expected = results
    assert max(relative(got[name], expected[name]) for name in expected) < GRADIENT_ERROR
    assert not handle.report().fallbacks


def test_a_trainable_weight_is_left_in_torch() -> None:
    unet = make_unet()
    unet.requires_grad_(False)
    name, layer = next((n, m) for n, m in unet.named_modules() if n.endswith("attn2.to_k"))
    layer.requires_grad_(True)
    handle = systolora.offload(unet, "kv")
    assert (name, "the weight is trainable") in handle.report().skipped
    later = unet.get_submodule(name.replace("to_k", "to_v"))
    assert isinstance(later, OffloadedLinear)
    later.requires_grad_(True)
    loss_of(unet, 0).backward()
    assert later.weight.grad is not None
    assert handle.report().fallbacks == {(name.replace("to_k", "to_v"), "the weight is trainable"): 1}


def test_torch_compile_leaves_the_layers_on_the_device() -> None:
    torch.manual_seed(0)
    model = get_peft_model(nn.Sequential(nn.Linear(16, 16), nn.Tanh()), LoraConfig(r=2, target_modules=["0"]))
    handle = systolora.offload(model, "linear")
    x = torch.randn(5, 16)
    expected = model(x)
    torch.testing.assert_close(torch.compile(model, backend="eager")(x), expected)
    assert handle.report().int8["forward_base"] == 2
