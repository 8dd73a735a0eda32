"""The programs of a frozen convolution: its weight, forward, and the gradient of the image. docs/arithmetic.md, "Patches"."""

from __future__ import annotations

from dataclasses import dataclass, replace

from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Axis
from systolora.programs.patch_request import PatchRequest
from systolora.programs.spaces import ProgramTemplate, Sketch
from systolora.programs.tensors import DeviceMatrix, ElementType

from .convolution_shapes import ConvolutionShape
from .layer_writer import LayerShape, LayerWriter, Quantized, name_integers
from .quantization import QuantizationConfig


@dataclass(frozen=True)
class ConvolutionWeightPlan:
    """Quantizes the weight; the host writes `weight` [taps * stored_in, out] of type `source` to the inbox."""

    shape: ConvolutionShape
    source: ElementType

    def write(self, config: ArrayConfig, quantization: QuantizationConfig) -> ProgramTemplate:
        """The program; `integers` and `scales` are its result."""
        sketch = _Sketch(config, quantization, self.shape)
        weight = sketch.weight()
        source = sketch.place("inbox", "weight", weight.values.rows, weight.values.cols, self.source)
        sketch.writer.quantize(source, "weight", "weight", Axis.COLUMN, into=weight)
        name_integers(sketch, weight)
        return sketch.finish()


@dataclass(frozen=True)
class ConvolutionForwardPlan:
    """y = x * W + bias of `batch` images.

    The host writes `x` [pixels, channels_in] to the inbox and reads `y` [result pixels, channels_out].

    Attributes:
        image: height and width. source: element type of x as uploaded. result: of y.
    """

    shape: ConvolutionShape
    batch: int
    image: tuple[int, int]
    source: ElementType
    result: ElementType

    def write(self, config: ArrayConfig, quantization: QuantizationConfig) -> ProgramTemplate:
        """The program."""
        sketch, shape = _Sketch(config, quantization, self.shape), self.shape
        geometry = shape.forward_geometry(self.image)
        rows = self.batch * geometry.out_height * geometry.out_width
        pixels = self.batch * self.image[0] * self.image[1]
        x = sketch.place("inbox", "x", pixels, shape.channels_in, self.source)
        image = sketch.writer.quantize(x, "activation", "x", Axis.TENSOR)
        y = sketch.place("outbox", "y", rows, shape.channels_out, self.result)
        bias = sketch.space("bias").vector(shape.channels_out) if shape.bias else None
        weight = sketch.weight()
        stored = replace(image.values, cols=shape.stored_in)
        request = PatchRequest(geometry, stored, weight.values, y, image.scales, weight.scales, bias)
        sketch.count_product("forward_base", rows)
        sketch.builder.patch_gemm(request, "forward_base")
        return sketch.finish()


@dataclass(frozen=True)
class ConvolutionBackwardPlan:
    """grad_x of `batch` images, plane by plane (`ConvolutionShape.gradient_planes`).

    The host writes `g` [result pixels, channels_out] to the inbox and reads of each plane `name` [pixels, channels_in].

    Attributes:
        image: height and width of x. source: element type of grad_y as uploaded. result: of grad_x.
    """

    shape: ConvolutionShape
    batch: int
    image: tuple[int, int]
    source: ElementType
    result: ElementType

    def write(self, config: ArrayConfig, quantization: QuantizationConfig) -> ProgramTemplate:
        """The program."""
        sketch, shape = _Sketch(config, quantization, self.shape), self.shape
        out = shape.out_size(self.image)
        rows = self.batch * out[0] * out[1]
        g = sketch.place("inbox", "g", rows, shape.channels_out, self.source)
        weight = sketch.weight()
        if sketch.weight_axis == Axis.TENSOR:
            image, scale_b = sketch.writer.quantize(g, "gradient", "grad_y", Axis.TENSOR), weight.scales
        else:
            # The weight's scales lie along the contraction, so they are multiplied into grad_y before it is quantized.
            image = sketch.writer.quantize_scaled(g, "gradient", "grad_y", Axis.TENSOR, weight.scales)
            scale_b = None
        stored = replace(image.values, cols=shape.stored_out)
        sketch.count_product("grad_input_base", rows)
        for plane in shape.gradient_planes(self.image):
            geometry = plane.geometry
            pixels = self.batch * geometry.out_height * geometry.out_width
            # A space of its own for each plane, so that each can be handed to the host without a copy.
            grad_x = sketch.place(f"outbox {plane.name}", plane.name, pixels, shape.channels_in, self.result)
            blocks = weight.values.block(
                plane.block * shape.stored_in, 0, plane.blocks * shape.stored_in, shape.channels_out
            )
            request = PatchRequest(
                *(geometry, stored, blocks, grad_x, image.scales, scale_b), block_steps=plane.block_steps
            )
            sketch.builder.patch_gemm(request, "grad_input_base")
        return sketch.finish()


class _Sketch(Sketch):
    """A sketch of a convolution's program."""

    def __init__(self, config: ArrayConfig, quantization: QuantizationConfig, shape: ConvolutionShape) -> None:
        super().__init__(config)
        self._shape = shape
        rows = shape.taps * shape.stored_in
        self.writer = LayerWriter(self, quantization, LayerShape(rows, shape.channels_out, 0, shape.bias))
        self.weight_axis = self.writer.axis("weight", Axis.COLUMN)

    def place(self, space: str, name: str, rows: int, cols: int, dtype: ElementType) -> DeviceMatrix:
        """Room for a matrix that the host writes or reads."""
        return self.name(name, self.space(space).matrix(rows, cols, dtype))

    def weight(self) -> Quantized:
        """Where the weight lies; the same in every program."""
        rows = self._shape.taps * self._shape.stored_in
        return self.writer.reserve(self.space("weight"), rows, self._shape.channels_out, self.weight_axis)

    def count_product(self, kind: str, result_pixels: int) -> None:
        """Counts the multiply-accumulates of a direction, without those of storage; those with padding are in it."""
        shape = self._shape
        self.count(kind, result_pixels * shape.channels_out * shape.channels_in * shape.taps)
