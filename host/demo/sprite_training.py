"""Training the parts of the demo model from nothing: the autoencoder, then U-Net and text encoder together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from diffusers import AutoencoderTiny, DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from .sampling import pictures_to_tensor
from .scribbles import make_scribbles
from .sprite_model import PROMPT_TOKENS, make_autoencoder, make_noise_schedule, make_text_encoder, make_unet
from .sprites import SpriteSet

Report = Callable[[str], None]
"""Takes one line of progress."""

_REPORT_EVERY = 250


@dataclass(frozen=True)
class PretrainConfig:
    """How long and on how much to train. The defaults made the model that ships with the package."""

    seed: int = 0
    pictures: int = 16_000
    autoencoder_steps: int = 1_500
    autoencoder_batch: int = 32
    autoencoder_rate: float = 3e-3
    denoiser_steps: int = 3_000
    denoiser_batch: int = 32
    denoiser_rate: float = 4e-3
    caption_dropout: float = 0.1
    made_up_share: float = 0.1
    snr_limit: float = 5.0
    judge_steps: int = 900
    test_pictures: int = 192

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 0:
                raise ValueError(f"{name} is {value}, but it must be 0 or more")
            if value == 0 and name not in ("seed", "caption_dropout", "made_up_share"):
                raise ValueError(f"{name} is 0, but it must be above 0")
        for name in ("caption_dropout", "made_up_share"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but it is a share below 1")

    @classmethod
    def quick(cls, seed: int = 0) -> PretrainConfig:
        """A run of seconds that goes through every stage; its model knows nothing."""
        return cls(
            seed=seed,
            pictures=128,
            autoencoder_steps=4,
            denoiser_steps=4,
            denoiser_batch=8,
            judge_steps=4,
            test_pictures=4,
        )


def train_autoencoder(config: PretrainConfig, drawn: SpriteSet, report: Report) -> AutoencoderTiny:
    """Learn to pack pictures into latents of unit deviation, from sprites and as many scribbles."""
    some = min(len(drawn), 4000)
    scribbles = make_scribbles(some, config.seed + 7)
    images = pictures_to_tensor(np.concatenate([drawn.pictures[:some], scribbles]))
    model = make_autoencoder().train()
    rate = config.autoencoder_rate
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, config.autoencoder_steps, pct_start=0.05)
    for step in range(config.autoencoder_steps):
        batch = images[torch.randint(len(images), (config.autoencoder_batch,))]
        latents = model.encode(batch).latents
        # A little noise makes the decoder forgive the small errors of generated latents.
        decoded = model.decode(latents + 0.15 * torch.randn_like(latents)).sample
        loss = functional.l1_loss(decoded, batch) + functional.mse_loss(decoded, batch)
        # Diffusion adds noise of unit deviation around zero, so the latents' channels shall be like that too.
        mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
        loss = loss + 0.1 * (mean.pow(2) + (deviation - 1).pow(2)).mean()
        _descend(loss, optimizer, list(model.parameters()))
        schedule.step()
        if step % _REPORT_EVERY == 0 or step == config.autoencoder_steps - 1:
            report(f"autoencoder step {step}: loss {loss.item():.4f}")
    model.eval().requires_grad_(False)
    model.register_to_config(scaling_factor=1 / _encode(model, drawn.pictures[:some]).std().item())
    return model


def train_denoiser(
    config: PretrainConfig,
    drawn: SpriteSet,
    autoencoder: AutoencoderTiny,
    tokenizer: CLIPTokenizer,
    report: Report,
) -> tuple[CLIPTextModel, UNet2DConditionModel]:
    """Train U-Net and text encoder together on cached latents; returns their moving averages.

    The loss is the squared error of the predicted noise, weighted as `_noise_weights` says. A share of the
    captions is dropped, which is what classifier-free guidance needs.
    """
    latents = _encode(autoencoder, drawn.pictures) * autoencoder.config.scaling_factor
    tokens, nothing = _tokenize(tokenizer, list(drawn.captions)), _tokenize(tokenizer, [""])
    text_encoder, unet = make_text_encoder(tokenizer).train(), make_unet().train()
    noise_schedule = make_noise_schedule()
    importance = _noise_weights(noise_schedule, config.snr_limit)
    weights = [*unet.parameters(), *text_encoder.parameters()]
    optimizer = torch.optim.AdamW(weights, config.denoiser_rate, weight_decay=1e-2, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.denoiser_rate, config.denoiser_steps, pct_start=0.05
    )
    average = EMAModel(weights, decay=0.995)
    recent: list[float] = []
    for step in range(config.denoiser_steps):
        pick = torch.randint(len(latents), (config.denoiser_batch,))
        drop = torch.rand(len(pick), 1) < config.caption_dropout
        text = text_encoder(torch.where(drop, nothing, tokens[pick])).last_hidden_state
        noise = torch.randn_like(latents[pick])
        time_steps = torch.randint(0, noise_schedule.config.num_train_timesteps, (len(pick),))
        noisy = noise_schedule.add_noise(latents[pick], noise, time_steps)
        error = (unet(noisy, time_steps, text).sample - noise).pow(2).mean((1, 2, 3))
        loss = (error * importance[time_steps]).mean()
        _descend(loss, optimizer, weights)
        schedule.step()
        average.step(weights)
        recent.append(error.mean().item())
        if step % _REPORT_EVERY == 0 or step == config.denoiser_steps - 1:
            report(f"denoiser step {step}: squared error {np.mean(recent[-_REPORT_EVERY:]):.4f}")
    average.copy_to(weights)
    return text_encoder.eval(), unet.eval()


def _descend(loss: torch.Tensor, optimizer: torch.optim.Optimizer, weights: list[torch.nn.Parameter]) -> None:
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()


def _noise_weights(noise_schedule: DDPMScheduler, limit: float) -> torch.Tensor:
    """The loss weight of each noise level, float32 [steps].

    min(SNR, limit) / SNR (Hang et al. 2023, min-SNR) keeps almost clean pictures from ruling the loss. The
    0.3 raises the noisiest levels, up to `limit`: there the text decides the shape, and without it shapes
    are learned several times later (docs/demo_model.md).
    """
    ratio = noise_schedule.alphas_cumprod / (1 - noise_schedule.alphas_cumprod)
    return ((ratio.clamp(max=limit) + 0.3) / ratio).clamp(max=limit)


@torch.no_grad()
def _encode(autoencoder: AutoencoderTiny, pictures: np.ndarray) -> torch.Tensor:
    parts = pictures_to_tensor(pictures).split(250)
    return torch.cat([autoencoder.encode(part).latents for part in parts])


def _tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    padded = tokenizer(captions, padding="max_length", max_length=PROMPT_TOKENS, truncation=True, return_tensors="pt")
    return padded.input_ids
