"""`offload` on a tiny U-Net: targets, adapters, fallbacks, saving, accelerate, checkpointing, undo."""

from __future__ import annotations

import copy
import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import systolora
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.utils import get_peft_model_state_dict
from systolora.offloading.model import OffloadHandle
from systolora.offloading.peft_layers import OffloadedLinear, OffloadedLoraLinear
from systolora.offloading.quantization import GEMM_KINDS, QuantizationConfig
from systolora.offloading.targets import OffloadError
from systolora.sim.functional.emulator import EmulatorDevice
from torch import Tensor, nn
from torch.nn import functional

KEY_VALUE = ["attn2.to_k", "attn2.to_v"]
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
ADAPTED_OUTPUT_ERROR = 0.01
"""Largest relative difference between the INT8 model's output and that of float32 with the same adapter."""
GRADIENT_ERROR = 0.05
"""Largest relative error of any factor's gradient through the whole U-Net."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_unet() -> UNet2DConditionModel:
    torch.manual_seed(1)
    return UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(32, 64),
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
    )


def adapted(modules: list[str] | None = None, *, trained: bool = False, **settings: Any) -> UNet2DConditionModel:
    """A tiny U-Net with an adapter of rank 4; `trained`: `up` is not zero."""
    unet = make_unet()
    unet.requires_grad_(False)
    torch.manual_seed(7)
    options = {"r": 4, "lora_alpha": 4, "init_lora_weights": "gaussian", "target_modules": modules or ATTENTION}
    unet.add_adapter(LoraConfig(**{**options, **settings}))
    if trained:
        randomize(unet)
    return unet


def randomize(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05, generator=generator)


def batch(index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 + index)
    noise = torch.randn(2, 4, 8, 8, generator=generator)
    timesteps = torch.randint(0, 1000, (2,), generator=generator)
    return torch.randn(2, 4, 8, 8, generator=generator), timesteps, torch.randn(2, 7, 32, generator=generator), noise


def loss_of(unet: nn.Module, index: int) -> Tensor:
    x, timesteps, text, noise = batch(index)
    return functional.mse_loss(unet(x, timesteps, text).sample, noise)


def output_of(unet: nn.Module) -> Tensor:
    x, timesteps, text, _ = batch(99)
    with torch.no_grad():
        return unet(x, timesteps, text).sample


def train(unet: nn.Module, steps: int = 4, start: int = 0) -> list[float]:
    parameters = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=5e-3)
    losses = []
    for index in range(start, start + steps):
        loss = loss_of(unet, index)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def gradients(unet: nn.Module) -> dict[str, Tensor]:
    loss_of(unet, 0).backward()
    found = {name: p.grad.clone() for name, p in unet.named_parameters() if p.grad is not None}
    unet.zero_grad()
    return found


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


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


def test_stochastic_rounding_resumes_with_the_same_bits() -> None:
    quantization = QuantizationConfig(
        activation_rounding="stochastic", gradient_rounding="stochastic", factor_rounding="stochastic", seed=11
    )

    def weights(unet: nn.Module) -> list[Tensor]:
        return [p.detach().clone() for p in unet.parameters() if p.requires_grad]

    def train_sgd(unet: nn.Module, start: int, stop: int) -> None:
        optimizer = torch.optim.SGD([p for p in unet.parameters() if p.requires_grad], lr=0.1)
        for index in range(start, stop):
            loss_of(unet, index).backward()
            optimizer.step()
            optimizer.zero_grad()

    whole, first, second = (adapted(KEY_VALUE) for _ in range(3))
    systolora.offload(whole, "kv", quantization=quantization)
    train_sgd(whole, 0, 4)
    handle = systolora.offload(first, "kv", quantization=quantization)
    train_sgd(first, 0, 2)
    state = handle.state_dict()
    second.load_state_dict(first.state_dict())
    resumed = systolora.offload(second, "kv", quantization=quantization)
    resumed.load_state_dict(state)
    train_sgd(second, 2, 4)
    assert resumed.step == 4
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(second), strict=True))
    resumed.step = 2
    assert not torch.equal(output_of(whole), output_of(second)), "the step is in the seed"
    with pytest.raises(ValueError, match="no state of an offload"):
        resumed.load_state_dict({"steps": 3})


def test_the_step_counts_only_optimizers_of_the_model() -> None:
    unet = adapted(KEY_VALUE)
    handle = systolora.offload(unet, "kv")
    other = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([other], lr=0.1)
    other.grad = torch.ones(2)
    optimizer.step()
    assert handle.step == 0
    train(unet, 1)
    assert handle.step == 1
    handle.undo()
    train(unet, 1)
    assert handle.step == 1


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate(precision: str, tmp_path: Path) -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2, mixed_precision=precision)
    unet: Any = adapted()
    handle = systolora.offload(unet, "attention")
    parameters = [p for p in unet.parameters() if p.requires_grad]
    unet, optimizer = accelerator.prepare(unet, torch.optim.AdamW(parameters, lr=5e-3))
    for index in range(4):
        with accelerator.accumulate(unet):
            x, timesteps, text, noise = batch(index)
            with accelerator.autocast():
                prediction = unet(x, timesteps, text).sample
            accelerator.backward(functional.mse_loss(prediction.float(), noise))
            if accelerator.sync_gradients:
                assert float(accelerator.clip_grad_norm_(parameters, 1.0)) > 0
            optimizer.step()
            optimizer.zero_grad()
    assert handle.step == 2
    accelerator.save_state(str(tmp_path))
    kept, expected = [p.detach().clone() for p in parameters], output_of(unet)
    for parameter in parameters:
        parameter.data.zero_()
    assert not torch.equal(output_of(unet), expected)
    accelerator.load_state(str(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(kept, parameters, strict=True))
    assert torch.equal(output_of(unet), expected)
    assert not handle.report().fallbacks
    AcceleratorState._reset_state(True)


def test_the_loop_of_diffusers_lora_script_with_one_added_line(tmp_path: Path) -> None:
    """The steps of `train_text_to_image_lora.py`; what is added is the line that calls offload."""
    from accelerate import Accelerator
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import compute_snr

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=1)
    noise_scheduler = DDPMScheduler()
    unet: Any = make_unet()
    unet.requires_grad_(False)
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=4, init_lora_weights="gaussian", target_modules=ATTENTION)
    unet.add_adapter(config)
    systolora.offload(unet, targets="attention")
    unet.enable_gradient_checkpointing()
    layers = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(layers, lr=1e-2)
    schedule = get_scheduler("cosine", optimizer=optimizer, num_warmup_steps=0, num_training_steps=6)
    unet, optimizer, schedule = accelerator.prepare(unet, optimizer, schedule)
    unet.train()
    losses = []
    for step in range(6):
        with accelerator.accumulate(unet):
            latents, timesteps, text, noise = batch(step % 2)
            noisy = noise_scheduler.add_noise(latents, noise, timesteps)
            prediction = unet(noisy, timesteps, text, return_dict=False)[0]
            snr = compute_snr(noise_scheduler, timesteps)
            weights = torch.stack([snr, 5.0 * torch.ones_like(snr)], dim=1).min(dim=1)[0] / snr
            loss = functional.mse_loss(prediction.float(), noise.float(), reduction="none")
            loss = (loss.mean(dim=list(range(1, len(loss.shape)))) * weights).mean()
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(layers, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[1]
    unet = accelerator.unwrap_model(unet).to(torch.float32)
    state = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=state, safe_serialization=True)
    assert (tmp_path / "pytorch_lora_weights.safetensors").stat().st_size > 10_000


def test_plain_diffusers_loads_the_adapter(tmp_path: Path) -> None:
    """In a process that never imports systolora: same keys, and an output within the stated error."""
    unet = adapted()
    systolora.offload(unet, "attention")
    train(unet, 6)
    unet.eval()
    state = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=state)
    base = make_unet()
    base.save_pretrained(tmp_path / "unet")
    torch.save({"batch": batch(99)[:3]}, tmp_path / "batch.pt")
    script = f"""
import sys, torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file
unet = UNet2DConditionModel.from_pretrained({str(tmp_path / "unet")!r})
state = load_file({str(tmp_path / "pytorch_lora_weights.safetensors")!r})
StableDiffusionPipeline.load_lora_into_unet(state, None, unet)
with torch.no_grad():
    output = unet(*torch.load({str(tmp_path / "batch.pt")!r})["batch"]).sample
assert "systolora" not in sys.modules
torch.save(output, {str(tmp_path / "output.pt")!r})
"""
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    plain, got = torch.load(tmp_path / "output.pt"), output_of(unet)
    assert relative(got, plain) < ADAPTED_OUTPUT_ERROR
    assert relative(output_of(base.eval()), plain) > 5 * ADAPTED_OUTPUT_ERROR, "the adapter does something"


def test_torch_compile_leaves_the_layers_on_the_device() -> None:
    torch.manual_seed(0)
    model = get_peft_model(nn.Sequential(nn.Linear(16, 16), nn.Tanh()), LoraConfig(r=2, target_modules=["0"]))
    handle = systolora.offload(model, "linear")
    x = torch.randn(5, 16)
    expected = model(x)
    torch.testing.assert_close(torch.compile(model, backend="eager")(x), expected)
    assert handle.report().int8["forward_base"] == 2


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
