"""The built-in sprite pipeline saved as people store theirs: in 16 bits, as a variant, in shards."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from systolora.assets import pipeline_folder
from systolora.libraries import quiet_libraries

MODELS = ("unet", "vae", "text_encoder")


def copy_of_the_pipeline(folder: Path) -> Path:
    """A plain copy, to be damaged."""
    return Path(shutil.copytree(pipeline_folder(), folder))


def stored_as(
    folder: Path,
    dtype: torch.dtype,
    variant: str | None = None,
    shard: str = "10GB",
    rounded_to: torch.dtype | None = None,
) -> Path:
    """The pipeline saved with weights of `dtype`, after they were rounded to another type.

    The built-in one is stored in 16 bits itself: its weights are moved off that grid first, always in the same way.
    """
    quiet_libraries()
    pipeline = StableDiffusionPipeline.from_pretrained(pipeline_folder(), local_files_only=True)
    random = torch.Generator().manual_seed(0)
    for name in MODELS:
        for parameter in getattr(pipeline, name).parameters():
            parameter.data = parameter.float() * (1 + 1e-3 * torch.randn(parameter.shape, generator=random))
    if rounded_to is not None:
        pipeline.to(rounded_to)
    pipeline.to(dtype).save_pretrained(folder, variant=variant, max_shard_size=shard)
    return folder
