"""What a training step multiplies: every linear layer, convolution and attention product with its shapes, and who needs gradients.

The step runs on the meta device under a torch function mode that sees each call. Weights of layers that get an adapter
are marked as requiring grad, so torch's own flags say which inputs need a gradient: what lies behind the first adapter does, what lies
before it does not. What is computed beside the products is counted in the same pass (`host_operators`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from systolora.errors import UserError
from systolora.offloading.attention import attention_modules
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .host_operators import KeptTensors, OperatorCount, StandIn
from .step_trace import AttentionCall, Call, ConvolutionCall, LinearCall, Placement, Trace


class _Recorder(TorchFunctionMode):
    """Records calls in the order in which they happen."""

    def __init__(self, model: nn.Module, placement: Placement) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._placement = placement
        self._names = {id(weight): name.removesuffix(".weight") for name, weight in model.named_parameters()}
        self._attention: list[str] = []
        # Tensors are kept alive, so that no two of them ever share an id.
        self._alive: list[Any] = []
        self._record: dict[Any, Callable[..., Tensor]] = {
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
        """Records what is multiplied, in place of which an empty result stands; has everything else run."""
        kwargs = kwargs or {}
        record = self._record.get(function)
        if record:
            return record(*args, **kwargs)
        if function in (torch.bmm, torch.baddbmm):
            raise UserError(
                "this model multiplies its attention without scaled_dot_product_attention; set AttnProcessor2_0"
            )
        return function(*args, **kwargs)

    def _source(self, x: Tensor) -> int:
        self._alive.append(x)
        return id(x)

    def _note(self, call: Call) -> bool:
        """Records a call; whether the device runs it."""
        self.calls.append(call)
        return self._placement.on_device(call)

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        offloaded = self._note(
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
        # peft keeps x for the adapter's gradient; the device has an int8 copy of its own, and a frozen linear layer needs none.
        saved = (0,) if weight.requires_grad and not offloaded else ()
        shape = (*x.shape[:-1], weight.shape[0])
        return StandIn.apply(lambda: torch.empty(shape, device="meta"), saved, False, x, weight)

    def _convolution(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        steps, pads = _pair(stride), _pair(padding)
        if groups != 1 or _pair(dilation) != (1, 1) or steps[0] != steps[1]:
            raise UserError("grouped, dilated and anisotropic convolutions have no implicit GEMM on this accelerator")
        kernel = (weight.shape[2], weight.shape[3])
        batch, channels, height, width = x.shape
        out_size = tuple(
            (size + 2 * pad - k) // steps[0] + 1 for size, pad, k in zip(x.shape[2:], pads, kernel, strict=True)
        )
        offloaded = self._note(
            ConvolutionCall(
                name=self._names.get(id(weight), "(unnamed)"),
                batch=batch,
                height=height,
                width=width,
                out_height=out_size[0],
                out_width=out_size[1],
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
        # Results of the device lie channels last; torch's own convolution keeps its input.
        form = torch.channels_last if offloaded else torch.contiguous_format
        shape = (batch, weight.shape[0], *out_size)
        saved = () if offloaded else (0,)
        return StandIn.apply(lambda: torch.empty(shape, device="meta", memory_format=form), saved, False, x, weight)

    def _fused_attention(self, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        offloaded = self._note(
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
        shape = (*query.shape[:-1], value.shape[-1])
        # torch's fused kernel keeps its result and computes the probabilities again; ours keeps the probabilities.
        return StandIn.apply(lambda: torch.empty(shape, device="meta"), (0, 1, 2), not offloaded, query, key, value)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def record_step(model: nn.Module, inputs: Mapping[str, Any], placement: Placement) -> Trace:
    """One training step, forward and backward.

    Args:
        model: frozen, on the meta device.
        inputs: arguments of its forward.

    Raises:
        UserError: for convolutions and attention that the accelerator has no GEMM for, or if no layer is adapted.
    """
    layers = [
        module for name, module in model.named_modules() if isinstance(module, nn.Linear) and name in placement.adapted
    ]
    if not layers:
        raise UserError(f"no linear layer of this {type(model).__name__} is adapted; choose other layers with --adapt")
    for layer in layers:
        layer.weight.requires_grad_(True)
    recorder, operators = _Recorder(model, placement), OperatorCount()
    kept = KeptTensors([*model.parameters(), *model.buffers()])
    hooks = []
    for name, module in attention_modules(model):
        hooks.append(module.register_forward_pre_hook(lambda *_, name=name: recorder.enter(name)))
        hooks.append(module.register_forward_hook(lambda *_: recorder.leave()))
    try:
        with operators:
            with recorder, kept.hooks():
                result = model(**inputs)[0]
            result.backward(torch.empty_like(result))
    finally:
        for hook in hooks:
            hook.remove()
        for layer in layers:
            layer.weight.requires_grad_(False)
    return Trace(tuple(recorder.calls), dict(operators.elements), kept.nbytes)
