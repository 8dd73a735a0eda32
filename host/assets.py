"""Where the files that ship inside the package lie: the trained demo model and its judge."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def pipeline_folder() -> Path:
    """The folder of the trained sprite pipeline, an ordinary Stable Diffusion folder of diffusers.

    Raises FileNotFoundError, saying how to make it, where the package was installed without its data.
    """
    return _shipped("sprite_pipeline", "model_index.json")


def judge_file() -> Path:
    """The safetensors file of the trained judge; raises FileNotFoundError as `pipeline_folder` does."""
    return _shipped("judge.safetensors")


def _shipped(name: str, inner: str = "") -> Path:
    path = Path(str(files("systolora"))) / "data" / name
    if not (path / inner).exists():
        raise FileNotFoundError(
            f"{path / inner} is missing from this installation of systolora; install the wheel again, "
            "or make the demo model with: python -m systolora.demo.pretrain --out DIR"
        )
    return path
