"""The linear layer on the device, with its gradients: one autograd function for adapted and for frozen layers.

With tokens on rows, `down` [rank, in], `up` [out, rank], s = alpha / rank:

    h = x down^T        y = x W^T + bias + s (h up^T)        grad_h = s (g up)
    grad_up = s (g^T h)        grad_down = grad_h^T x        grad_x = g W + grad_h down

The kinds that `QuantizationConfig.int8_kinds` names run on the device, one program forward and one backward; the others here, in
float32. The frozen weight gets no gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from systolora.hls.isa import Axis
from systolora.programs.buffers import Lease
from systolora.programs.transfers import as_own_tensor, element_type
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from .layer import Factors, OffloadedLayer
from .layer_programs import BackwardPlan, ForwardPlan, weight_plan
from .layer_writer import LayerShape
from .shared_inputs import InputCopies, is_shared


@dataclass(frozen=True)
class Adapter:
    """The low-rank part of a layer: down [rank, in], up [out, rank], scaling = alpha / rank.

    Attributes:
        x: what the adapter sees instead of the layer's x (dropout), of the same shape, or None.
    """

    down: Tensor
    up: Tensor
    scaling: float
    x: Tensor | None = None


def offloaded_linear(
    layer: OffloadedLayer, x: Tensor, weight: Tensor, bias: Tensor | None = None, adapter: Adapter | None = None
) -> Tensor:
    """y = x W^T + bias + scaling ((x down^T) up^T), differentiable in x, bias, down and up.

    Args:
        x: [..., in] of any floating type; float32 inside. weight: [out, in], frozen. bias: [out] or None.

    Returns:
        [..., out], in the type of x, or in autocast's if that is on, as torch's own linear does.

    Raises:
        NonFiniteTensorError: if a tensor to be quantized holds a NaN or an infinity. In the backward pass nothing is raised: then all
            gradients of the layer are NaN, but for that of the bias.
        RuntimeError: if the offload was undone.
    """
    layer.session.check_open(layer.name)
    device_type = x.device.type
    dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else x.dtype
    down, up = (adapter.down, adapter.up) if adapter else (None, None)
    call = _Call(layer, adapter.scaling if adapter else 0.0, torch.is_grad_enabled(), dtype, layer.copies_of(x))
    return _OffloadedLinear.apply(call, x, adapter.x if adapter else None, weight, bias, down, up)


@dataclass(frozen=True)
class _Call:
    """What of a call is no tensor. keep: a backward pass may follow. dtype: of the result. copies: those of x."""

    layer: OffloadedLayer
    scaling: float
    keep: bool
    dtype: torch.dtype
    copies: InputCopies

    def on(self, kind: str) -> bool:
        """Whether a kind of GEMM runs on the device."""
        return kind in self.layer.session.quantization.int8_kinds


class _OffloadedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, x: Tensor, x_low: Tensor | None, weight: Tensor, *rest: Tensor | None) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return as_own_tensor(_Forward(ctx, call, x, x_low, weight, *rest).run())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(grad_y.device.type, enabled=False):
            return _Backward(ctx, grad_y).run()


class _Forward:
    """One forward call: what runs in torch before the program, the program, what runs in torch after it."""

    def __init__(
        self,
        ctx: Any,
        call: _Call,
        x: Tensor,
        x_low: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor | None,
        up: Tensor | None,
    ) -> None:
        self.ctx, self.call, self.layer = ctx, call, call.layer
        self.shape = LayerShape(
            weight.shape[1], weight.shape[0], 0 if down is None else down.shape[0], bias is not None
        )
        self.lead = x.shape[:-1]
        self.tokens = self.lead.numel()
        self.x = x.reshape(self.tokens, self.shape.in_features)
        self.x_low = self.x if x_low is None else x_low.reshape(self.x.shape)
        self.masked = x_low is not None
        self.weight, self.bias, self.down, self.up = weight, bias, down, up
        needs = ctx.needs_input_grad
        self.need_down, self.need_up = call.keep and needs[5], call.keep and needs[6]
        ctx.call, ctx.shape, ctx.lead, ctx.masked = call, self.shape, self.lead, self.masked
        ctx.x_dtype, ctx.x_low_dtype = x.dtype, None if x_low is None else x_low.dtype
        self.factors = None if down is None or up is None else self.layer.factors_of(down, up)
        ctx.factors, ctx.weight_seen = self.factors, None

    def run(self) -> Tensor:
        """y [..., out]; leaves in the context what backward needs."""
        if self.tokens == 0:
            self.ctx.save_for_backward(self.weight, self.down, self.up, None, None, None, None)
            return self.x.new_zeros(*self.lead, self.shape.out_features, dtype=self.call.dtype)
        hidden = None
        if self.down is not None and not self.call.on("forward_down"):
            hidden = self.x_low.float() @ self.down.float().T
            self.layer.count_float32("forward_down", self.tokens * self.down.numel())
        results, anchors = self._program(hidden)
        hidden = results.get("h", hidden)
        y = self._add_float32(results.get("y"), hidden)
        on = self.call.on
        kept_x = self.x_low if self.need_down and not on("grad_down") else None
        kept_h = hidden if self.need_up and not on("grad_up") else None
        self.ctx.save_for_backward(self.weight, self.down, self.up, *anchors, kept_x, kept_h)
        return y.reshape(*self.lead, self.shape.out_features).to(self.x.device, self.call.dtype)

    def _program(self, hidden: Tensor | None) -> tuple[dict[str, Tensor], list[Tensor | None]]:
        """Runs the program; returns its results, and the anchors of x and h if backward needs them."""
        on, layer = self.call.on, self.layer
        factors = self._new_factors()
        plan = ForwardPlan(
            self.shape,
            self.tokens,
            layer.session.transfer_type(self.x.dtype),
            scaling=self.call.scaling if self.down is not None else 0.0,
            masked=self.masked,
            refresh=factors is not None,
            keep_input=self.need_down and on("grad_down"),
            keep_hidden=self.need_up and on("grad_up"),
            result=layer.session.transfer_type(self.call.dtype, added=self.down is not None),
            present=self.call.copies.present,
        )
        template = layer.session.template(plan)
        if template.empty:
            return {}, [None, None]
        if on("forward_base"):
            plan_of_weight = weight_plan(self.shape, element_type(self.weight.dtype))
            self.ctx.weight_seen = layer.place_weight(self.weight, plan_of_weight)
            if self.bias is not None:
                layer.place_bias(self.bias, template.sizes["bias"])
        values = {"x": self.x, "x_low": self.x_low, "h": hidden, "down": self.down, "up": self.up}
        made = {"h"} if hidden is None else set()
        inputs = _inputs(template.names, values, made)
        leases = self._leases(template.sizes)
        wanted = {"y"}
        if self.down is not None and (not on("forward_up") or (self.need_up and not on("grad_up"))):
            wanted |= made
        outputs = [name for name in template.names if name in wanted]
        results = layer.run(template, inputs, leases, outputs, factors)
        self.call.copies.leases.update((name, held) for name, held in leases.items() if is_shared(name))
        keep = layer.session.pool.keep
        # A copy of x that another layer made is no part of this program, but backward needs it all the same.
        held = {**self.call.copies.leases, **leases}
        kept = {layer.input_space(Axis.COLUMN, self.masked): plan.keep_input, "saved": plan.keep_hidden}
        return results, [keep(held[name]) if needed else None for name, needed in kept.items()]

    def _leases(self, sizes: Mapping[str, int]) -> dict[str, Lease]:
        """Where the int8 copies of x and h lie: those that are there already, and room for the others."""
        held = self.call.copies.leases
        names = [name for name in sizes if name == "saved" or name.startswith("x_")]
        return {name: held.get(name) or self.layer.session.pool.lease(sizes[name], name) for name in names}

    def _new_factors(self) -> Factors | None:
        """The factors, if the program has to quantize them anew."""
        used = self.call.on("forward_down") or self.call.on("forward_up")
        if self.factors is None or not used or self.layer.holds(self.factors):
            return None
        return self.factors

    def _add_float32(self, y: Tensor | None, hidden: Tensor | None) -> Tensor:
        """y from the device, with the parts that are switched to float32."""
        if not self.call.on("forward_base"):
            base = functional.linear(
                self.x.float(), self.weight.float(), None if self.bias is None else self.bias.float()
            )
            self.layer.count_float32("forward_base", self.tokens * self.weight.numel())
            y = base if y is None else base + y.to(base.device)
        assert y is not None
        if self.up is not None and hidden is not None and not self.call.on("forward_up"):
            low = hidden.to(self.up.device) @ self.up.float().T
            y = y.to(low.device) + self.call.scaling * low
            self.layer.count_float32("forward_up", self.tokens * self.up.numel())
        return y


class _Backward:
    """One backward call: what runs in torch before the program, the program, what runs in torch after it."""

    def __init__(self, ctx: Any, grad_y: Tensor) -> None:
        self.ctx, self.call, self.layer = ctx, ctx.call, ctx.call.layer
        self.shape: LayerShape = ctx.shape
        # torch's own check that nothing changed since the forward pass lies in this access, so down and up are saved as well.
        self.weight, _, _, self.anchor_x, self.anchor_h, self.kept_x, self.kept_h = ctx.saved_tensors
        self.factors: Factors | None = ctx.factors
        self.down: Any = self.factors.down if self.factors else None
        self.up: Any = self.factors.up if self.factors else None
        _, self.need_x, self.need_x_low, _, self.need_bias, self.need_down, self.need_up = ctx.needs_input_grad
        self.tokens = grad_y.shape[:-1].numel()
        self.g = grad_y.reshape(self.tokens, self.shape.out_features)
        self.need_low_rank = self.shape.rank > 0 and (self.need_x_low if ctx.masked else self.need_x)
        self.need_hidden = self.shape.rank > 0 and (self.need_down or self.need_low_rank)
        self.results: dict[str, Tensor] = {}

    def run(self) -> tuple[Tensor | None, ...]:
        """Gradients of (call, x, x_low, weight, bias, down, up)."""
        self.layer.session.check_open(self.layer.name)
        if self.tokens == 0:
            self.results = self._zeros()
        else:
            hidden = self._hidden_in_float32()
            self._program(hidden)
            self._add_float32(self.results.get("grad_h", hidden))
        grad_bias = self.g.float().sum(0) if self.need_bias else None
        return (
            None,
            self._shaped("grad_x", self.ctx.x_dtype) if self.need_x else None,
            self._shaped("grad_x_low", self.ctx.x_low_dtype) if self.ctx.masked and self.need_low_rank else None,
            None,
            grad_bias,
            self._like("grad_down", self.down) if self.need_down else None,
            self._like("grad_up", self.up) if self.need_up else None,
        )

    def _hidden_in_float32(self) -> Tensor | None:
        if not self.need_hidden or self.call.on("grad_hidden"):
            return None
        self.layer.count_float32("grad_hidden", self.tokens * self.up.numel())
        return self.call.scaling * (self.g.float() @ self.up.float())

    def _program(self, hidden: Tensor | None) -> None:
        on, layer = self.call.on, self.layer
        used = (self.need_hidden and on("grad_hidden")) or (self.need_low_rank and on("grad_input_low_rank"))
        factors = self.factors if used and self.factors and not layer.holds(self.factors) else None
        plan = BackwardPlan(
            self.shape,
            self.tokens,
            layer.session.transfer_type(self.g.dtype),
            scaling=self.call.scaling,
            masked=self.ctx.masked,
            refresh=factors is not None,
            need_input=self.need_x,
            need_low_rank=self.need_low_rank,
            need_down=self.need_down,
            need_up=self.need_up,
            result=layer.session.transfer_type(self.ctx.x_dtype, added=self.need_low_rank),
        )
        template = layer.session.template(plan)
        if template.empty:
            return
        if self.need_x and on("grad_input_base"):
            plan_of_weight = weight_plan(self.shape, element_type(self.weight.dtype))
            layer.place_weight(self.weight, plan_of_weight, seen=self.ctx.weight_seen)
        values = {"g": self.g, "grad_h": hidden, "down": self.down, "up": self.up}
        outputs = {"grad_x", "grad_x_low", "grad_up", "grad_down"}
        made = {"grad_h"} if hidden is None else set()
        if (self.need_down and not on("grad_down")) or (self.need_low_rank and not on("grad_input_low_rank")):
            outputs |= made
        inputs = _inputs(template.names, values, made)
        anchors = {layer.input_space(Axis.COLUMN, self.ctx.masked): self.anchor_x, "saved": self.anchor_h}
        saved = {name: layer.session.pool.kept(anchors[name]) for name in anchors if name in template.sizes}
        wanted = [name for name in template.names if name in outputs]
        self.results = layer.run(template, inputs, saved, wanted, factors, gradient=True)

    def _add_float32(self, hidden: Tensor | None) -> None:
        """The gradients whose kinds are switched to float32."""
        on, results, count = self.call.on, self.results, self.layer.count_float32
        if self.need_x and not on("grad_input_base"):
            count("grad_input_base", self.tokens * self.weight.numel())
            self._add("grad_x", self.g.float() @ self.weight.float())
        if self.need_up and not on("grad_up"):
            count("grad_up", self.tokens * self.up.numel())
            results["grad_up"] = self.call.scaling * (self.g.float().T @ self.kept_h.to(self.g.device))
        if hidden is None:
            return
        if self.need_down and not on("grad_down"):
            count("grad_down", self.tokens * self.down.numel())
            results["grad_down"] = hidden.to(self.kept_x.device).T @ self.kept_x.float()
        if self.need_low_rank and not on("grad_input_low_rank"):
            count("grad_input_low_rank", self.tokens * self.down.numel())
            low = hidden.to(self.down.device) @ self.down.float()
            self._add("grad_x_low" if self.ctx.masked else "grad_x", low)

    def _add(self, name: str, value: Tensor) -> None:
        there = self.results.get(name)
        self.results[name] = value if there is None else there.to(value.device) + value

    def _zeros(self) -> dict[str, Tensor]:
        x = torch.zeros(0, self.shape.in_features)
        sizes = {"grad_x": x, "grad_x_low": x, "grad_down": self.down, "grad_up": self.up}
        return {name: torch.zeros(like.shape) for name, like in sizes.items() if like is not None}

    def _shaped(self, name: str, dtype: torch.dtype) -> Tensor:
        grad = self.results[name].reshape(*self.ctx.lead, self.shape.in_features)
        return grad.to(self.g.device, dtype)

    def _like(self, name: str, parameter: Tensor) -> Tensor:
        return self.results[name].to(parameter.device, parameter.dtype)


def _inputs(names: tuple[str, ...], values: dict[str, Tensor | None], made: set[str]) -> dict[str, Tensor]:
    """What the host writes: the named matrices that it has and that the program does not make itself."""
    return {name: value for name, value in values.items() if name in names and name not in made and value is not None}
