"""One adapted layer with integer weights: when the low-rank factors change its integers are made anew, and it is multiplied by them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from systolora.programs.transfers import as_own_tensor
from torch import Tensor
from torch.autograd.function import once_differentiable

from .engine import Engine, PlacedWeight
from .rules import Adapted, Rule
from .targets import frozen_array, same_values

RuleMaker = Callable[[np.ndarray, str], Rule]
"""From a frozen weight, float32 [out, in], and its layer's name to the rule of its integers."""


class IntegerLayer:
    """What belongs to one layer beside its parameters.

    Attributes:
        rule: from low-rank product to integers. engine: where the GEMMs run. fallbacks: calls that ran in peft's own forward.
        remade: how often the frozen weight had changed.
    """

    def __init__(self, name: str, weight: np.ndarray, make: RuleMaker, engine: Engine) -> None:
        self.name = name
        self.rule = make(weight, name)
        self.engine = engine
        self.fallbacks: Counter[str] = Counter()
        self.remade = 0
        self._make = make
        self._factors: tuple[Tensor, Tensor, float] | None = None
        self._current: tuple[Adapted, PlacedWeight] | None = None

    def forget(self) -> None:
        """Drops the integers; they are made anew at the next use."""
        self._factors = self._current = None

    def follow(self, weight: Tensor) -> None:
        """Makes the rule anew if the frozen weight [out, in] has other values than those that the rule was made of.

        All values are compared: a loaded, assigned or cast weight cannot be told by a version or an address. That is one pass over the
        weight, where making integers takes dozens.

        Raises:
            UserError: for a weight of which no integers can be made.
        """
        if not same_values(self.rule.weight, weight):
            self.rule = self._make(frozen_array(self.name, weight), self.name)
            self.remade += 1
            self.forget()

    def current(self, down: Tensor, up: Tensor, scaling: float) -> tuple[Adapted, PlacedWeight]:
        """The adapted integers of these factors, and where they lie."""
        if self._current is None or not self._unchanged(down, up, scaling):
            adapted = self.rule.apply(self.engine.product(self.name, up.detach(), down.detach(), scaling))
            self._current = None
            self._current = adapted, self.engine.place(self.name, adapted.weight)
            self._factors = down.detach().clone(), up.detach().clone(), scaling
        return self._current

    def recalibrate(self, down: Tensor, up: Tensor, scaling: float) -> None:
        """Searches the quantizers that depend on the factors anew."""
        self.rule.calibrate(self.engine.product(self.name, up.detach(), down.detach(), scaling))
        self.forget()

    def _unchanged(self, down: Tensor, up: Tensor, scaling: float) -> bool:
        if self._factors is None:
            return False
        old_down, old_up, old_scaling = self._factors
        return scaling == old_scaling and torch.equal(old_down, down) and torch.equal(old_up, up)


def integer_linear(
    layer: IntegerLayer, x: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scaling: float
) -> Tensor:
    """y = x W'^T + bias, differentiable in x, bias, down and up (straight through the rounding).

    Args:
        x: [..., in] of any floating type. down: [rank, in]. up: [out, rank]. scaling: alpha / rank.

    Returns:
        [..., out] in the type of x, or in autocast's if that is on.

    Raises:
        NonFiniteTensorError: if a tensor to be quantized holds a NaN or an infinity.
    """
    device_type = x.device.type
    dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else x.dtype
    return _IntegerLinear.apply(layer, scaling, dtype, torch.is_grad_enabled(), x, bias, down, up)


class _IntegerLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        layer: IntegerLayer,
        scaling: float,
        dtype: torch.dtype,
        grad_enabled: bool,
        x: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            lead = x.shape[:-1]
            adapted, placed = layer.current(down, up, scaling)
            keep = grad_enabled and (ctx.needs_input_grad[6] or ctx.needs_input_grad[7]) and lead.numel() > 0
            saved = None
            if lead.numel():
                y, saved = layer.engine.forward(layer.name, placed, x.reshape(lead.numel(), down.shape[1]), bias, keep)
            else:
                y = x.new_zeros(0, len(up))
            ctx.layer, ctx.scaling, ctx.adapted, ctx.placed = layer, scaling, adapted, placed
            ctx.lead, ctx.x_dtype = lead, x.dtype
            ctx.save_for_backward(saved, down, up)
            return as_own_tensor(y.reshape(*lead, len(up)).to(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(grad_y.device.type, enabled=False):
            layer: IntegerLayer = ctx.layer
            saved, down, up = ctx.saved_tensors
            need_x, need_bias, need_down, need_up = ctx.needs_input_grad[4:]
            g = grad_y.reshape(ctx.lead.numel(), len(up))
            grad_x = grad_down = grad_up = None
            if len(g):
                grad_x, grad_weight = layer.engine.backward(layer.name, ctx.placed, g, saved, need_x)
                if grad_weight is not None:
                    masked = grad_weight * torch.from_numpy(ctx.adapted.gain)
                    grad_up, grad_down = layer.engine.factor_gradients(layer.name, masked, up, down, ctx.scaling)
            else:
                grad_x, grad_down, grad_up = g.new_zeros(0, down.shape[1]), torch.zeros_like(down), torch.zeros_like(up)
            if grad_x is not None:
                grad_x = grad_x.reshape(*ctx.lead, down.shape[1]).to(ctx.x_dtype)
            return (
                *(None, None, None, None),
                grad_x if need_x else None,
                g.float().sum(0) if need_bias else None,
                grad_down.to(down.dtype) if need_down and grad_down is not None else None,
                grad_up.to(up.dtype) if need_up and grad_up is not None else None,
            )
