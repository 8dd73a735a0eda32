"""Attention's products q k^T and p v on the device, with their gradients, for models that call torch's fused attention.

An attention module is left as it is: while its forward runs, the call of `scaled_dot_product_attention` inside goes to the device. A call that
it cannot do (a mask, dropout, causal, grouped heads) runs in torch and is counted. Unlike torch's kernel this keeps the probabilities for
the backward pass, [heads, queries, keys]; gradient checkpointing avoids that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from systolora.programs.transfers import as_own_tensor
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from .attention_programs import AttentionShape, ContextGradientPlan, ContextPlan, ScoresGradientPlan, ScoresPlan
from .layer import OffloadedLayer

_NAMES = ("attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


def offloaded_attention(layer: OffloadedLayer, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """softmax(scale q k^T) v, differentiable in q, k and v; the four products and their gradients run in INT8.

    Args:
        q: [..., queries, width]. k: [..., keys, width]. v: [..., keys, value_width]; all of one floating type.
        scale: by default 1 / sqrt(width).

    Returns:
        [..., queries, value_width] in the type of q.

    Raises:
        NonFiniteTensorError: if a tensor to be quantized holds a NaN or an infinity; in the backward pass the gradients are NaN then.
        RuntimeError: if the offload was undone.
    """
    layer.session.check_open(layer.name)
    element = layer.session.transfer_type(q.dtype)
    shape = AttentionShape(math.prod(q.shape[:-2]), q.shape[-2], k.shape[-2], q.shape[-1], v.shape[-1], element)
    return _Attention.apply(layer, shape, 1 / math.sqrt(shape.width) if scale is None else scale, q, k, v)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, layer: OffloadedLayer, shape: AttentionShape, scale: float, q: Tensor, k: Tensor, v: Tensor
    ) -> Tensor:
        session = layer.session
        inputs = {"q": q, "k": k}
        scores = layer.run(session.template(ScoresPlan(shape, scale)), inputs, outputs=["scores"])["scores"]
        p = torch.softmax(scores, -1)
        del scores
        template = session.template(ContextPlan(shape))
        o = layer.run(template, {"p": p, "v": v}, outputs=["o"])["o"]
        ctx.layer, ctx.shape, ctx.scale = layer, shape, scale
        ctx.save_for_backward(q, k, v, p)
        return as_own_tensor(_by_token(o.view(*q.shape[:-1], v.shape[-1])).to(q.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_o: Tensor) -> tuple[Tensor | None, ...]:
        layer, shape = ctx.layer, ctx.shape
        layer.session.check_open(layer.name)
        q, k, v, p = ctx.saved_tensors
        need_q, need_k, need_v = ctx.needs_input_grad[3:]
        plan = ContextGradientPlan(shape, need_v, need_q or need_k)
        found = _run(layer, plan, {"grad_o": grad_o, "p": p, "v": v})
        if need_q or need_k:
            # However it crossed, the difference is taken in float32, unless all of the model is in bfloat16.
            grad_p = found["grad_p"] if q.dtype == torch.bfloat16 else found["grad_p"].float()
            grad_s = softmax_gradient(p, grad_p)
            found |= _run(
                layer, ScoresGradientPlan(shape, ctx.scale, need_q, need_k), {"grad_s": grad_s, "k": k, "q": q}
            )
        like = {"grad_q": q, "grad_k": k, "grad_v": v}
        grads = [
            _by_token(found[name].view(x.shape)).to(x.dtype) if name in found else None for name, x in like.items()
        ]
        return None, None, None, *grads


def _by_token(x: Tensor) -> Tensor:
    """[..., heads, tokens, width] with a token's heads next to each other in memory, as those who ask for attention want them next.

    So this copy is theirs, and the strides are the same in whichever order the device stored x.
    """
    return x.transpose(-3, -2).contiguous().transpose(-3, -2) if x.dim() > 3 else x.contiguous()


def softmax_gradient(p: Tensor, grad_p: Tensor) -> Tensor:
    """The gradient of the scores, p (grad_p - sum(grad_p p)), in grad_p's type; all [..., queries, keys].

    By the kernel of torch's own softmax: one pass over the rows, each row by one thread, so the bits are the same for any number of them.
    """
    gradient: Tensor = torch._softmax_backward_data(grad_p, p.to(grad_p.dtype), -1, grad_p.dtype)
    return gradient


def _run(layer: OffloadedLayer, plan: Any, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Runs a gradient's program with those of the values that it takes; returns all its results."""
    template = layer.session.template(plan)
    inputs = {name: value for name, value in values.items() if name in template.names}
    outputs = [name for name in template.names if name not in values]
    return layer.run(template, inputs, outputs=outputs, gradient=True)


class _Redirect(TorchFunctionMode):
    """Sends torch's fused attention to the device."""

    def __init__(self, layer: OffloadedLayer) -> None:
        super().__init__()
        self._layer = layer

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is not functional.scaled_dot_product_attention:
            return function(*args, **kwargs)
        given = dict(zip(("query", "key", "value", *_NAMES), args, strict=False)) | kwargs
        reason = _reason(given)
        if reason:
            self._layer.fall_back(reason)
            return function(*args, **kwargs)
        return offloaded_attention(self._layer, given["query"], given["key"], given["value"], given.get("scale"))


def _reason(given: dict[str, Any]) -> str:
    """Why the device cannot do a call; "" if it can."""
    q, k, v = given["query"], given["key"], given["value"]
    if given.get("attn_mask") is not None:
        return "attention with a mask"
    if given.get("dropout_p") or given.get("is_causal") or given.get("enable_gqa"):
        return "attention with dropout, a causal mask or grouped heads"
    if (
        not q.dtype == k.dtype == v.dtype
        or not q.shape[:-2] == k.shape[:-2] == v.shape[:-2]
        or 0 in (*q.shape, *v.shape, *k.shape)
    ):
        return "attention of tensors of different types or leading dimensions, or of empty ones"
    return ""


def attention_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Names and modules that compute attention from projections, as those of diffusers: what has a processor does."""
    return [(name, module) for name, module in model.named_modules() if hasattr(module, "processor")]


def redirect(module: nn.Module, layer: OffloadedLayer) -> list[RemovableHandle]:
    """Has a module's attention products run on the device, until the hooks are removed."""
    entered: list[_Redirect] = []

    def enter(_: nn.Module, __: Any) -> None:
        if not layer.session.is_open:
            return  # a copy of a module whose offload was undone
        entered.append(_Redirect(layer))
        entered[-1].__enter__()

    def leave(_: nn.Module, __: Any, ___: Any) -> None:
        if entered:
            entered.pop().__exit__(None, None, None)

    return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]
