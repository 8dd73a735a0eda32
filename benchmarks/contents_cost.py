"""What reading tensors for their contents costs in a training step: the same steps with the checks and, in turns, with checks that read nothing.

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

REPEATS = 5


def main() -> None:
    """Prints the table."""
    table = Table(title="a step with the checks, in steps without")
    for title in ("dtype", "frozen weights", "ratio"):
        table.add_column(title, justify="right")
    for dtype, released in ((torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)):
        name = str(dtype).removeprefix("torch.")
        table.add_row(name, "released" if released else "kept", f"{measure(dtype, released):.3f}")
    Console().print(table)


def measure(dtype: torch.dtype, released: bool) -> float:
    """Median of the ratios of neighbouring steps, processor time."""
    step = training_step(dtype, released)
    step()
    step()
    ratios = []
    for _ in range(REPEATS):
        use(contents_of)
        checked = timed(step)
        use(_by_identity)
        ratios.append(checked / timed(step))
    use(contents_of)
    return median(ratios)


def training_step(dtype: torch.dtype, released: bool) -> Callable[[], None]:
    """Forward and backward of a small U-Net, all layers offloaded, on latents of 16 x 16."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16,
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
    latents, text = torch.randn(1, 4, 16, 16, dtype=dtype), torch.randn(1, 77, 768, dtype=dtype)

    def step() -> None:
        unet(latents, 500, text).sample.square().sum().backward()

    return step


def use(check: Callable[[Tensor], Contents]) -> None:
    """Has the offload find contents in another way."""
    layer.contents_of = check  # type: ignore[attr-defined]
    shared_inputs.contents_of = check  # type: ignore[attr-defined]


def timed(step: Callable[[], None]) -> float:
    """Processor seconds of a step."""
    began = time.process_time()
    step()
    return time.process_time() - began


def _by_identity(tensor: Tensor) -> Contents:
    """As if nothing ever changed in place."""
    return tensor.dtype, tensor.shape, False, str(tensor.data_ptr()).encode()


if __name__ == "__main__":
    main()
