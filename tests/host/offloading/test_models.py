"""`offload` on other architectures, as tiny random models, and on a U-Net of Stable Diffusion 1.5's size (slow)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import systolora
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel


@dataclass(frozen=True)
class Case:
    """A tiny model, where its adapter goes, its output for an index, and the layers that each target must find."""

    build: Callable[[], nn.Module]
    adapter: list[str]
    call: Callable[[Any, int], Tensor]
    adapted: dict[str, int]


def noise(index: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(index))


def sdxl() -> nn.Module:
    return UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(32, 64),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=80,
        cross_attention_dim=64,
    )


def call_sdxl(model: Any, i: int) -> Tensor:
    extra = {"text_embeds": noise(i, 2, 32), "time_ids": torch.ones(2, 6)}
    return model(noise(i, 2, 4, 8, 8), torch.tensor([5, 700]), noise(i + 1, 2, 7, 64), added_cond_kwargs=extra).sample


def sd3() -> nn.Module:
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=64,
        out_channels=4,
    )


def call_sd3(model: Any, i: int) -> Tensor:
    return model(
        noise(i, 2, 4, 8, 8),
        encoder_hidden_states=noise(i + 1, 2, 7, 32),
        pooled_projections=noise(i, 2, 64),
        timestep=torch.tensor([5.0, 700.0]),
    ).sample


def flux() -> nn.Module:
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )


def call_flux(model: Any, i: int) -> Tensor:
    return model(
        noise(i, 2, 64, 4),
        encoder_hidden_states=noise(i + 1, 2, 7, 32),
        pooled_projections=noise(i, 2, 32),
        timestep=torch.tensor([0.1, 0.7]),
        img_ids=torch.zeros(64, 3),
        txt_ids=torch.zeros(7, 3),
    ).sample


def text_encoder() -> nn.Module:
    config = CLIPTextConfig(
        vocab_size=99,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16,
        bos_token_id=97,
        eos_token_id=98,
        pad_token_id=98,
    )
    return CLIPTextModel(config)


def call_text_encoder(model: Any, i: int) -> Tensor:
    return model(torch.randint(0, 97, (2, 16), generator=torch.Generator().manual_seed(i)))[0]


CASES = {
    "sdxl": Case(
        *(sdxl, ["to_q", "to_k", "to_v", "to_out.0"], call_sdxl), adapted={"kv": 16, "attention": 64, "linear": 64}
    ),
    "sd3": Case(
        sd3,
        ["attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "add_q_proj", "add_k_proj", "add_v_proj"],
        call_sd3,
        adapted={"kv": 4, "attention": 14, "linear": 14},
    ),
    "flux": Case(
        flux,
        ["to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "ff.net.0.proj", "ff.net.2", "proj_mlp", "proj_out"],
        call_flux,
        adapted={"kv": 1, "attention": 8, "linear": 13},
    ),
    "clip": Case(
        text_encoder,
        ["q_proj", "k_proj", "v_proj", "out_proj"],
        call_text_encoder,
        adapted={"attention": 8, "linear": 8},
    ),
}


def train(case: Case, targets: str | None, **options: Any) -> tuple[list[float], Any]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model: Any = case.build()
    model.requires_grad_(False)
    torch.manual_seed(1)
    model.add_adapter(LoraConfig(r=4, lora_alpha=4, init_lora_weights="gaussian", target_modules=case.adapter))
    handle = systolora.offload(model, targets, **options) if targets else None
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    for index in range(4):
        output = case.call(model, index)
        loss = functional.mse_loss(output, noise(index + 9, *output.shape))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, handle


@pytest.mark.parametrize(("name", "targets"), [(name, t) for name, case in CASES.items() for t in case.adapted])
def test_architectures_train_as_in_float32(name: str, targets: str) -> None:
    case = CASES[name]
    expected, _ = train(case, None)
    losses, handle = train(case, targets)
    assert losses == pytest.approx(expected, rel=5e-3)
    report = handle.report()
    assert len(report.adapted) == case.adapted[targets]
    assert not report.fallbacks
    assert report.int8["grad_down"] == 4 * case.adapted[targets]


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux"])
def test_everything_frozen_in_int8_with_attention_products(name: str) -> None:
    case = CASES[name]
    expected, _ = train(case, None)
    losses, handle = train(case, "all", release_weights=True, attention_products=True)
    assert losses == pytest.approx(expected, rel=0.03)
    report = handle.report()
    assert not report.fallbacks and not report.skipped
    assert report.int8["forward_scores"] > 0 and report.int8["grad_query"] > 0
    assert report.released == len(report.adapted) + len(report.frozen)


def test_a_text_encoder_has_no_cross_attention() -> None:
    with pytest.raises(ValueError, match="no layer of this CLIPTextModel matches targets 'kv' .*attention, linear"):
        systolora.offload(text_encoder(), "kv")


def test_adapted_convolutions_are_reported() -> None:
    torch.manual_seed(0)
    model = sdxl().requires_grad_(False)
    model.add_adapter(LoraConfig(r=2, target_modules=["attn2.to_k", "conv1"]))
    handle = systolora.offload(model, "linear")
    call_sdxl(model, 0).sum().backward()
    text = str(handle.report())
    assert "layers, an adapted Conv2d is not supported" in text


_SD15 = """
import json, resource, time
import torch, systolora
from diffusers import UNet2DConditionModel

torch.manual_seed(0)
unet = UNet2DConditionModel(
    sample_size=64, cross_attention_dim=768, attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280)
)
parameters = sum(p.numel() for p in unet.parameters())
unet.requires_grad_(False)
handle = systolora.offload(unet, "kv", rank=4)
layers = [p for p in unet.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(layers, lr=1e-4)
latents, noise = torch.randn(2, 1, 4, 32, 32)
text = torch.randn(1, 77, 768)
began = time.perf_counter()
loss = torch.nn.functional.mse_loss(unet(latents, torch.tensor([500]), text).sample, noise)
loss.backward()
gradient = float(torch.stack([p.grad.norm() for p in layers]).norm())
optimizer.step()
report = handle.report()
print(json.dumps({
    "seconds": time.perf_counter() - began,
    "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    "parameters": parameters,
    "trainable": sum(p.numel() for p in layers),
    "loss": loss.item(),
    "gradient": gradient,
    "int8": report.int8,
    "layers": len(report.adapted),
    "fallbacks": len(report.fallbacks),
    "device_bytes": report.device_bytes,
}))
"""


@pytest.mark.slow
def test_one_training_step_of_stable_diffusion_1_5() -> None:
    """Random weights of its configuration, 32 x 32 latents, rank 4, targets kv; in a process of its own, for the peak."""
    done = subprocess.run([sys.executable, "-c", _SD15], check=True, capture_output=True, text=True)
    result = json.loads(done.stdout.splitlines()[-1])
    print(f"\n{result['seconds']:.1f} s, peak {result['peak_bytes'] / 2**30:.2f} GiB")
    assert result["parameters"] == 859_520_964
    assert result["layers"] == 32
    assert result["trainable"] == 198_144
    assert result["int8"]["grad_down"] == result["int8"]["forward_base"] == 32
    assert result["fallbacks"] == 0
    assert 0 < result["loss"] < 100
    assert 0 < result["gradient"] < 100
    assert result["peak_bytes"] < 24e9
