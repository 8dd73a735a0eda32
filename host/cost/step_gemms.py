"""From the calls of a forward to the GEMMs and quantizations of one LoRA training step, as instructions without addresses.

    h = x down^T        y = x W^T + s (h up^T)
    g = s grad_y        grad_up = g^T h      grad_h = g up      grad_down = grad_h^T x      grad_x = grad_y W + grad_h down

A frozen layer has y and, if something before it is trained, grad_x. docs/arithmetic.md says which operand is quantized along which axis.
Convolutions are implicit GEMMs of patches; a 1 x 1 convolution on a channels-last image is a linear layer of its pixels. Attention
multiplies q k^T and P v, and backward P^T grad, grad v^T, dS k and dS^T q, head by head; the softmax between them is the host's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from systolora.hls.check import round_up
from systolora.hls.isa import Axis, Gemm, OperandA, OperandB, Quantize, Result, ScaleMode, Source
from systolora.offloading.gradient_planes import gradient_planes
from systolora.offloading.quantization import TURNABLE_KINDS

from .step_trace import AttentionCall, Call, ConvolutionCall, LinearCall

PHASES = ("forward", "grad_input", "grad_weight")

_CLASSES = (
    ("cross k, v", re.compile(r"attn2\.to_[kv]$|add_[kv]_proj$")),
    ("cross q, out", re.compile(r"attn2\.to_(q|out\.0)$|add_q_proj$|to_add_out$")),
    ("self q, k, v, out", re.compile(r"(^|\.)attn1?\.to_(q|k|v|out\.0)$")),
    ("feed-forward", re.compile(r"\.(ff|ff_context)\.|proj_mlp$|single_transformer_blocks\.\d+\.proj_out$")),
)


@dataclass(frozen=True)
class StepGemm:
    """One GEMM of a training step.

    Attributes:
        layer: the module's name. layer_class: what sort of layer that is.
        kind: which of the step's products; `phase` is one of PHASES.
        op: the instruction, untiled and without addresses.
        macs: multiply-accumulates that the step needs; fewer than m n k where zeros are multiplied too.
        repeats: how often it runs for one call (attention: heads).
    """

    layer: str
    layer_class: str
    kind: str
    op: Gemm
    macs: int
    repeats: int = 1

    @property
    def phase(self) -> str:
        """Forward, gradient of an activation, or gradient of a factor."""
        if not self.kind.startswith("grad"):
            return "forward"
        return "grad_weight" if self.kind in ("grad_down", "grad_up") else "grad_input"

    @property
    def turnable(self) -> bool:
        """Whether the compiler may have it computed as C^T = B^T A^T."""
        return self.kind in TURNABLE_KINDS


@dataclass(frozen=True)
class StepQuantize:
    """One quantization of a training step."""

    layer: str
    layer_class: str
    tensor: str
    op: Quantize
    repeats: int = 1


Work = StepGemm | StepQuantize


def layer_class(call: Call) -> str:
    """What sort of layer a call belongs to."""
    if isinstance(call, ConvolutionCall):
        return "convolution"
    if isinstance(call, AttentionCall):
        return "self-attention products" if call.queries == call.keys else "cross-attention products"
    return next((title for title, pattern in _CLASSES if pattern.search(call.name)), "other linear")


class StepWriter:
    """Writes the work of calls; remembers which tensors are quantized already."""

    def __init__(self, rank: int, bus_bytes: int, result: Result) -> None:
        self.rank, self.bus, self.result = rank, bus_bytes, result
        self._source = Source.BFLOAT16 if result == Result.BFLOAT16 else Source.FLOAT32
        self._quantized: set[tuple[int, Axis]] = set()

    def work(self, call: Call) -> Iterator[Work]:
        """The GEMMs and quantizations of a call, forward and backward."""
        if isinstance(call, AttentionCall):
            return self._attention(call)
        if isinstance(call, ConvolutionCall):
            if call.pixelwise:
                return self._linear(_pixels(call), layer_class(call))
            return self._convolution(call)
        return self._linear(call, layer_class(call))

    def _gemm(self, m: int, n: int, k: int, **options: Any) -> Gemm:
        fields = {"result": self.result, "scale_a": ScaleMode.VECTOR, "scale_b": ScaleMode.VECTOR, **options}
        return Gemm(m, n, k, m, n, k, 0, 0, 0, 0, 0, 0, **fields)

    def _quantize(self, m: int, n: int, axis: Axis) -> Quantize:
        return Quantize(m, n, 0, 0, 0, 0, 0, source=self._source, axis=axis)

    def _new(self, source: int, axis: Axis) -> bool:
        fresh = (source, axis) not in self._quantized
        self._quantized.add((source, axis))
        return fresh

    def _linear(self, call: LinearCall, title: str) -> Iterator[Work]:
        tokens, wide, out = call.tokens, call.in_features, call.out_features
        per_tensor = {"scale_b": ScaleMode.TENSOR}

        # What a low-rank term is added to, and what only the adapter sees, is float32 whatever crosses (`Session.transfer_type`).
        added = {"result": Result.FLOAT32} if call.adapted else {}
        single = {"result": Result.FLOAT32}

        def gemm(kind: str, m: int, n: int, k: int, **options: Any) -> StepGemm:
            return StepGemm(call.name, title, kind, self._gemm(m, n, k, **options), m * n * k)

        def quantize(tensor: str, m: int, n: int, axis: Axis) -> StepQuantize:
            op = self._quantize(m, n, axis)
            if tensor not in ("x", "grad_y"):
                op = replace(op, source=Source.FLOAT32)
            return StepQuantize(call.name, title, tensor, op)

        if self._new(call.source, Axis.ROW):
            yield quantize("x", tokens, wide, Axis.ROW)
        yield gemm("forward_base", tokens, out, wide, transpose_b=True, bias=call.bias, **per_tensor, **added)
        if call.adapted or call.input_grad:
            yield quantize("grad_y", tokens, out, Axis.ROW)
        if call.input_grad:
            yield gemm("grad_input_base", tokens, wide, out, **per_tensor, **added)
        if not call.adapted:
            return
        rank = self.rank
        if self._new(call.source, Axis.COLUMN):
            yield quantize("x", tokens, wide, Axis.COLUMN)
        # Factors that changed are quantized along both axes, whoever needs them (`layer_writer.Residents.refresh`).
        yield quantize("down", rank, wide, Axis.ROW)
        yield quantize("down", rank, wide, Axis.COLUMN)
        yield gemm("forward_down", tokens, rank, wide, transpose_b=True, **single)
        yield quantize("h", tokens, rank, Axis.ROW)
        yield quantize("h", tokens, rank, Axis.COLUMN)
        yield quantize("up", out, rank, Axis.ROW)
        yield gemm("forward_up", tokens, out, rank, transpose_b=True, accumulate=True, **single)
        yield quantize("grad_y", tokens, out, Axis.COLUMN)
        yield gemm("grad_up", out, rank, tokens, transpose_a=True, **single)
        yield quantize("up", out, rank, Axis.COLUMN)
        yield gemm("grad_hidden", tokens, rank, out, **single)
        yield quantize("grad_h", tokens, rank, Axis.COLUMN)
        yield gemm("grad_down", rank, wide, tokens, transpose_a=True, **single)
        if call.input_grad:
            yield quantize("grad_h", tokens, rank, Axis.ROW)
            yield gemm("grad_input_low_rank", tokens, wide, rank, accumulate=True, **single)

    def _convolution(self, call: ConvolutionCall) -> Iterator[Work]:
        title = layer_class(call)
        taps = call.kernel[0] * call.kernel[1]
        macs = call.batch * call.out_height * call.out_width * taps * call.in_channels * call.out_channels
        common: dict[str, Any] = {"scale_a": ScaleMode.TENSOR, "scale_b": ScaleMode.TENSOR, "a_form": OperandA.PATCHES}
        if self._new(call.source, Axis.TENSOR):
            pixels = call.batch * call.height * call.width
            yield StepQuantize(call.name, title, "x", self._quantize(pixels, call.in_channels, Axis.TENSOR))
        channels = round_up(call.in_channels, self.bus)
        yield StepGemm(
            *(call.name, title, "forward_base"),
            self._gemm(
                *(call.batch * call.out_height * call.out_width, call.out_channels, taps * channels),
                **common,
                bias=call.bias,
                image_height=call.height,
                image_width=call.width,
                channels=channels,
                kernel_height=call.kernel[0],
                kernel_width=call.kernel[1],
                out_height=call.out_height,
                out_width=call.out_width,
                step=call.stride,
                pad_top=call.padding[0],
                pad_left=call.padding[1],
            ),
            macs,
        )
        if not call.input_grad:
            return
        pixels = call.batch * call.out_height * call.out_width
        yield StepQuantize(call.name, title, "grad_y", self._quantize(pixels, call.out_channels, Axis.TENSOR))
        channels = round_up(call.out_channels, self.bus)
        image, out = (call.height, call.width), (call.out_height, call.out_width)
        for plane in gradient_planes(image, out, call.kernel, call.stride, call.padding):
            geometry = plane.geometry
            size, taps = geometry.out_height * geometry.out_width, geometry.kernel_height * geometry.kernel_width
            shape = (call.batch * size, call.in_channels, taps * channels)
            op = self._gemm(
                *shape,
                **common | vars(geometry),
                transpose_b=True,
                b_form=OperandB.REVERSED_BLOCKS,
                channels=channels,
                block_row_step=plane.block_steps[0],
                block_step=plane.block_steps[1],
            )
            macs = call.batch * plane.pixels * taps * call.in_channels * call.out_channels
            yield StepGemm(call.name, title, "grad_input_base", op, macs)

    def _attention(self, call: AttentionCall) -> Iterator[Work]:
        title, heads = layer_class(call), call.heads
        queries, keys, width, values = call.queries, call.keys, call.width, call.value_width

        def gemm(kind: str, m: int, n: int, k: int, **options: Any) -> StepGemm:
            return StepGemm(call.name, title, kind, self._gemm(m, n, k, **options), m * n * k, heads)

        def quantize(tensor: str, m: int, n: int, axis: Axis) -> StepQuantize:
            return StepQuantize(call.name, title, tensor, self._quantize(m, n, axis), heads)

        yield quantize("q", queries, width, Axis.ROW)
        yield quantize("k", keys, width, Axis.ROW)
        yield gemm("forward_scores", queries, keys, width, transpose_b=True)
        yield quantize("p", queries, keys, Axis.ROW)
        yield quantize("v", keys, values, Axis.COLUMN)
        yield gemm("forward_context", queries, values, keys)
        if call.value_grad:
            yield quantize("p", queries, keys, Axis.COLUMN)
            yield quantize("grad_o", queries, values, Axis.COLUMN)
            yield gemm("grad_value", keys, values, queries, transpose_a=True)
        if call.query_grad or call.key_grad:
            yield quantize("grad_o", queries, values, Axis.ROW)
            yield quantize("v", keys, values, Axis.ROW)
            yield gemm("grad_scores", queries, keys, values, transpose_b=True)
        if call.query_grad:
            yield quantize("grad_s", queries, keys, Axis.ROW)
            yield quantize("k", keys, width, Axis.COLUMN)
            yield gemm("grad_query", queries, width, keys)
        if call.key_grad:
            yield quantize("grad_s", queries, keys, Axis.COLUMN)
            yield quantize("q", queries, width, Axis.COLUMN)
            yield gemm("grad_key", keys, width, queries, transpose_a=True)


def _pixels(call: ConvolutionCall) -> LinearCall:
    return LinearCall(
        name=call.name,
        tokens=call.batch * call.height * call.width,
        in_features=call.in_channels,
        out_features=call.out_channels,
        bias=call.bias,
        adapted=call.adapted,
        input_grad=call.input_grad,
        source=call.source,
    )
