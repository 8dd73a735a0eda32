"""`offload` on a tiny U-Net: targets, values, names, undo, checkpointing, copies, bad input."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import systolora
import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from systolora.offloading.model import OffloadHandle
from systolora.offloading.peft_layers import OffloadedLinear, OffloadedLoraLinear
from systolora.offloading.quantization import GEMM_KINDS, QuantizationConfig
from systolora.offloading.targets import OffloadError
from systolora.sim.functional.emulator import EmulatorDevice
from torch import nn

from .tiny_unet import (
    ADAPTED_OUTPUT_ERROR,
    GRADIENT_ERROR,
    KEY_VALUE,
    adapted,
    gradients,
    make_unet,
    output_of,
    relative,
    train,
)


@pytest.mark.parametrize(
    ("targets", "layers", "frozen", "share"), [("kv", 8, 0, 0.01), ("attention", 32, 0, 0.12), ("linear", 32, 18, 0.4)]
)
def test_targets_train_as_float32_does(targets: str, layers: int, frozen: int, share: float) -> None:
    unet = adapted()
    handle = systolora.offload(unet, targets)
    losses, expected = train(unet), train(adapted())
    assert losses == pytest.approx(expected, rel=1e-3)
    report = handle.report()
    assert (len(report.adapted), len(report.frozen)) == (layers, frozen)
    assert report.int8["forward_down"] == report.int8["grad_up"] == 4 * layers
    assert 0 < report.mac_share < share
    assert not report.fallbacks
    assert report.device == "emulator"
    assert handle.step == 4
    text = str(report)
    assert f"{layers} adapted and {frozen} frozen layers" in text
    assert "fell back" not in text
    assert ("24 layers, its adapter is not among the targets 'kv'" in text) == (targets == "kv")


@pytest.mark.parametrize("weight_scales", ["tensor", "channel"])
def test_gradients_through_the_whole_network(weight_scales: str) -> None:
    unet = adapted(trained=True)
    expected = gradients(unet)
    systolora.offload(unet, "linear", quantization=QuantizationConfig(weight_scales=weight_scales))
    got = gradients(unet)
    assert got.keys() == expected.keys()
    errors = {name: relative(got[name], expected[name]) for name in expected}
    assert max(errors.values()) < GRADIENT_ERROR, max(errors.items(), key=lambda item: item[1])


def test_in_float32_it_is_torch() -> None:
    unet = adapted(trained=True)
    expected, output = gradients(unet), output_of(unet)
    handle = systolora.offload(unet, "linear", quantization=QuantizationConfig.in_float32())
    torch.testing.assert_close(output_of(unet), output, rtol=1e-5, atol=1e-5)
    for name, gradient in gradients(unet).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5 * float(expected[name].abs().max()))
    report = handle.report()
    assert not any(report.int8.values())
    assert all(report.float32[kind] for kind in GEMM_KINDS)


def test_names_and_values_of_the_state_dict_do_not_change() -> None:
    unet = adapted()
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    parameters = dict(unet.named_parameters())
    systolora.offload(unet, "linear")
    after = unet.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(dict(unet.named_parameters())[name] is value for name, value in parameters.items())


def test_undo_gives_everything_back() -> None:
    unet = adapted(trained=True)
    expected = output_of(unet)
    with EmulatorDevice(capacity_bytes=1 << 26) as device:
        empty = device.bytes_in_use
        handle = systolora.offload(unet, "linear", device)
        gradients(unet)
        assert device.bytes_in_use > empty
        handle.undo()
        handle.undo()
        gc.collect()
        assert device.bytes_in_use <= empty + 64 * 1024, "the program buffer alone may have grown"
        assert torch.equal(output_of(unet), expected)
        assert not any(isinstance(m, (OffloadedLoraLinear, OffloadedLinear)) for m in unet.modules())
        assert not any("systolora_layer" in vars(module) for module in unet.modules())
        again = systolora.offload(unet, "kv", device)
        assert relative(output_of(unet), expected) < ADAPTED_OUTPUT_ERROR
        again.undo()


def test_the_model_works_when_the_handle_is_dropped() -> None:
    unet = adapted()
    systolora.offload(unet, "kv")
    gc.collect()
    losses = train(unet)
    layer = next(module.systolora_layer for module in unet.modules() if isinstance(module, OffloadedLoraLinear))
    assert layer.session.step == 4
    assert layer.int8["grad_down"] == 4
    assert len(losses) == 4


def test_gradient_checkpointing_is_bit_identical() -> None:
    plain, checkpointed = adapted(trained=True), adapted(trained=True)
    checkpointed.enable_gradient_checkpointing()
    checkpointed.train()
    quantization = QuantizationConfig(gradient_rounding="stochastic", activation_rounding="stochastic")
    systolora.offload(plain, "linear", quantization=quantization)
    systolora.offload(checkpointed, "linear", quantization=quantization)
    expected, got = gradients(plain), gradients(checkpointed)
    assert all(torch.equal(got[name], value) for name, value in expected.items())


def test_a_copy_is_independent() -> None:
    unet = adapted(trained=True)
    handle = systolora.offload(unet, "attention")
    expected = output_of(unet)
    twin = copy.deepcopy(unet)
    train(unet, 1)
    assert torch.equal(output_of(twin), expected)
    assert not torch.equal(output_of(unet), expected)
    handle.undo()
    with pytest.raises(RuntimeError, match="its offload was undone; call systolora.offload on this model again"):
        output_of(twin)
    systolora.offload(twin, "attention")
    assert torch.equal(output_of(twin), expected)


def test_pickling_the_module_says_what_to_do() -> None:
    unet = adapted()
    systolora.offload(unet, "kv")
    with pytest.raises(Exception, match="save its state_dict, or call undo"):
        torch.save(unet, "/dev/null")


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (lambda: {"unet": 1}, {}, "takes a torch module such as pipeline.unet .* not a dict"),
        (make_unet, {"targets": "conv"}, "targets = 'conv': allowed are kv, attention, linear"),
        (
            lambda: nn.Sequential(nn.Linear(2, 2)),
            {"targets": "kv"},
            r"no layer of this Sequential .* that match: linear",
        ),
        (lambda: nn.Conv2d(1, 1, 1), {"targets": "linear"}, "that match: all"),
        (lambda: make_unet().requires_grad_(True), {}, "skipped: .*attn2.to_k, the weight is trainable"),
        (make_unet, {"rank": 0}, "rank = 0: it must be at least 1"),
        (lambda: nn.Sequential(nn.Linear(2, 2)), {"targets": "linear", "rank": 4}, "has no attention layer to adapt"),
    ],
)
def test_bad_input_gets_one_line(build: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(OffloadError, match=message) as caught:
        systolora.offload(build(), **arguments)
    assert "\n" not in str(caught.value)


def test_offloading_twice_is_refused() -> None:
    unet = adapted(KEY_VALUE)
    handle = systolora.offload(unet, "kv")
    assert isinstance(handle, OffloadHandle)
    with pytest.raises(OffloadError, match="offloaded already"):
        systolora.offload(unet, "attention")
    handle.undo()
    assert sum(type(module) is LoraLinear for module in unet.modules()) == 8
