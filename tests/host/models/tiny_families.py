"""A pipeline folder of each family with random weights of a few thousand values: nothing is downloaded, nothing has a licence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from systolora.libraries import quiet_libraries

WIDTH = 16
T5_WIDTH = 24
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SIDE = 8
"""Pixels per side: 4 latents."""


def clip_tokenizer(folder: Path) -> Any:
    from systolora.demo.sprite_model import make_tokenizer

    return make_tokenizer(folder, ["a red heart", "a blue star"])


def t5_tokenizer() -> Any:
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0), *((letter, -3.0) for letter in LETTERS)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def clip_encoder(tokenizer: Any, kind: str = "CLIPTextModel", width: int = WIDTH) -> Any:
    import transformers

    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return getattr(transformers, kind)(config)


def t5_encoder(tokenizer: Any, width: int = T5_WIDTH) -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    )


def autoencoder(channels: int = 4) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=4,
        layers_per_block=1,
        scaling_factor=0.5,
        shift_factor=0.1,
    )


def _unet(**own: Any) -> Any:
    from diffusers import UNet2DConditionModel

    sizes = {
        "sample_size": SIDE // 2,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
        "attention_head_dim": 2,
    }
    return UNet2DConditionModel(**{**sizes, **own})


def make_sd(folder: Path) -> Path:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    tokenizer = clip_tokenizer(folder.parent / "clip")
    pipeline = StableDiffusionPipeline(
        unet=_unet(cross_attention_dim=WIDTH),
        vae=autoencoder(),
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", steps_offset=1, clip_sample=False),
        text_encoder=clip_encoder(tokenizer),
        tokenizer=tokenizer,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return _saved(pipeline, folder)


def make_sdxl(folder: Path) -> Path:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    tokenizer = clip_tokenizer(folder.parent / "clip")
    unet = _unet(
        cross_attention_dim=2 * WIDTH,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + WIDTH,
    )
    pipeline = StableDiffusionXLPipeline(
        unet=unet,
        vae=autoencoder(),
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear", steps_offset=1),
        text_encoder=clip_encoder(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=clip_encoder(tokenizer, "CLIPTextModelWithProjection"),
        tokenizer_2=tokenizer,
        add_watermarker=False,
    )
    return _saved(pipeline, folder)


def make_pixart(folder: Path, alpha: bool = True) -> Path:
    from diffusers import (
        DPMSolverMultistepScheduler,
        PixArtAlphaPipeline,
        PixArtSigmaPipeline,
        PixArtTransformer2DModel,
    )

    tokenizer = t5_tokenizer()
    transformer = PixArtTransformer2DModel(
        sample_size=128 if alpha else SIDE // 2,  # the pipeline takes 128 for the sign that there are added conditions
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=T5_WIDTH,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
        use_additional_conditions=alpha,
    )
    pipeline = (PixArtAlphaPipeline if alpha else PixArtSigmaPipeline)(
        tokenizer=tokenizer,
        text_encoder=t5_encoder(tokenizer),
        vae=autoencoder(),
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(),
    )
    return _saved(pipeline, folder)


def make_sd3(folder: Path, t5: bool = True) -> Path:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    clip, long = clip_tokenizer(folder.parent / "clip"), t5_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=SIDE // 2,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=2 * WIDTH,
        out_channels=4,
        pos_embed_max_size=8,
    )
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer,
        vae=autoencoder(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=clip_encoder(clip, "CLIPTextModelWithProjection"),
        tokenizer=clip,
        text_encoder_2=clip_encoder(clip, "CLIPTextModelWithProjection"),
        tokenizer_2=clip,
        text_encoder_3=t5_encoder(long, 2 * WIDTH) if t5 else None,
        tokenizer_3=long if t5 else None,
    )
    return _saved(pipeline, folder)


def make_flux(folder: Path, guided: bool = True) -> Path:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    clip, long = clip_tokenizer(folder.parent / "clip"), t5_tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=guided,
    )
    pipeline = FluxPipeline(
        transformer=transformer,
        vae=autoencoder(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        text_encoder=clip_encoder(clip),
        tokenizer=clip,
        text_encoder_2=t5_encoder(long),
        tokenizer_2=long,
    )
    return _saved(pipeline, folder)


def _saved(pipeline: Any, folder: Path) -> Path:
    pipeline.save_pretrained(folder)
    return folder


MAKERS: dict[str, Callable[[Path], Path]] = {
    "sdxl": make_sdxl,
    "pixart-alpha": make_pixart,
    "pixart-sigma": lambda folder: make_pixart(folder, alpha=False),
    "sd3": make_sd3,
    "sd3-without-t5": lambda folder: make_sd3(folder, t5=False),
    "flux-dev": make_flux,
    "flux-schnell": lambda folder: make_flux(folder, guided=False),
}
"""Families by name."""


def make_family(name: str, folder: Path) -> Path:
    """The pipeline folder of a family, always with the same weights."""
    quiet_libraries()
    torch.manual_seed(0)
    return (make_sd if name == "sd" else MAKERS[name])(folder)
