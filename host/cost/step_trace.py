"""What tracing a training step gives, as data: each multiplication with its shapes, and the elements of every other operator.

Nothing here needs torch: a list of GEMMs is simulated without waiting for it. `layer_calls` makes a trace.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

OPERATORS = {
    "add": ("add", "sub", "rsub"),
    "multiply": ("mul", "div", "neg", "reciprocal"),
    "copy": ("clone", "copy", "_to_copy", "constant_pad_nd", "fill", "zeros", "zeros_like", "new_zeros", "ones_like"),
    "concatenate": ("cat", "stack"),
    "norm": ("native_group_norm", "native_layer_norm"),
    "norm_gradient": ("native_group_norm_backward", "native_layer_norm_backward"),
    "silu": ("silu",),
    "silu_gradient": ("silu_backward",),
    "gelu": ("gelu",),
    "gelu_gradient": ("gelu_backward",),
    "softmax": ("_softmax",),
    "softmax_gradient": ("_softmax_backward_data",),
}
"""Names of operators, and what torch dispatches for each. Those of none are `OTHER`."""

OTHER = "other"


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

    @property
    def pixelwise(self) -> bool:
        """Whether it is a linear layer of each pixel."""
        return (self.kernel, self.stride, self.padding) == ((1, 1), 1, (0, 0))


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

    @property
    def needs_backward(self) -> bool:
        """Whether any input needs a gradient."""
        return self.query_grad or self.key_grad or self.value_grad


Call = LinearCall | ConvolutionCall | AttentionCall


@dataclass(frozen=True)
class Placement:
    """What of a model gets an adapter and what runs on the device, by the names of modules.

    Attributes:
        adapted: linear layers with an adapter. layers: linear layers and convolutions on the device.
        attention: attention modules whose products run there.
    """

    adapted: frozenset[str]
    layers: frozenset[str]
    attention: frozenset[str]

    def on_device(self, call: Call) -> bool:
        """Whether a call runs on the device."""
        return call.name in (self.attention if isinstance(call, AttentionCall) else self.layers)


@dataclass(frozen=True)
class Trace:
    """A training step.

    Attributes:
        calls: its multiplications, in the order of the forward.
        operators: elements by operator of all that is computed beside them, forward and backward; see `host_operators`.
        kept_bytes: what the processor's part keeps in float32 for the backward pass, without the probabilities of attention.
    """

    calls: tuple[Call, ...]
    operators: Mapping[str, int]
    kept_bytes: int
