"""One GEMM or quantization as the layers ask for it: checked, cut into parts that an instruction can express, encoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from systolora.hls.config import MAX_K, ArrayConfig
from systolora.hls.isa import MAX_DIMENSION, Axis, Gemm, Quantize, Result, Rounding, ScaleMode, Source
from systolora.sim.cost.mapping import transposed_product

from .tensors import DeviceMatrix, DeviceVector, ElementType
from .tiling import Tiling, choose_tiling

RESULTS = {
    ElementType.INT32: Result.INT32,
    ElementType.FLOAT32: Result.FLOAT32,
    ElementType.BFLOAT16: Result.BFLOAT16,
}
"""Element type of C to the field of the instruction."""

_SOURCES = {ElementType.FLOAT32: Source.FLOAT32, ElementType.BFLOAT16: Source.BFLOAT16}


class CompileError(ValueError):
    """Operands that do not go together, or that the instruction set cannot express."""


@dataclass(frozen=True)
class GemmRequest:
    """C[m, n] = A[m, k] B[k, n] with its epilogue; the arguments are those of `ProgramBuilder.gemm`."""

    a: DeviceMatrix
    b: DeviceMatrix
    c: DeviceMatrix
    transpose_a: bool = False
    transpose_b: bool = False
    scale_a: DeviceVector | None = None
    scale_b: DeviceVector | None = None
    alpha: float = 1.0
    bias: DeviceVector | None = None
    accumulate: bool = False
    transpose_c: bool = False

    def __post_init__(self) -> None:
        if self.a.dtype is not ElementType.INT8 or self.b.dtype is not ElementType.INT8:
            raise CompileError(
                f"gemm: a is {self.a.dtype.value[0]} and b is {self.b.dtype.value[0]}; both must be int8: quantize first"
            )
        if self.c.dtype not in RESULTS:
            raise CompileError("gemm: c is int8; a result is int32, float32 or bfloat16")
        left = self.a.shape[::-1] if self.transpose_a else self.a.shape
        right = self.b.shape[::-1] if self.transpose_b else self.b.shape
        if left[1] != right[0] or (self.m, self.n) != (left[0], right[1]):
            raise CompileError(
                f"gemm: [{left[0]}, {left[1]}] times [{right[0]}, {right[1]}] into {[self.m, self.n]} does not fit"
            )
        if self.transpose_c and self.bias:
            raise CompileError("gemm: a bias lies along the rows of C; a result that is stored transposed takes none")
        if self.c.dtype is ElementType.INT32 and (self.scale_a or self.scale_b or self.bias):
            raise CompileError("gemm: an int32 result takes no scales and no bias; give c as float32 or bfloat16")
        for name, vector, lengths in (
            ("scale_a", self.scale_a, {1, self.m}),
            ("scale_b", self.scale_b, {1, self.n}),
            ("bias", self.bias, {self.n}),
        ):
            if vector is not None and vector.length not in lengths:
                raise CompileError(f"gemm: {name} has {vector.length} values; {sorted(lengths)} are allowed")

    @property
    def m(self) -> int:
        """Rows of C."""
        return self.c.cols if self.transpose_c else self.c.rows

    @property
    def n(self) -> int:
        """Columns of C."""
        return self.c.rows if self.transpose_c else self.c.cols

    @property
    def k(self) -> int:
        """Length of the contraction."""
        return self.a.rows if self.transpose_a else self.a.cols

    def parts(self, config: ArrayConfig) -> Iterator[GemmRequest]:
        """Requests that one instruction each can express; together they compute this one, in this order.

        A contraction longer than `MAX_K` becomes several that accumulate; the first one adds the bias.
        """
        bus = config.bus_bytes
        rows_parts, cols_parts = _spans(self.m, MAX_DIMENSION, bus), _spans(self.n, MAX_DIMENSION, bus)
        for (i, rows), (j, cols), (t, depth) in product(rows_parts, cols_parts, _spans(self.k, MAX_K, bus)):
            yield replace(
                self,
                a=self.a.block(t, i, depth, rows) if self.transpose_a else self.a.block(i, t, rows, depth),
                b=self.b.block(j, t, cols, depth) if self.transpose_b else self.b.block(t, j, depth, cols),
                c=self.c.block(j, i, cols, rows) if self.transpose_c else self.c.block(i, j, rows, cols),
                scale_a=_part(self.scale_a, i, rows),
                scale_b=_part(self.scale_b, j, cols),
                bias=_part(self.bias, j, cols) if t == 0 else None,
                accumulate=self.accumulate or t > 0,
            )

    def instruction(self, config: ArrayConfig, tiling: Tiling | None = None) -> Gemm:
        """The instruction of a request that needs no further cutting; `tiling` overrides `choose_tiling`.

        A C that is stored transposed is computed as C^T = B^T A^T, to the same bits.
        """
        op = Gemm(
            *(self.m, self.n, self.k, self.m, self.n, self.k),
            *(self.a.address, self.b.address, self.c.address, self.a.stride, self.b.stride, self.c.stride),
            transpose_a=self.transpose_a,
            transpose_b=self.transpose_b,
            result=RESULTS[self.c.dtype],
            accumulate=self.accumulate,
            scale_a=_mode(self.scale_a),
            scale_b=_mode(self.scale_b),
            bias=self.bias is not None,
            alpha=self.alpha,
            scale_a_address=_address(self.scale_a),
            scale_b_address=_address(self.scale_b),
            bias_address=_address(self.bias),
        )
        if self.transpose_c:
            op = transposed_product(op)
        if tiling is None:
            tiling = choose_tiling(
                *(config, op.m, op.n, op.k),
                transpose_a=op.transpose_a,
                transpose_b=op.transpose_b,
                result=op.result,
                accumulate=op.accumulate,
            )
        return replace(op, **vars(tiling))


@dataclass(frozen=True)
class QuantizeRequest:
    """int8 copy of a float matrix; the arguments are those of `ProgramBuilder.quantize`."""

    source: DeviceMatrix
    result: DeviceMatrix
    scales: DeviceVector
    axis: Axis
    factors: DeviceVector | None = None
    rounding: Rounding = Rounding.NEAREST
    seed: int = 0
    index_base: int = 0
    index_stride: int = 0

    def __post_init__(self) -> None:
        if self.source.dtype not in _SOURCES or self.result.dtype is not ElementType.INT8:
            raise CompileError(
                f"quantize: {self.source.dtype.value[0]} to {self.result.dtype.value[0]}; "
                "float32 or bfloat16 to int8 is allowed"
            )
        rows, cols = self.source.shape
        if self.result.shape != self.source.shape:
            raise CompileError(f"quantize: [{rows}, {cols}] into {list(self.result.shape)}; the shapes must be equal")
        wanted = {Axis.TENSOR: 1, Axis.ROW: rows, Axis.COLUMN: cols}[self.axis]
        if self.scales.length != wanted:
            raise CompileError(
                f"quantize: {self.scales.length} scales for [{rows}, {cols}] per {self.axis.name.lower()}; {wanted} are needed"
            )
        if self.factors is not None and self.factors.length != cols:
            raise CompileError(f"quantize: {self.factors.length} column factors for {cols} columns")

    def parts(self, config: ArrayConfig) -> Iterator[QuantizeRequest]:
        """Requests that one instruction each can express: no more scales and column factors than `quantize_limit`.

        Each element keeps the index from which its stochastic rounding draws.

        Raises:
            CompileError: if the axis along which the scales lie is not the one that would have to be cut.
        """
        limit, bus = config.quantize_limit, config.bus_bytes
        rows, cols = self.source.shape
        row_limit = min(limit, MAX_DIMENSION) if self.axis == Axis.ROW else MAX_DIMENSION
        col_limit = limit if self.axis == Axis.COLUMN or self.factors else MAX_DIMENSION
        cuts_cols, cuts_rows = cols > col_limit and self.axis != Axis.COLUMN, rows > row_limit and self.axis != Axis.ROW
        if cuts_cols or cuts_rows:
            raise CompileError(
                f"quantize: [{rows}, {cols}] per {self.axis.name.lower()} is too large for one instruction "
                f"(at most {row_limit} rows, {col_limit} columns); use a larger output memory, or fewer columns or rows"
            )
        for (i, height), (j, width) in product(_spans(rows, row_limit, bus), _spans(cols, col_limit, bus)):
            yield replace(
                self,
                source=self.source.block(i, j, height, width),
                result=self.result.block(i, j, height, width),
                scales=self._scales_part(i, j, height, width),
                factors=_part(self.factors, j, width),
                index_base=(self.index_base + i * cols + j) % 2**32,
                index_stride=cols,
            )

    def _scales_part(self, i: int, j: int, height: int, width: int) -> DeviceVector:
        if self.axis == Axis.TENSOR:
            return self.scales
        return self.scales.part(i, height) if self.axis == Axis.ROW else self.scales.part(j, width)

    def instruction(self) -> Quantize:
        """The instruction of a request that needs no further cutting."""
        stochastic = self.rounding == Rounding.STOCHASTIC
        return Quantize(
            m=self.source.rows,
            n=self.source.cols,
            a_address=self.source.address,
            c_address=self.result.address,
            a_stride=self.source.stride,
            c_stride=self.result.stride,
            scale_a_address=self.scales.address,
            source=_SOURCES[self.source.dtype],
            axis=self.axis,
            rounding=self.rounding,
            multiply=self.factors is not None,
            scale_b_address=_address(self.factors),
            seed=self.seed if stochastic else 0,
            index_base=self.index_base if stochastic else 0,
            index_stride=self.index_stride if stochastic else 0,
        )


def _spans(length: int, most: int, unit: int) -> list[tuple[int, int]]:
    """(start, length) of the parts of a dimension: one if it fits, else whole bus words of elements each."""
    if length <= most:
        return [(0, length)]
    step = most // unit * unit
    return [(start, min(step, length - start)) for start in range(0, length, step)]


def _part(vector: DeviceVector | None, start: int, length: int) -> DeviceVector | None:
    if vector is None or vector.length == 1:
        return vector
    return vector.part(start, length)


def _mode(vector: DeviceVector | None) -> ScaleMode:
    if vector is None:
        return ScaleMode.NONE
    return ScaleMode.TENSOR if vector.length == 1 else ScaleMode.VECTOR


def _address(vector: DeviceVector | None) -> int:
    return 0 if vector is None else vector.address
