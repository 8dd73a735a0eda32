"""How the programs of a layer are written: spaces, scales along the right axis, each quantization once.

Spaces: `inbox` the host writes before a program, `outbox` it reads after it, `work` is scratch, `x_row`, `x_column` and the like
hold int8 copies of x that layers share or that backward needs, `saved` lives from forward to backward, `weight`, `bias` and
`factors` live as long as the layer. Which scale may lie along which axis is fixed by the table in
docs/arithmetic.md: per row (token) where features are contracted, per column where tokens are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from systolora.hls.isa import Axis, Rounding
from systolora.programs.requests import RESULTS
from systolora.programs.spaces import Sketch, Space
from systolora.programs.tensors import DeviceMatrix, DeviceVector, ElementType
from systolora.programs.tiling import faster_transposed

from .quantization import TURNABLE_KINDS, QuantizationConfig


@dataclass(frozen=True)
class LayerShape:
    """Sizes of a layer; rank 0 is a frozen layer without adapter."""

    in_features: int
    out_features: int
    rank: int
    bias: bool


@dataclass(frozen=True)
class Quantized:
    """An int8 matrix and its scales."""

    values: DeviceMatrix
    scales: DeviceVector


@dataclass
class LayerWriter:
    """Writes quantizations and GEMMs of one program of a layer, each quantization once."""

    sketch: Sketch
    quantization: QuantizationConfig
    shape: LayerShape
    _done: dict[tuple[int, int, Axis], Quantized] = field(default_factory=dict)

    def axis(self, role: str, wanted: Axis) -> Axis:
        """The axis along which a tensor of that role has its scales: the wanted one, or none."""
        return Axis.TENSOR if getattr(self.quantization, f"{role}_scales") == "tensor" else wanted

    @staticmethod
    def reserve(space: Space, rows: int, cols: int, axis: Axis) -> Quantized:
        """Room for an int8 matrix and its scales."""
        scales = {Axis.TENSOR: 1, Axis.ROW: rows, Axis.COLUMN: cols}[axis]
        return Quantized(space.matrix(rows, cols, ElementType.INT8), space.vector(scales))

    def quantize(
        self,
        source: DeviceMatrix,
        role: str,
        name: str,
        wanted: Axis,
        into: Quantized | None = None,
    ) -> Quantized:
        """The int8 copy of a matrix along an axis; a second request for the same copy writes nothing."""
        axis = self.axis(role, wanted)
        key = (source.buffer.address, source.offset, axis)
        if key not in self._done:
            target = into or self.reserve(self.sketch.space("work"), source.rows, source.cols, axis)
            self._emit_quantize(source, role, name, axis, target)
            self._done[key] = target
        return self._done[key]

    def quantize_scaled(
        self, source: DeviceMatrix, role: str, name: str, wanted: Axis, factors: DeviceVector
    ) -> Quantized:
        """The int8 copy of a matrix whose columns are multiplied by factors first."""
        axis = self.axis(role, wanted)
        target = self.reserve(self.sketch.space("work"), source.rows, source.cols, axis)
        self._emit_quantize(source, role, f"{name} times the weight's scales", axis, target, factors)
        return target

    def gemm(
        self,
        kind: str,
        a: Quantized,
        b: Quantized,
        c: DeviceMatrix,
        *,
        transpose_a: bool = False,
        transpose_b: bool = False,
        alpha: float = 1.0,
        bias: DeviceVector | None = None,
        accumulate: bool = False,
        folded_b: bool = False,
        transpose_c: bool = False,
    ) -> None:
        """One of the layer's GEMMs, with the scales of its operands; `folded_b`: those of b are in a already."""
        contraction = a.values.rows if transpose_a else a.values.cols
        self.sketch.count(kind, c.rows * c.cols * contraction)
        self.sketch.builder.gemm(
            *(a.values, b.values, c),
            transpose_a=transpose_a,
            transpose_b=transpose_b,
            scale_a=a.scales,
            scale_b=None if folded_b else b.scales,
            alpha=alpha,
            bias=bias,
            accumulate=accumulate,
            transpose_c=transpose_c,
            label=kind,
        )

    def factor_gradient(
        self,
        kind: str,
        a: Quantized,
        b: Quantized,
        *,
        transpose_a: bool = False,
        transpose_b: bool = False,
        alpha: float = 1.0,
    ) -> None:
        """The GEMM that makes a float32 result named like its kind, in the outbox, stored as it is made fastest."""
        m, k = a.values.shape[::-1] if transpose_a else a.values.shape
        n = b.values.rows if transpose_b else b.values.cols
        turned = self.turned(kind, (m, n, k), ElementType.FLOAT32, transpose_a, transpose_b)
        size = (n, m) if turned else (m, n)
        c = self.sketch.space("outbox").matrix(*size, ElementType.FLOAT32)
        self.sketch.name(kind, c, turned=int(turned))
        self.gemm(*(kind, a, b, c), transpose_a=transpose_a, transpose_b=transpose_b, alpha=alpha, transpose_c=turned)

    def turned(
        self,
        kind: str,
        shape: tuple[int, int, int],
        result: ElementType,
        transpose_a: bool = False,
        transpose_b: bool = False,
    ) -> bool:
        """Whether a GEMM of m, n, k is to be stored transposed: if that is faster, and the host takes it as well in that order."""
        return kind in TURNABLE_KINDS and faster_transposed(
            *(self.sketch.config, *shape), transpose_a=transpose_a, transpose_b=transpose_b, result=RESULTS[result]
        )

    def _emit_quantize(
        self,
        source: DeviceMatrix,
        role: str,
        name: str,
        axis: Axis,
        target: Quantized,
        factors: DeviceVector | None = None,
    ) -> None:
        rounding = getattr(self.quantization, f"{role}_rounding")
        self.sketch.builder.quantize(
            *(source, target.values, target.scales),
            axis=axis,
            factors=factors,
            rounding=Rounding[rounding.upper()],
            label=f"{name}, per {axis.name.lower()}",
        )


def name_integers(sketch: Sketch, weight: Quantized) -> None:
    """Names what a program that quantizes a weight leaves: `integers`, and `scales` as one row."""
    scales = weight.scales
    sketch.name("integers", weight.values)
    row = DeviceMatrix(scales.buffer, scales.offset, 1, scales.length, 0, ElementType.FLOAT32)
    sketch.name("scales", row)


class Residents:
    """Where the frozen weight and the quantized factors lie; the same layout in every program of a layer."""

    def __init__(self, writer: LayerWriter) -> None:
        shape, sketch = writer.shape, writer.sketch
        self._writer = writer
        self.weight_axis = writer.axis("weight", Axis.ROW)
        self.weight = writer.reserve(sketch.space("weight"), shape.out_features, shape.in_features, self.weight_axis)
        self.bias = sketch.space("bias").vector(shape.out_features) if shape.bias else None
        self.factors: dict[tuple[str, Axis], Quantized] = {}
        sizes = {"down": (shape.rank, shape.in_features), "up": (shape.out_features, shape.rank)}
        for name, (rows, cols) in sizes.items() if shape.rank else ():
            for wanted in (Axis.ROW, Axis.COLUMN):
                axis = writer.axis("factor", wanted)
                if (name, axis) not in self.factors:
                    self.factors[name, axis] = writer.reserve(sketch.space("factors"), rows, cols, axis)

    def factor(self, name: str, wanted: Axis) -> Quantized:
        """The quantized `down` or `up` with scales along an axis."""
        return self.factors[name, self._writer.axis("factor", wanted)]

    def refresh(self) -> None:
        """Quantizes both factors anew, from the inbox."""
        inbox = self._writer.sketch.space("inbox")
        sources: dict[str, DeviceMatrix] = {}
        for (name, axis), target in self.factors.items():
            if name not in sources:
                room = inbox.matrix(target.values.rows, target.values.cols, ElementType.FLOAT32)
                sources[name] = self._writer.sketch.name(name, room)
            self._writer.quantize(sources[name], "factor", name, axis, into=target)


class LayerInputs:
    """Where the int8 copies of x and h lie, each in a space of its own; the same layout in all programs of a layer."""

    def __init__(self, writer: LayerWriter, tokens: int) -> None:
        self._writer = writer
        self._tokens = tokens
        self._known: dict[str, Quantized] = {}

    def x(self, wanted: Axis, low: bool = False) -> tuple[str, Quantized]:
        """Space and copy of x with scales along an axis; `low`: of the other x that the adapter sees (dropout)."""
        axis = self._writer.axis("activation", wanted)
        name = input_space(axis, low)
        return name, self._reserve(name, self._writer.shape.in_features, axis)

    def hidden(self) -> Quantized:
        """The copy of h per column, which waits for the backward pass."""
        return self._reserve("saved", self._writer.shape.rank, self._writer.axis("activation", Axis.COLUMN))

    def _reserve(self, name: str, cols: int, axis: Axis) -> Quantized:
        if name not in self._known:
            self._known[name] = self._writer.reserve(self._writer.sketch.space(name), self._tokens, cols, axis)
        return self._known[name]


def input_space(axis: Axis, low: bool = False) -> str:
    """Name of the space of an int8 copy of x."""
    return f"{'x_low' if low else 'x'}_{axis.name.lower()}"
