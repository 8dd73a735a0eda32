"""Training loops around an offloaded U-Net: resuming, accelerate, diffusers' own script, and its file in plain diffusers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import systolora
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from systolora.offloading.quantization import QuantizationConfig
from torch import Tensor, nn
from torch.nn import functional

from .tiny_unet import (
    ADAPTED_OUTPUT_ERROR,
    ATTENTION,
    KEY_VALUE,
    adapted,
    batch,
    loss_of,
    make_unet,
    output_of,
    relative,
    train,
)


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
