"""Pictures that a model draws while it is trained: always from the same noise and prompts, so that only the training makes a difference."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from systolora.models.layouts import SD_LAYOUT
from systolora.models.pipeline import PipelineParts, exact_size

from .pictures import write_png
from .settings import TrainSettings

FOLDER = "validation"


def prompts_of(settings: TrainSettings) -> list[str]:
    """The validation prompts; none where there are to be no pictures."""
    return [text for part in settings.validation_prompt.split("|") if (text := part.strip())]


def is_due(settings: TrainSettings, step: int) -> bool:
    """Whether pictures are drawn after `step` steps: at the beginning, on the schedule and at the end."""
    wanted = step % settings.validation_every == 0 or step == settings.steps
    return bool(prompts_of(settings)) and wanted


def draw_validation(parts: PipelineParts, settings: TrainSettings, step: int) -> list[Path]:
    """Draws one picture a prompt with the model as it is, and writes them as PNG files of `validation/step-N`.

    The model draws as it is trained: its offloaded layers run on the device. Nothing of the run's random state changes.

    Raises:
        OSError: if they cannot be written.
    """
    pipe = _pipeline(parts)
    pipe.set_progress_bar_config(disable=True)
    side = parts.checked_resolution(settings.resolution)
    with _evaluating(pipe), torch.random.fork_rng(devices=[]):
        pictures = [_draw(pipe, settings, prompt, side) for prompt in prompts_of(settings)]
    return _write(Path(settings.output) / FOLDER / f"step-{step:07d}", pictures)


def _pipeline(parts: PipelineParts) -> Any:
    """A pipeline of the model's family around the same parts, with a scheduler of its own."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    if parts.pipe is not None and parts.family.layout is not SD_LAYOUT:
        own = copy.copy(parts.pipe)  # keeps what a new one would ask for again, such as no watermark
        own.scheduler = type(own.scheduler).from_config(own.scheduler.config)
        setattr(own, parts.family.layout.trained, parts.unet)
        return own
    return StableDiffusionPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=parts.unet,
        scheduler=DDIMScheduler.from_config(parts.noise.config, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@contextlib.contextmanager
def _evaluating(pipe: Any) -> Iterator[None]:
    """What is trained without dropout, for as long as it draws."""
    training = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module) and part.training]
    for part in training:
        part.eval()
    try:
        yield
    finally:
        for part in training:
            part.train()


def _draw(pipe: Any, settings: TrainSettings, prompt: str, side: int) -> Any:
    # A generator of its own for each prompt: a prompt that is added later changes no other picture.
    noise = torch.Generator().manual_seed(settings.validation_seed)
    return pipe(
        prompt,
        height=side,
        width=side,
        num_inference_steps=settings.validation_denoising,
        guidance_scale=settings.validation_guidance,
        generator=noise,
        **exact_size(pipe),
    ).images[0]


def _write(folder: Path, pictures: Sequence[Any]) -> list[Path]:
    paths = []
    for number, picture in enumerate(pictures):
        paths.append(folder / f"{number}.png")
        write_png(paths[-1], picture)
    return paths


def drawn_steps(output: Path) -> list[tuple[int, list[Path]]]:
    """(step, pictures by prompt) of what was drawn so far."""
    folders = sorted((output / FOLDER).glob("step-*"))
    return [(int(folder.name[5:]), sorted(folder.glob("*.png"), key=lambda path: int(path.stem))) for folder in folders]
