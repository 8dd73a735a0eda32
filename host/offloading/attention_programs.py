"""The programs of attention's products, head by head; the softmax between them is the host's.

    scores = s q k^T        p = softmax(scores)        o = p v
    grad_v = p^T grad_o     grad_p = grad_o v^T        grad_q = s grad_scores k        grad_k = s grad_scores^T q

Each operand has its scales along the axis that is not contracted, as docs/arithmetic.md demands, so each is quantized once per use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Axis
from systolora.programs.spaces import ProgramTemplate, Sketch
from systolora.programs.tensors import DeviceMatrix, ElementType

from .layer_writer import LayerShape, LayerWriter, Quantized
from .quantization import QuantizationConfig


@dataclass(frozen=True)
class AttentionShape:
    """Sizes: heads (batch included), rows of q, rows of k and v, columns of q and k, columns of v; element type of all."""

    heads: int
    queries: int
    keys: int
    width: int
    value_width: int
    element: ElementType


@dataclass(frozen=True)
class ScoresPlan:
    """`q` [heads queries, width] and `k` [heads keys, width] to `scores` [heads queries, keys], scaled."""

    shape: AttentionShape
    scale: float

    def write(self, config: ArrayConfig, quantization: QuantizationConfig) -> ProgramTemplate:
        """The program."""
        heads, shape = _Heads(config, quantization, self.shape), self.shape
        q, k = heads.source("q", shape.queries, shape.width), heads.source("k", shape.keys, shape.width)
        scores = heads.result("scores", shape.queries, shape.keys)
        for head in range(shape.heads):
            a, b = heads.quantize(q(head), "q", Axis.ROW), heads.quantize(k(head), "k", Axis.ROW)
            heads.writer.gemm("forward_scores", a, b, scores(head), transpose_b=True, alpha=self.scale)
        return heads.finish()


@dataclass(frozen=True)
class ContextPlan:
    """`p` [heads queries, keys] and `v` [heads keys, value_width] to `o` [heads queries, value_width]."""

    shape: AttentionShape

    def write(self, config: ArrayConfig, quantization: QuantizationConfig) -> ProgramTemplate:
        """The program."""
        heads, shape = _Heads(config, quantization, self.shape), self.shape
        p, v = heads.source("p", shape.queries, shape.keys), heads.source("v", shape.keys, shape.value_width)
        o, turned = heads.turnable("forward_context", "o", (shape.queries, shape.value_width, shape.keys))
        for head in range(shape.heads):
            a, b = heads.quantize(p(head), "p", Axis.ROW), heads.quantize(v(head), "v", Axis.COLUMN)
            heads.writer.gemm("forward_context", a, b, o(head), transpose_c=turned)
        return heads.finish()


@dataclass(frozen=True)
class ContextGradientPlan:
    """`grad_o`, and as needed `p` and `v`, to `grad_v` [heads keys, value_width] and `grad_p` [heads queries, keys]."""

    shape: AttentionShape
    need_value: bool
    need_scores: bool

    def write(self, config: ArrayConfig, quantization: QuantizationConfig) -> ProgramTemplate:
        """The program."""
        heads, shape = _Heads(config, quantization, self.shape), self.shape
        grad_o = heads.source("grad_o", shape.queries, shape.value_width)
        if self.need_value:
            p = heads.source("p", shape.queries, shape.keys)
            size = (shape.keys, shape.value_width, shape.queries)
            grad_v, turned = heads.turnable("grad_value", "grad_v", size, transpose_a=True)
            for head in range(shape.heads):
                a, b = heads.quantize(p(head), "p", Axis.COLUMN), heads.gradient(grad_o(head), "grad_o", Axis.COLUMN)
                heads.writer.gemm("grad_value", a, b, grad_v(head), transpose_a=True, transpose_c=turned)
        if self.need_scores:
            v, grad_p = (
                heads.source("v", shape.keys, shape.value_width),
                heads.result("grad_p", shape.queries, shape.keys),
            )
            for head in range(shape.heads):
                a, b = heads.gradient(grad_o(head), "grad_o", Axis.ROW), heads.quantize(v(head), "v", Axis.ROW)
                heads.writer.gemm("grad_scores", a, b, grad_p(head), transpose_b=True)
        return heads.finish()


@dataclass(frozen=True)
class ScoresGradientPlan:
    """`grad_s` [heads queries, keys], and as needed `k` and `q`, to `grad_q` and `grad_k`, scaled."""

    shape: AttentionShape
    scale: float
    need_query: bool
    need_key: bool

    def write(self, config: ArrayConfig, quantization: QuantizationConfig) -> ProgramTemplate:
        """The program."""
        heads, shape = _Heads(config, quantization, self.shape), self.shape
        grad_s = heads.source("grad_s", shape.queries, shape.keys)
        if self.need_query:
            k = heads.source("k", shape.keys, shape.width)
            grad_q, turned = heads.turnable("grad_query", "grad_q", (shape.queries, shape.width, shape.keys))
            for head in range(shape.heads):
                a, b = heads.gradient(grad_s(head), "grad_s", Axis.ROW), heads.quantize(k(head), "k", Axis.COLUMN)
                heads.writer.gemm("grad_query", a, b, grad_q(head), alpha=self.scale, transpose_c=turned)
        if self.need_key:
            q = heads.source("q", shape.queries, shape.width)
            size = (shape.keys, shape.width, shape.queries)
            grad_k, turned = heads.turnable("grad_key", "grad_k", size, transpose_a=True)
            for head in range(shape.heads):
                a, b = heads.gradient(grad_s(head), "grad_s", Axis.COLUMN), heads.quantize(q(head), "q", Axis.COLUMN)
                heads.writer.gemm(
                    "grad_key", a, b, grad_k(head), transpose_a=True, alpha=self.scale, transpose_c=turned
                )
        return heads.finish()


class _Heads(Sketch):
    """A sketch in which every matrix is one per head, the heads one after the other."""

    def __init__(self, config: ArrayConfig, quantization: QuantizationConfig, shape: AttentionShape) -> None:
        super().__init__(config)
        self._shape = shape
        self.writer = LayerWriter(self, quantization, LayerShape(shape.width, shape.value_width, 0, False))

    def source(self, name: str, rows: int, cols: int) -> Callable[[int], DeviceMatrix]:
        """A matrix that the host writes; gives each head's part."""
        return self._parts("inbox", name, rows, cols)

    def result(self, name: str, rows: int, cols: int) -> Callable[[int], DeviceMatrix]:
        """A matrix that the host reads; gives each head's part."""
        return self._parts(_outbox(name), name, rows, cols)

    def turnable(
        self, kind: str, name: str, size: tuple[int, int, int], transpose_a: bool = False
    ) -> tuple[Callable[[int], DeviceMatrix], bool]:
        """A matrix that the host reads in either order, for a GEMM of m, n, k; and whether each head's part is stored transposed."""
        m, n, _ = size
        turned = self.writer.turned(kind, size, self._shape.element, transpose_a)
        return (self._parts(_outbox(name), name, n, m, turned) if turned else self.result(name, m, n)), turned

    def quantize(self, source: DeviceMatrix, name: str, axis: Axis) -> Quantized:
        """The int8 copy of a head's part of q, k, v or p."""
        return self.writer.quantize(source, "activation", name, axis)

    def gradient(self, source: DeviceMatrix, name: str, axis: Axis) -> Quantized:
        """The int8 copy of a head's part of a gradient."""
        return self.writer.quantize(source, "gradient", name, axis)

    def _parts(
        self, space: str, name: str, rows: int, cols: int, turned: bool = False
    ) -> Callable[[int], DeviceMatrix]:
        heads = self._shape.heads
        whole = self.space(space).matrix(heads * rows, cols, self._shape.element)
        self.name(name, whole, turned=heads if turned else 0)
        return lambda head: whole.block(head * rows, 0, rows, cols)


def _outbox(name: str) -> str:
    """A space of its own for each result, so that each can be handed to the host without a copy."""
    return "outbox" if not name.startswith("grad") else f"outbox_{name}"
