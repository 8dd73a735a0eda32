"""Pictures in and out of the demo model: load its pipeline, generate, convert between bytes and tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

_PICTURES_AT_ONCE = 64


def load_sprite_pipeline(folder: Path) -> StableDiffusionPipeline:
    """The pipeline of that folder on the CPU, its modules in evaluation mode, its progress bar off.

    Weights are float32, also where the file stores 16 bits.
    Raises ValueError if the folder holds no pipeline.
    """
    if not (Path(folder) / "model_index.json").is_file():
        raise ValueError(f"{folder} holds no model_index.json; give the folder of a saved diffusers pipeline")
    pipeline = StableDiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    pipeline.to(torch.float32)  # transformers keeps the type of the file
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate_pictures(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    seed: int = 0,
    guidance: float = 2.0,
    steps: int = 25,
) -> np.ndarray:
    """One picture a prompt, uint8 [n, height, width, 3].

    Prompt number i starts from noise of its own seed, whatever the other prompts are. `guidance` is
    classifier-free guidance (1 turns it off), `steps` the number of denoising steps. Raises ValueError if
    there are no prompts.
    """
    if not prompts:
        raise ValueError("no prompts given: give at least one text")
    parts = []
    for start in range(0, len(prompts), _PICTURES_AT_ONCE):
        some = list(prompts[start : start + _PICTURES_AT_ONCE])
        generators = [_generator(seed, start + index) for index in range(len(some))]
        result = pipeline(
            some,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generators,
            output_type="np",
        )
        parts.append((result.images * 255).round().astype(np.uint8))
    return np.concatenate(parts)


def pictures_to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """uint8 [n, height, width, 3] to float32 [n, 3, height, width] in -1 to 1."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def tensor_to_pictures(images: torch.Tensor) -> np.ndarray:
    """float [n, 3, height, width], clamped to -1 to 1, to uint8 [n, height, width, 3]."""
    scaled = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).numpy()


def _generator(seed: int, index: int) -> torch.Generator:
    # Seeds of neighbouring runs stay apart as long as a run has fewer than a million prompts.
    return torch.Generator().manual_seed(seed * 1_000_003 + index)
