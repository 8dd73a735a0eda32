"""The shipped model learns a concept it never saw: plain peft in float32, with the recipe of docs/demo_model.md.

This is the yardstick of the INT8 runs: it uses nothing of the hardware path. `-s` prints the figures.
"""

import math
import time
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from peft import LoraConfig
from systolora.assets import pipeline_folder
from systolora.demo.judge import load_judge
from systolora.demo.sampling import generate_pictures, load_sprite_pipeline, pictures_to_tensor
from systolora.demo.sprites import BACKGROUNDS, COLOURS, make_sprites

CONCEPT = "heart"
SEEN_COLOURS = [colour for colour in COLOURS if colour not in ("cyan", "orange")]
SEEN_BACKGROUNDS = [background for background in BACKGROUNDS if background != "mint"]


@dataclass(frozen=True)
class Recipe:
    targets: tuple[str, ...]
    rate: float
    alpha: int
    batch: int
    steps: int
    bound: float


RECIPES = {
    "attention": Recipe(("to_q", "to_k", "to_v", "to_out.0"), 6e-3, 8, 8, 700, 0.85),
    "kv": Recipe(("attn2.to_k", "attn2.to_v"), 1e-2, 16, 16, 700, 0.7),
}


def _examples(pipeline):
    """Latents and text states of 64 concept pictures and 24 of known shapes, as one image folder would hold them."""
    new = make_sprites(64, 1234, (CONCEPT,), SEEN_COLOURS, SEEN_BACKGROUNDS, full_captions=True)
    old = make_sprites(24, 77, full_captions=True)
    with torch.no_grad():
        images = pictures_to_tensor(np.concatenate([new.pictures, old.pictures]))
        latents = pipeline.vae.encode(images).latents * pipeline.vae.config.scaling_factor
        tokens = pipeline.tokenizer(
            list(new.captions + old.captions), padding="max_length", truncation=True, return_tensors="pt"
        )
        return latents, pipeline.text_encoder(tokens.input_ids).last_hidden_state


def _train(pipeline, recipe: Recipe, seed: int) -> list[float]:
    latents, texts = _examples(pipeline)
    unet = pipeline.unet.requires_grad_(False)
    torch.manual_seed(seed)
    unet.add_adapter(
        LoraConfig(r=8, lora_alpha=recipe.alpha, init_lora_weights="gaussian", target_modules=list(recipe.targets))
    )
    weights = [weight for weight in unet.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, recipe.rate, weight_decay=1e-2)
    cosine = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1, (step + 1) / 20) * (0.5 + 0.5 * math.cos(math.pi * min(1, step / recipe.steps))),
    )
    schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
    ratio = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
    losses = []
    for _ in range(recipe.steps):
        pick = torch.randint(len(latents), (recipe.batch,))
        steps = torch.randint(0, 1000, (recipe.batch,))
        noise = torch.randn_like(latents[pick])
        predicted = unet(schedule.add_noise(latents[pick], noise, steps), steps, texts[pick]).sample
        error = (predicted - noise).pow(2).mean((1, 2, 3))
        loss = (error * ratio[steps].clamp(max=5) / ratio[steps]).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        cosine.step()
        losses.append(error.mean().item())
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", RECIPES)
def test_a_new_concept_is_absent_before_and_learned_after(name, seed):
    recipe, judge = RECIPES[name], load_judge()
    pipeline = load_sprite_pipeline(pipeline_folder())
    asked = make_sprites(96, 4242, (CONCEPT,), full_captions=True)
    known = make_sprites(96, 4243, full_captions=True)
    base = judge.concept_share(generate_pictures(pipeline, asked.captions, 3, guidance=3.0), CONCEPT)
    started = time.process_time()
    losses = _train(pipeline, recipe, seed)
    seconds = time.process_time() - started
    pictures = generate_pictures(pipeline, asked.captions, 3, guidance=3.0)
    after = judge.prompt_accuracy(pictures, asked.sprites)
    unseen = [
        index
        for index, sprite in enumerate(asked.sprites)
        if sprite.colour not in SEEN_COLOURS or sprite.background not in SEEN_BACKGROUNDS
    ]
    held_out = judge.concept_share(pictures[unseen], CONCEPT)
    kept = judge.prompt_accuracy(generate_pictures(pipeline, known.captions, 3, guidance=3.0), known.sprites)
    tenth = recipe.steps // 10
    print(
        f"\n{name} seed {seed}: loss {np.mean(losses[:tenth]):.4f} to {np.mean(losses[-tenth:]):.4f}, "
        f"concept {base:.3f} to {after.shape:.3f} ({held_out:.3f} in unseen colours), "
        f"known shapes {kept.shape:.3f}, {seconds:.1f} CPU s"
    )
    assert base <= 0.05
    assert after.shape >= recipe.bound
    assert min(after.colour, after.background) >= 0.95
    assert kept.shape >= 0.75
