"""The GEMM compiler: matrices in device memory in, a program of instructions out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from systolora.hls.check import Region, gemm_reads, gemm_writes, quantize_reads, quantize_writes, reusable
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Axis, End, Fence, Gemm, Instruction, Rounding, encode_program
from systolora.sim.functional.device import Buffer, Device, Program

from .patch_request import PatchRequest
from .requests import CompileError, GemmRequest, QuantizeRequest
from .tensors import DeviceMatrix, DeviceVector, ElementType, matrix_bytes, row_stride, vector_bytes
from .tiling import Tiling


@dataclass(frozen=True)
class _Placed:
    """Bytes of one buffer that instructions since the last fence touched."""

    region: Region
    written: bool


class ProgramBuilder:
    """Collects GEMMs and quantizations and encodes them as one program.

    Instructions take effect in the order of the calls: a FENCE is put in front of one that reads or writes what an earlier
    one wrote, or writes what an earlier one read, since the last fence. A GEMM whose whole A tile the GEMM right before it
    had loaded does not load it again.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        self._instructions: list[Instruction] = []
        self._labels: dict[int, str] = {}
        self._reads: dict[int, Buffer] = {}
        self._writes: dict[int, Buffer] = {}
        self._touched: list[_Placed] = []

    def gemm(
        self,
        a: DeviceMatrix,
        b: DeviceMatrix,
        c: DeviceMatrix,
        *,
        transpose_a: bool = False,
        transpose_b: bool = False,
        scale_a: DeviceVector | None = None,
        scale_b: DeviceVector | None = None,
        alpha: float = 1.0,
        bias: DeviceVector | None = None,
        accumulate: bool = False,
        transpose_c: bool = False,
        label: str = "",
        tiling: Tiling | None = None,
    ) -> None:
        """Appends C[m, n] = A[m, k] B[k, n], with the epilogue of docs/arithmetic.md; the type of `c` is the result's.

        m = 0 or n = 0 appends nothing. k = 0 appends nothing either: C is then zero, which the host writes here and now, or
        stays as it is with `accumulate`. A contraction longer than `MAX_K`, or m or n beyond `MAX_DIMENSION`, becomes several
        instructions; with a float result the parts of a long contraction are then added in that type.

        Args:
            a: int8 [m, k], or [k, m] with `transpose_a`. b: int8 [k, n], or [n, k] with `transpose_b`.
            c: int32, float32 or bfloat16 [m, n], or [n, m] with `transpose_c`: the same bits in the other order.
            scale_a: float32 [1] or [m]. scale_b: float32 [1] or [n]. bias: float32 [n].
            alpha: factor of the product. accumulate: add to what C holds.
            label: what it is for, in error messages and traces.
            tiling: overrides `choose_tiling`; its tiles must be legal for the shape.

        Raises:
            CompileError: for shapes or types that do not go together, a bias with k = 0 or with `transpose_c`.
        """
        request = GemmRequest(a, b, c, transpose_a, transpose_b, scale_a, scale_b, alpha, bias, accumulate, transpose_c)
        if request.m == 0 or request.n == 0:
            return
        if request.k == 0:
            self._empty_contraction(request)
            return
        for part in request.parts(self.config):
            vectors = [v.buffer for v in (scale_a, scale_b, bias) if v is not None]
            self._use(reads=[a.buffer, b.buffer, *vectors], writes=[c.buffer])
            self._add_gemm(part.instruction(self.config, tiling), label)

    def patch_gemm(self, request: PatchRequest, label: str = "") -> None:
        """Appends a GEMM whose A are the patches of an image; `label` as in `gemm`."""
        vectors = [v.buffer for v in (request.scale_a, request.scale_b, request.bias) if v is not None]
        self._use(reads=[request.image.buffer, request.weight.buffer, *vectors], writes=[request.c.buffer])
        self._add_gemm(request.instruction(self.config), label)

    def quantize(
        self,
        source: DeviceMatrix,
        result: DeviceMatrix,
        scales: DeviceVector,
        *,
        axis: Axis = Axis.ROW,
        factors: DeviceVector | None = None,
        rounding: Rounding = Rounding.NEAREST,
        seed: int = 0,
        label: str = "",
    ) -> None:
        """Appends the int8 copy of a float32 or bfloat16 matrix, and its scales.

        An empty matrix appends nothing. More scales than one instruction may make become several instructions; each element
        keeps its index (row-major in the whole matrix) from which the stochastic rounding draws.

        Args:
            source: float32 or bfloat16 [m, n]. result: int8 [m, n].
            scales: float32 [1], [m] or [n] for Axis.TENSOR, ROW or COLUMN.
            factors: float32 [n], multiplied into the columns first.
            seed: 32-bit seed of the stochastic rounding.

        Raises:
            CompileError: for shapes or types that do not go together, or a matrix that cannot be cut along its axis.
        """
        request = QuantizeRequest(source, result, scales, axis, factors, rounding, seed)
        if 0 in source.shape:
            return
        for part in request.parts(self.config):
            op = part.instruction()
            used = [source.buffer] if factors is None else [source.buffer, factors.buffer]
            self._use(reads=used, writes=[result.buffer, scales.buffer])
            self._fence_if_needed(quantize_reads(self.config, op), quantize_writes(self.config, op))
            self._append(op, label)

    def fence(self) -> None:
        """Appends a FENCE: all that came before is in device memory when what follows begins."""
        self._instructions.append(Fence())
        self._touched.clear()

    def build(self) -> Program:
        """The program, END included. The builder may go on collecting; a later `build` returns the longer program.

        Raises:
            CompileError: if it is longer than the controller accepts.
        """
        count = len(self._instructions) + 1
        if count > self.config.max_instructions:
            raise CompileError(
                f"a program of {count} instructions: {self.config.max_instructions} are allowed; build and run it in parts"
            )
        code = encode_program([*self._instructions, End()])
        return Program(code, tuple(self._reads.values()), tuple(self._writes.values()), dict(self._labels))

    def _add_gemm(self, op: Gemm, label: str) -> None:
        reads, writes = gemm_reads(self.config, op), gemm_writes(self.config, op)
        self._fence_if_needed(reads + writes if op.accumulate else reads, writes)
        previous = self._instructions[-1] if self._instructions else None
        self._append(replace(op, reuse_a=reusable(op, previous)), label)

    def _append(self, op: Instruction, label: str) -> None:
        if label:
            self._labels[len(self._instructions)] = label
        self._instructions.append(op)

    def _use(self, reads: list[Buffer], writes: list[Buffer]) -> None:
        self._reads.update((id(buffer), buffer) for buffer in reads)
        self._writes.update((id(buffer), buffer) for buffer in writes)

    def _fence_if_needed(self, reads: list[Region], writes: list[Region]) -> None:
        for done in self._touched:
            hit = writes + reads if done.written else writes
            if any(done.region.overlaps(region) for region in hit):
                self.fence()
                break
        self._touched += [_Placed(region, False) for region in reads] + [_Placed(region, True) for region in writes]

    def _empty_contraction(self, request: GemmRequest) -> None:
        if request.bias is not None:
            raise CompileError("gemm: k = 0 with a bias; write the bias to c from the host instead")
        if not request.accumulate:
            request.c.write(np.zeros(request.c.shape, request.c.dtype.numpy))


def gemm_int8(
    device: Device,
    a: NDArray[np.int8],
    b: NDArray[np.int8],
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    scale_a: NDArray[np.float32] | None = None,
    scale_b: NDArray[np.float32] | None = None,
    alpha: float = 1.0,
    bias: NDArray[np.float32] | None = None,
    c: NDArray[Any] | None = None,
    result: ElementType = ElementType.INT32,
    transpose_c: bool = False,
    tiling: Tiling | None = None,
) -> NDArray[Any]:
    """One GEMM on a device, from arrays to an array: upload, run, download, free.

    Args:
        a: int8 [m, k] ([k, m] with `transpose_a`). b: int8 [k, n] ([n, k] with `transpose_b`).
        scale_a, scale_b, alpha, bias: as in `ProgramBuilder.gemm`.
        c: what to add to, [m, n] in the result's type.
        result: INT32, FLOAT32 or BFLOAT16 (its bits as uint16).
        transpose_c: computed and stored as C^T, to the same bits.

    Returns:
        [m, n] in the result's numpy type.

    Raises:
        CompileError: for shapes or types that do not go together.
        DeviceError: if the controller stopped the program.
    """
    rows = a.shape[1] if transpose_a else a.shape[0]
    cols = b.shape[0] if transpose_b else b.shape[1]
    buffers: list[Buffer] = []
    try:
        left = _upload(device, a, ElementType.INT8, buffers)
        right = _upload(device, b, ElementType.INT8, buffers)
        start = np.zeros((rows, cols), result.numpy) if c is None else c
        out = _upload(device, start.T if transpose_c else start, result, buffers)
        builder = ProgramBuilder(device.config)
        builder.gemm(
            *(left, right, out),
            transpose_a=transpose_a,
            transpose_b=transpose_b,
            alpha=alpha,
            accumulate=c is not None,
            transpose_c=transpose_c,
            tiling=tiling,
            label="gemm_int8",
            scale_a=_upload_vector(device, scale_a, buffers),
            scale_b=_upload_vector(device, scale_b, buffers),
            bias=_upload_vector(device, bias, buffers),
        )
        device.run(builder.build())
        return out.read().T if transpose_c else out.read()
    finally:
        for buffer in buffers:
            buffer.free()


def _upload(device: Device, values: NDArray[Any], dtype: ElementType, buffers: list[Buffer]) -> DeviceMatrix:
    rows, cols = values.shape
    bus = device.config.bus_bytes
    buffers.append(device.allocate(max(1, matrix_bytes(rows, cols, dtype, bus))))
    matrix = DeviceMatrix(buffers[-1], 0, rows, cols, row_stride(cols, dtype, bus), dtype)
    if values.size:
        matrix.write(values)
    return matrix


def _upload_vector(device: Device, values: NDArray[Any] | None, buffers: list[Buffer]) -> DeviceVector | None:
    if values is None:
        return None
    buffers.append(device.allocate(max(1, vector_bytes(len(values), device.config.bus_bytes))))
    vector = DeviceVector(buffers[-1], 0, len(values))
    vector.write(values)
    return vector
