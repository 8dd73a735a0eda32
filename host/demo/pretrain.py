"""The recipe of the demo model: train a small latent diffusion model from nothing on drawn sprites.

`pretrain` draws the pictures, trains autoencoder, tokenizer, text encoder, U-Net and judge, stores them as an
ordinary diffusers folder and measures what was stored. `python -m systolora.demo.pretrain --out DIR` runs it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from diffusers import AutoencoderTiny, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from systolora.errors import UserError, describe_error
from systolora.libraries import quiet_libraries
from systolora.options import LARGEST_SEED
from systolora.outputs import claim_folder
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from .judge import Judge, PromptAccuracy, train_judge
from .sampling import generate_pictures, load_sprite_pipeline, pictures_to_tensor
from .sprite_model import make_sampler, make_tokenizer
from .sprite_training import PretrainConfig, Report, train_autoencoder, train_denoiser
from .sprites import BASE_SHAPES, CONCEPTS, full_caption, make_sprites, tile_pictures


@dataclass(frozen=True)
class PretrainResult:
    """What `pretrain` stored and how good it is; `cpu_seconds` is the process's CPU time."""

    pipeline_folder: Path
    judge_file: Path
    megabytes: float
    cpu_seconds: float
    reconstruction_error: float
    concept_reconstruction_error: float
    drawn_accuracy: PromptAccuracy
    prompt_accuracy: PromptAccuracy


def pretrain(config: PretrainConfig, out: Path, report: Report = print) -> PretrainResult:
    """Train the demo model and write `out/sprite_pipeline`, `out/judge.safetensors` and `out/samples.png`.

    The same configuration, machine and thread count give the same files. The caller's torch random state is
    unchanged. Raises UserError if `out` holds anything that this recipe did not make, or an earlier model of it.
    """
    folder = Path(out) / "sprite_pipeline"
    if folder.exists():
        raise UserError(f"--out {out}: its sprite_pipeline exists already; give another folder")
    claim_folder(Path(out), "systolora.demo.pretrain")
    started = time.process_time()
    # With words that it cannot know, the text encoder learns that an unknown word is some shape and leaves the
    # rest of the sentence as it is. Without them a new word garbles colour and background too.
    drawn = make_sprites(config.pictures, config.seed, made_up_share=config.made_up_share)
    report(f"drew {len(drawn)} sprites")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        autoencoder = train_autoencoder(config, drawn, report)
        tokenizer = make_tokenizer(folder / "tokenizer", map(full_caption, drawn.sprites))
        text_encoder, unet = train_denoiser(config, drawn, autoencoder, tokenizer, report)
    judge = train_judge(autoencoder, config.seed, config.judge_steps, config.pictures // 2, report)
    store_pipeline(folder, autoencoder, text_encoder, tokenizer, unet)
    judge.save(Path(out) / "judge.safetensors")
    return _measure(config, Path(out), judge, started)


def store_pipeline(
    folder: Path,
    autoencoder: AutoencoderTiny,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
) -> None:
    """Save an ordinary StableDiffusionPipeline folder with weights of 16 bits that load as float32.

    The tokenizer's `vocab.json` and `merges.txt`, which `make_tokenizer` wrote there, stay beside what
    transformers 5 writes: transformers 4 and other programs read only those.
    """
    pipeline = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=make_sampler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(str(folder))
    for path in sorted(folder.rglob("*.safetensors")):
        halves = {name: tensor.half() for name, tensor in load_file(str(path)).items()}
        save_file(halves, str(path), metadata={"format": "pt"})


def pretrain_command(
    out: Annotated[Path, typer.Option(help="Folder for the pipeline, the judge, a picture and a report.")],
    quick: Annotated[bool, typer.Option(help="Run every stage for seconds only.")] = False,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of everything that is random.")] = 0,
    threads: Annotated[int, typer.Option(min=1, max=4096, help="CPU threads of torch.")] = 1,
) -> None:
    """Train the demo model from nothing: about ten minutes of one CPU core."""
    torch.set_num_threads(threads)
    quiet_libraries()
    config = PretrainConfig.quick(seed) if quick else PretrainConfig(seed=seed)
    result = pretrain(config, out, typer.echo)
    figures = {"config": asdict(config), **asdict(result)}
    figures |= {"pipeline_folder": result.pipeline_folder.name, "judge_file": result.judge_file.name}
    text = json.dumps(figures, indent=2)
    (out / "pretrain.json").write_text(text + "\n", encoding="utf-8")
    typer.echo(text)


def _measure(config: PretrainConfig, out: Path, judge: Judge, started: float) -> PretrainResult:
    """Judge what was stored: reconstructions, drawn pictures, pictures generated from new prompts."""
    folder, judge_file = out / "sprite_pipeline", out / "judge.safetensors"
    pipeline = load_sprite_pipeline(folder)
    count = config.test_pictures
    base = make_sprites(count, config.seed + 1000, BASE_SHAPES, full_captions=True)
    new = make_sprites(count, config.seed + 2000, CONCEPTS, full_captions=True)
    both = np.concatenate([base.pictures, new.pictures])
    generated = generate_pictures(pipeline, base.captions, config.seed)
    tile_pictures(generated[:96], 12).save(out / "samples.png")
    stored = sum(path.stat().st_size for path in (*folder.rglob("*"), judge_file) if path.is_file())
    return PretrainResult(
        pipeline_folder=folder,
        judge_file=judge_file,
        megabytes=round(stored / 1e6, 3),
        cpu_seconds=round(time.process_time() - started, 1),
        reconstruction_error=_reconstruction_error(pipeline.vae, base.pictures),
        concept_reconstruction_error=_reconstruction_error(pipeline.vae, new.pictures),
        drawn_accuracy=judge.prompt_accuracy(both, base.sprites + new.sprites),
        prompt_accuracy=judge.prompt_accuracy(generated, base.sprites),
    )


@torch.no_grad()
def _reconstruction_error(autoencoder: AutoencoderTiny, pictures: np.ndarray) -> float:
    """Mean absolute error of the autoencoder's copies, in units of the 0 to 255 pixel scale."""
    images = pictures_to_tensor(pictures)
    copies = autoencoder.decode(autoencoder.encode(images).latents).sample.clamp(-1, 1)
    return round(functional.l1_loss(copies, images).item() * 127.5, 3)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        typer.run(pretrain_command)
    except Exception as error:
        if (text := describe_error(error)) is None:
            raise
        sys.exit(f"pretrain: {text}")
