"""A linear layer with random weights and an adapter, on the device and in torch."""

from __future__ import annotations

import torch
from systolora.offloading.layer import OffloadedLayer
from systolora.offloading.linear import Adapter, offloaded_linear
from systolora.offloading.quantization import QuantizationConfig
from systolora.offloading.session import Session
from systolora.sim.functional.emulator import EmulatorDevice
from torch import Tensor
from torch.nn import functional

OUT, IN, RANK, SCALING = 48, 40, 4, 0.5


class Problem:
    """A layer with random weights, as leaves, and its reference in torch."""

    def __init__(self, tokens: tuple[int, ...] = (3, 11), seed: int = 0, rank: int = RANK) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        self.x = normal(*tokens, IN).requires_grad_()
        self.weight, self.bias = normal(OUT, IN), normal(OUT).requires_grad_()
        self.down, self.up = normal(rank, IN).requires_grad_(), normal(OUT, rank).requires_grad_()
        self.grad_y = normal(*tokens, OUT)
        self.leaves = {"x": self.x, "bias": self.bias, "down": self.down, "up": self.up}

    def results(self, y: Tensor) -> dict[str, Tensor]:
        grads = torch.autograd.grad(y, list(self.leaves.values()), self.grad_y.to(y.dtype))
        return {"y": y.detach(), **dict(zip(self.leaves, grads, strict=True))}

    def in_torch(self) -> dict[str, Tensor]:
        low = SCALING * (self.x @ self.down.T) @ self.up.T
        return self.results(functional.linear(self.x, self.weight, self.bias) + low)

    def offloaded(self, layer: OffloadedLayer) -> dict[str, Tensor]:
        return self.results(self.forward(layer))

    def forward(self, layer: OffloadedLayer) -> Tensor:
        return offloaded_linear(layer, self.x, self.weight, self.bias, Adapter(self.down, self.up, SCALING))


def make_layer(quantization: QuantizationConfig | None = None, index: int = 0, **device: object) -> OffloadedLayer:
    options = {"capacity_bytes": 1 << 24, **device}
    return OffloadedLayer(
        Session(EmulatorDevice(**options), quantization or QuantizationConfig()), "blocks.0.to_k", index
    )


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())
