"""The program of one LoRA layer step, forward and backward, built by hand: every GEMM and QUANTIZE of docs/arithmetic.md.

h = x down^T        y = x W^T + s (h up^T)
grad_up = s (g^T h)     grad_h = s (g up)     grad_down = grad_h^T x     grad_x = g W + grad_h down
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from systolora.hls.check import STATUS_BYTES, Region, round_up
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import (
    INSTRUCTION_BYTES,
    Axis,
    Dataflow,
    End,
    Gemm,
    Instruction,
    Quantize,
    Result,
    ScaleMode,
    encode_program,
)
from systolora.sim.functional.memory import DEFAULT_BASE

from .random_programs import Case

WINDOW_BYTES = 4 << 20
_DATA = DEFAULT_BASE + 64 * INSTRUCTION_BYTES


@dataclass(frozen=True)
class Matrix:
    """A matrix in device memory: address, shape and bytes from row to row."""

    address: int
    rows: int
    cols: int
    stride: int


@dataclass(frozen=True)
class Quantized:
    """An int8 matrix with its scales; `axis` says along what they run."""

    matrix: Matrix
    scales: int
    axis: Axis


class LayerStep:
    """Lays the step out in memory.

    Args:
        tokens, inputs, outputs, rank: the layer.
        dataflow: of all its GEMMs.
    """

    def __init__(
        self, config: ArrayConfig, tokens: int, inputs: int, outputs: int, rank: int, dataflow: Dataflow, seed: int
    ) -> None:
        self.config = config
        self.dataflow = dataflow
        self.rng = np.random.default_rng(seed)
        self.image = np.zeros(WINDOW_BYTES, np.uint8)
        self.next = _DATA
        self.program: list[Instruction] = []
        self.results: dict[str, Matrix] = {}
        self._build(tokens, inputs, outputs, rank)

    def case(self) -> Case:
        """Memory and program."""
        status = self.reserve(STATUS_BYTES)
        code = np.frombuffer(encode_program(self.program), np.uint8)
        self.image[: len(code)] = code
        window = Region(DEFAULT_BASE, WINDOW_BYTES)
        return Case(self.image, window, DEFAULT_BASE, len(self.program), status, tuple(self.program))

    def reserve(self, nbytes: int) -> int:
        """Address of fresh bytes."""
        address = self.next
        self.next += round_up(nbytes, 64)
        assert self.next <= DEFAULT_BASE + WINDOW_BYTES
        return address

    def matrix(self, rows: int, cols: int, size: int) -> Matrix:
        """Room for a matrix of elements of `size` bytes."""
        stride = round_up(cols * size, self.config.bus_bytes)
        return Matrix(self.reserve(rows * stride), rows, cols, stride)

    def place(self, data: NDArray) -> Matrix:
        """A matrix with contents."""
        found = self.matrix(*data.shape, data.dtype.itemsize)
        start = found.address - DEFAULT_BASE
        raw = np.ascontiguousarray(data).view(np.uint8)
        self.image[start : start + found.rows * found.stride].reshape(found.rows, -1)[:, : raw.shape[1]] = raw
        return found

    def quantize(self, source: Matrix, axis: Axis) -> Quantized:
        """Adds a QUANTIZE of a float32 matrix."""
        target = self.matrix(source.rows, source.cols, 1)
        count = source.rows if axis == Axis.ROW else source.cols
        scales = self.reserve(4 * count)
        self.program.append(
            Quantize(
                m=source.rows,
                n=source.cols,
                a_address=source.address,
                c_address=target.address,
                a_stride=source.stride,
                c_stride=target.stride,
                scale_a_address=scales,
                axis=axis,
            )
        )
        return Quantized(target, scales, axis)

    def gemm(self, name: str, a: Quantized, b: Quantized, alpha: float = 1.0, onto: Matrix | None = None) -> Matrix:
        """Adds C = alpha A B, dequantized; scales say which way A and B must be read. `onto`: is added to."""
        transpose_a = a.axis == Axis.COLUMN
        transpose_b = b.axis != Axis.COLUMN
        m, k = (a.matrix.cols, a.matrix.rows) if transpose_a else (a.matrix.rows, a.matrix.cols)
        n = b.matrix.rows if transpose_b else b.matrix.cols
        c = onto or self.matrix(m, n, 4)
        bus = self.config.bus_bytes
        self.program.append(
            Gemm(
                m=m,
                n=n,
                k=k,
                tile_m=m,
                tile_n=round_up(min(n, 5 * self.config.cols), bus),
                tile_k=round_up(min(k, 4 * self.config.rows), bus),
                a_address=a.matrix.address,
                b_address=b.matrix.address,
                c_address=c.address,
                a_stride=a.matrix.stride,
                b_stride=b.matrix.stride,
                c_stride=c.stride,
                dataflow=self.dataflow,
                transpose_a=transpose_a,
                transpose_b=transpose_b,
                result=Result.FLOAT32,
                accumulate=onto is not None,
                scale_a=ScaleMode.VECTOR,
                scale_b=ScaleMode.TENSOR if b.axis == Axis.TENSOR else ScaleMode.VECTOR,
                alpha=alpha,
                scale_a_address=a.scales,
                scale_b_address=b.scales,
            )
        )
        self.results[name] = c
        return c

    def _build(self, tokens: int, inputs: int, outputs: int, rank: int) -> None:
        def noise(*shape: int) -> NDArray[np.float32]:
            return self.rng.normal(size=shape).astype(np.float32)

        x, grad_y = self.place(noise(tokens, inputs)), self.place(noise(tokens, outputs) * np.float32(1e-3))
        down, up = self.place(noise(rank, inputs)), self.place(noise(outputs, rank) * np.float32(1e-2))
        stored = self.place(self.rng.integers(-127, 128, (outputs, inputs)).astype(np.int8))
        weight = Quantized(stored, self.place(np.array([[0.003]], np.float32)).address, Axis.TENSOR)
        s = 0.5
        x_rows, x_columns = self.quantize(x, Axis.ROW), self.quantize(x, Axis.COLUMN)
        down_rows, down_columns = self.quantize(down, Axis.ROW), self.quantize(down, Axis.COLUMN)
        up_rows, up_columns = self.quantize(up, Axis.ROW), self.quantize(up, Axis.COLUMN)
        h = self.gemm("h", x_rows, down_rows)
        y = self.gemm("y", x_rows, weight)
        self.gemm("y", self.quantize(h, Axis.ROW), up_rows, s, onto=y)
        g_rows, g_columns = self.quantize(grad_y, Axis.ROW), self.quantize(grad_y, Axis.COLUMN)
        self.gemm("grad_up", g_columns, self.quantize(h, Axis.COLUMN), s)
        grad_h = self.gemm("grad_h", g_rows, up_columns, s)
        self.gemm("grad_down", self.quantize(grad_h, Axis.COLUMN), x_columns)
        grad_x = self._grad_x(g_rows, weight)
        self.gemm("grad_x", self.quantize(grad_h, Axis.ROW), down_columns, onto=grad_x)
        self.program.append(End())

    def _grad_x(self, g_rows: Quantized, weight: Quantized) -> Matrix:
        """g W: the weight as it is stored, [outputs, inputs], contracted over its rows."""
        grad_x = self.gemm("grad_x", g_rows, replace(weight, axis=Axis.COLUMN))
        last = self.program[-1]
        assert isinstance(last, Gemm)
        self.program[-1] = replace(last, scale_b=ScaleMode.TENSOR)
        return grad_x
