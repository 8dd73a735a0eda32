"""What reading tensors for their contents costs: its share of a training step's processor time, and its speed next to a plain copy of the same bytes.

OMP_NUM_THREADS=1 python benchmarks/contents_cost.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import systolora
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from rich.console import Console
from rich.table import Table
from systolora.offloading import layer, shared_inputs
from systolora.programs.contents import Contents, contents_of
from torch import Tensor

STEPS = 3
COPIES = 20


class Meter:
    """Stands for `contents_of`, and adds up its processor seconds and bytes."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.bytes = 0

    def __call__(self, tensor: Tensor) -> Contents:
        """What the tensor holds."""
        began = time.process_time()
        found = contents_of(tensor)
        self.seconds += time.process_time() - began
        self.bytes += tensor.numel() * tensor.element_size()
        return found


def main() -> None:
    """Prints the table."""
    table = Table(title="reading tensors for their contents")
    for title in (
        "dtype",
        "frozen weights",
        "read, MB a step",
        "share of the step",
        "step, s",
        "GB/s",
        "copy in cache, GB/s",
    ):
        table.add_column(title, justify="right")
    for dtype, released in ((torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)):
        table.add_row(str(dtype).removeprefix("torch."), "released" if released else "kept", *measure(dtype, released))
    Console().print(table)


def measure(dtype: torch.dtype, released: bool) -> list[str]:
    """The figures of one kind of model, medians of some steps."""
    step = training_step(dtype, released)
    step()
    meters, seconds = [], []
    for _ in range(STEPS):
        meters.append(Meter())
        layer.contents_of = meters[-1]  # type: ignore[attr-defined]
        shared_inputs.contents_of = meters[-1]  # type: ignore[attr-defined]
        began = time.process_time()
        step()
        seconds.append(time.process_time() - began)
    share = median(meter.seconds / whole for meter, whole in zip(meters, seconds, strict=True))
    speed = median(meter.bytes / meter.seconds for meter in meters)
    figures = (meters[0].bytes / 1e6, 100 * share, median(seconds), speed / 1e9, copy_speed(dtype) / 1e9)
    return [f"{value:.1f}{unit}" for value, unit in zip(figures, ("", " %", "", "", ""), strict=True)]


def copy_speed(dtype: torch.dtype) -> float:
    """Bytes a second of torch's copy of a weight of 320 x 320 x 3 x 3."""
    source = torch.randn(320, 320, 3, 3).to(dtype)
    target, seconds = torch.empty_like(source), []
    for _ in range(COPIES):
        began = time.process_time()
        target.copy_(source)
        seconds.append(time.process_time() - began)
    return source.numel() * source.element_size() / median(seconds)


def training_step(dtype: torch.dtype, released: bool) -> Callable[[], None]:
    """Forward and backward of a small U-Net, all layers offloaded, on latents of 8 x 8."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(160, 320),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=768,
    )
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    unet.to(dtype)
    systolora.offload(unet, targets="all", release_weights=released)
    latents, text = torch.randn(1, 4, 8, 8, dtype=dtype), torch.randn(1, 77, 768, dtype=dtype)

    def step() -> None:
        unet(latents, 500, text).sample.square().sum().backward()

    return step


if __name__ == "__main__":
    main()
