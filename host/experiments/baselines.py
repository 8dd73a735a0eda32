"""What IntLoRA is compared with, under the same quantizers: quantization after training, and quantization-aware LoRA."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from numpy.typing import NDArray
from systolora.intlora.quantizers import Float32, RowGrid, search_grid
from systolora.intlora.rules import Adapted, IntegerWeight, Rule
from torch import nn


def quantize_rows(weight: Float32, bits: int) -> IntegerWeight:
    """Post-training quantization: per output channel, affine, minimum error; float32 [out, in]."""
    grid = search_grid(np.ascontiguousarray(weight, np.float32), bits)
    return IntegerWeight(grid.integers(grid.encode(weight)), grid.scale)


class RowRule(Rule):
    """Quantization-aware LoRA: W + AB on a grid per output channel that is searched once on W."""

    grid: RowGrid

    def __init__(self, weight: Float32, bits: int) -> None:
        super().__init__(weight)
        self.bits = bits
        self.calibrate(np.zeros_like(self.weight))

    def calibrate(self, product: Float32) -> None:
        """Searches the grid on W + AB."""
        self.grid = search_grid(self.weight + product, self.bits)

    def apply(self, product: Float32) -> Adapted:
        """The integers of W + AB; gain 1 inside the grid, 0 outside."""
        unclipped = self.grid.unclipped(self.weight + product)
        codes = np.clip(unclipped, self.grid.low, self.grid.high).astype(np.int32)
        gain = (codes == unclipped).astype(np.float32)
        return Adapted(IntegerWeight(self.grid.integers(codes), self.grid.scale), gain)

    def state(self) -> dict[str, NDArray]:
        """Scale and zero of the grid."""
        return {"scale": self.grid.scale, "zero": self.grid.zero}

    def restore(self, state: dict[str, NDArray]) -> None:
        """Takes what `state` gave."""
        self.grid = RowGrid(state["scale"], state["zero"], self.grid.low, self.grid.high)


@torch.no_grad()
def quantize_others(model: nn.Module, bits: int, except_for: Collection[str]) -> int:
    """Puts the weights of all other Linear and convolution layers on their grid of `bits` bits, in place; how many layers."""
    count = 0
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and name not in except_for:
            flat = module.weight.detach().float().reshape(len(module.weight), -1).numpy()
            module.weight.copy_(torch.from_numpy(quantize_rows(flat, bits).real()).reshape(module.weight.shape))
            count += 1
    return count
