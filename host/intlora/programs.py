"""The programs of an integer layer: low-rank product, forward, backward, gradients of the factors. All GEMMs in INT8.

With tokens on rows, W' = scale[out] * P, P = sum of digits[i] * 128^i:

    product       AB = s (up down)                     scales of up and down per tensor
    forward       y = x W'^T + bias                    x per token
    input grad    grad_x = g W'                        scale multiplied into g, then per token
    weight grad   grad_W = g^T x                       both per column
    factors       grad_up = s G down^T, grad_down = s up^T G        G = grad_W * gain, along the axis that is contracted
"""

from __future__ import annotations

from dataclasses import dataclass

from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Axis
from systolora.offloading.layer_writer import LayerShape, LayerWriter, Quantized
from systolora.offloading.quantization import QuantizationConfig
from systolora.programs.spaces import ProgramTemplate, Sketch
from systolora.programs.tensors import DeviceMatrix, DeviceVector, ElementType

from .digits import BASE

_FACTORS_PER_TENSOR = QuantizationConfig(factor_scales="tensor")


@dataclass(frozen=True)
class ProductPlan:
    """The low-rank product of a layer: the host writes `up`, `down`, reads `product` [out, in]."""

    shape: LayerShape
    scaling: float

    def write(self, config: ArrayConfig, quantization: QuantizationConfig) -> ProgramTemplate:
        """The program."""
        sketch, shape = Sketch(config), self.shape
        writer = LayerWriter(sketch, _FACTORS_PER_TENSOR, shape)
        up = _inbox(sketch, "up", shape.out_features, shape.rank)
        down = _inbox(sketch, "down", shape.rank, shape.in_features)
        product = _outbox(sketch, "product", shape.out_features, shape.in_features)
        left, right = writer.quantize(up, "factor", "up", Axis.ROW), writer.quantize(down, "factor", "down", Axis.ROW)
        writer.gemm("product", left, right, product, alpha=self.scaling)
        return sketch.finish()


@dataclass(frozen=True)
class IntegerForwardPlan:
    """y [tokens, out] of x [tokens, in]; the digits `digit0` ... and `scale` lie in the space `weight`, `bias` in `bias`.

    Attributes:
        source: element type of x as uploaded. result: of y.
        keep: x is needed for the weight's gradient; it stays in the space `saved`.
    """

    shape: LayerShape
    tokens: int
    source: ElementType
    result: ElementType
    passes: int
    keep: bool

    def write(self, config: ArrayConfig, quantization: QuantizationConfig) -> ProgramTemplate:
        """The program."""
        sketch, shape = Sketch(config), self.shape
        writer = LayerWriter(sketch, quantization, shape)
        weight, scale = _weight(sketch, shape, self.passes)
        bias = _named_vector(sketch, "bias", "bias", shape.out_features) if shape.bias else None
        x = sketch.name("x", sketch.space("inbox").matrix(self.tokens, shape.in_features, self.source))
        if self.keep:
            writer.quantize(x, "activation", "x", Axis.COLUMN, into=_saved(writer, self.tokens))
        y = _outbox(sketch, "y", self.tokens, shape.out_features, self.result)
        by_token = writer.quantize(x, "activation", "x", Axis.ROW)
        for index, digit in enumerate(weight):
            writer.gemm(
                "forward",
                by_token,
                Quantized(digit, scale),
                y,
                transpose_b=True,
                alpha=float(BASE**index),
                bias=bias if index == 0 else None,
                accumulate=index > 0,
            )
        return sketch.finish()


@dataclass(frozen=True)
class IntegerBackwardPlan:
    """From g [tokens, out]: `grad_x` [tokens, in] if needed, and `grad_weight` [out, in] from the x that forward kept.

    Attributes:
        source: element type of g as uploaded. result: of grad_x. weight_result: of grad_weight.
    """

    shape: LayerShape
    tokens: int
    source: ElementType
    result: ElementType
    weight_result: ElementType
    passes: int
    need_input: bool
    need_weight: bool

    def write(self, config: ArrayConfig, quantization: QuantizationConfig) -> ProgramTemplate:
        """The program."""
        sketch, shape = Sketch(config), self.shape
        writer = LayerWriter(sketch, quantization, shape)
        weight, scale = _weight(sketch, shape, self.passes)
        g = sketch.name("g", sketch.space("inbox").matrix(self.tokens, shape.out_features, self.source))
        if self.need_input:
            grad_x = _outbox(sketch, "grad_x", self.tokens, shape.in_features, self.result)
            scaled = writer.quantize_scaled(g, "gradient", "grad_y", Axis.ROW, scale)
            for index, digit in enumerate(weight):
                b, alpha = Quantized(digit, scale), float(BASE**index)
                writer.gemm("grad_input", scaled, b, grad_x, alpha=alpha, accumulate=index > 0, folded_b=True)
        if self.need_weight:
            out = _outbox(sketch, "grad_weight", shape.out_features, shape.in_features, self.weight_result)
            by_column = writer.quantize(g, "gradient", "grad_y", Axis.COLUMN)
            writer.gemm("grad_weight", by_column, _saved(writer, self.tokens), out, transpose_a=True)
        return sketch.finish()


@dataclass(frozen=True)
class FactorPlan:
    """`grad_up` [out, rank] and `grad_down` [rank, in] from `grad_product` [out, in] of type `source`."""

    shape: LayerShape
    scaling: float
    source: ElementType

    def write(self, config: ArrayConfig, quantization: QuantizationConfig) -> ProgramTemplate:
        """The program."""
        sketch, shape = Sketch(config), self.shape
        writer = LayerWriter(sketch, quantization, shape)
        g = _inbox(sketch, "grad_product", shape.out_features, shape.in_features, self.source)
        up = _inbox(sketch, "up", shape.out_features, shape.rank)
        down = _inbox(sketch, "down", shape.rank, shape.in_features)
        by_row = writer.quantize(g, "gradient", "grad_product", Axis.ROW)
        factor = writer.quantize(down, "factor", "down", Axis.ROW)
        writer.factor_gradient("grad_up", by_row, factor, transpose_b=True, alpha=self.scaling)
        by_column = writer.quantize(g, "gradient", "grad_product", Axis.COLUMN)
        factor = writer.quantize(up, "factor", "up", Axis.COLUMN)
        writer.factor_gradient("grad_down", factor, by_column, transpose_a=True, alpha=self.scaling)
        return sketch.finish()


def _inbox(sketch: Sketch, name: str, rows: int, cols: int, dtype: ElementType = ElementType.FLOAT32) -> DeviceMatrix:
    return sketch.name(name, sketch.space("inbox").matrix(rows, cols, dtype))


def _outbox(sketch: Sketch, name: str, rows: int, cols: int, dtype: ElementType = ElementType.FLOAT32) -> DeviceMatrix:
    return sketch.name(name, sketch.space("outbox").matrix(rows, cols, dtype))


def _named_vector(sketch: Sketch, space: str, name: str, length: int) -> DeviceVector:
    """Room for a vector that the host writes as a matrix of one row."""
    vector = sketch.space(space).vector(length)
    row_bytes = 4 * length
    sketch.name(name, DeviceMatrix(vector.buffer, vector.offset, 1, length, row_bytes, ElementType.FLOAT32))
    return vector


def _weight(sketch: Sketch, shape: LayerShape, passes: int) -> tuple[list[DeviceMatrix], DeviceVector]:
    """The digits of the integer weight and its scales; the same layout in every program of a layer."""
    space = sketch.space("weight")
    size = (shape.out_features, shape.in_features)
    found = [sketch.name(f"digit{i}", space.matrix(*size, ElementType.INT8)) for i in range(passes)]
    return found, _named_vector(sketch, "weight", "scale", shape.out_features)


def _saved(writer: LayerWriter, tokens: int) -> Quantized:
    """Where x waits for the backward pass."""
    axis = writer.axis("activation", Axis.COLUMN)
    return writer.reserve(writer.sketch.space("saved"), tokens, writer.shape.in_features, axis)
