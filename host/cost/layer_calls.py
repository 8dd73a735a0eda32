"""What a model's forward multiplies: every linear layer, convolution and attention product with its shapes, and who needs gradients.

The forward runs on the meta device under a torch function mode that sees each call. Weights of layers that get an adapter
are marked as requiring grad, so torch's own flags say which inputs need a gradient: what lies behind the first adapter does, what lies
before it does not. Nothing is run backward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from systolora.errors import UserError
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class LinearCall:
    """y[tokens, out] = x[tokens, in] W^T; `source` is equal for calls on the same x."""

    name: str
    tokens: int
    in_features: int
    out_features: int
    bias: bool
    adapted: bool
    input_grad: bool
    source: int


@dataclass(frozen=True)
class ConvolutionCall:
    """A convolution of `batch` images of height x width x in_channels."""

    name: str
    batch: int
    height: int
    width: int
    out_height: int
    out_width: int
    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    stride: int
    padding: tuple[int, int]
    bias: bool
    adapted: bool
    input_grad: bool
    source: int


@dataclass(frozen=True)
class AttentionCall:
    """softmax(q k^T) v for `heads` (batch included) heads: queries x width, keys x width, keys x value_width."""

    name: str
    heads: int
    queries: int
    keys: int
    width: int
    value_width: int
    query_grad: bool
    key_grad: bool
    value_grad: bool


Call = LinearCall | ConvolutionCall | AttentionCall


class _Recorder(TorchFunctionMode):
    """Records calls in the order in which they happen."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._names = {id(weight): name.removesuffix(".weight") for name, weight in model.named_parameters()}
        self._attention: list[str] = []
        # Tensors are kept alive, so that no two of them ever share an id.
        self._alive: list[Any] = []
        self._record: dict[Any, Callable[..., None]] = {
            functional.linear: self._linear,
            functional.conv2d: self._convolution,
            functional.scaled_dot_product_attention: self._fused_attention,
        }

    def enter(self, name: str) -> None:
        """A module begins its forward."""
        self._attention.append(name)

    def leave(self) -> None:
        """It has ended."""
        self._attention.pop()

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Records what is multiplied and computes the result's shape."""
        kwargs = kwargs or {}
        record = self._record.get(function)
        if record:
            record(*args, **kwargs)
        elif function in (torch.bmm, torch.baddbmm):
            raise UserError(
                "this model multiplies its attention without scaled_dot_product_attention; set AttnProcessor2_0"
            )
        return function(*args, **kwargs)

    def _source(self, x: Tensor) -> int:
        self._alive.append(x)
        return id(x)

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
        self.calls.append(
            LinearCall(
                name=self._names.get(id(weight), "(unnamed)"),
                tokens=prod(x.shape[:-1]),
                in_features=x.shape[-1],
                out_features=weight.shape[0],
                bias=bias is not None,
                adapted=weight.requires_grad,
                input_grad=x.requires_grad,
                source=self._source(x),
            )
        )

    def _convolution(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> None:
        steps, pads = _pair(stride), _pair(padding)
        if groups != 1 or _pair(dilation) != (1, 1) or steps[0] != steps[1]:
            raise UserError("grouped, dilated and anisotropic convolutions have no implicit GEMM on this accelerator")
        kernel = (weight.shape[2], weight.shape[3])
        batch, channels, height, width = x.shape
        self.calls.append(
            ConvolutionCall(
                name=self._names.get(id(weight), "(unnamed)"),
                batch=batch,
                height=height,
                width=width,
                out_height=(height + 2 * pads[0] - kernel[0]) // steps[0] + 1,
                out_width=(width + 2 * pads[1] - kernel[1]) // steps[1] + 1,
                in_channels=channels,
                out_channels=weight.shape[0],
                kernel=kernel,
                stride=steps[0],
                padding=pads,
                bias=bias is not None,
                adapted=weight.requires_grad,
                input_grad=x.requires_grad,
                source=self._source(x),
            )
        )

    def _fused_attention(self, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> None:
        self.calls.append(
            AttentionCall(
                name=self._attention[-1] if self._attention else "attention",
                heads=prod(query.shape[:-2]),
                queries=query.shape[-2],
                keys=key.shape[-2],
                width=query.shape[-1],
                value_width=value.shape[-1],
                query_grad=query.requires_grad,
                key_grad=key.requires_grad,
                value_grad=value.requires_grad,
            )
        )


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def record_calls(model: nn.Module, inputs: Mapping[str, Any], adapted: Callable[[str], bool]) -> list[Call]:
    """The multiplications of one forward, in order.

    Args:
        model: frozen, on the meta device.
        inputs: arguments of its forward.
        adapted: whether the linear layer of a name gets an adapter.

    Raises:
        UserError: for convolutions and attention that the accelerator has no GEMM for, or if no layer is adapted.
    """
    layers = [module for name, module in model.named_modules() if isinstance(module, nn.Linear) and adapted(name)]
    if not layers:
        raise UserError(f"no linear layer of this {type(model).__name__} is adapted; choose other layers with --adapt")
    for layer in layers:
        layer.weight.requires_grad_(True)
    recorder = _Recorder(model)
    hooks = []
    for name, module in model.named_modules():
        if "Attention" in type(module).__name__:
            hooks.append(module.register_forward_pre_hook(lambda *_, name=name: recorder.enter(name)))
            hooks.append(module.register_forward_hook(lambda *_: recorder.leave()))
    try:
        with recorder:
            model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
        for layer in layers:
            layer.weight.requires_grad_(False)
    return recorder.calls
