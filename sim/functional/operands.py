"""Where the operands of an instruction lie in device memory: numpy views of them, and rows written in whole bus words."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray
from systolora.hls.check import last_block, round_up, scale_count
from systolora.hls.config import FLOAT_BYTES
from systolora.hls.isa import Gemm, OperandA, OperandB, Quantize, Result, ScaleMode, Source

from .memory import DeviceMemory
from .patches import PatchGeometry, pixel_indices
from .reference import Float32, Int8, from_bfloat16, reversed_blocks

RESULT_TYPES: dict[Result, DTypeLike] = {Result.INT32: np.int32, Result.FLOAT32: np.float32, Result.BFLOAT16: np.uint16}
SOURCE_TYPES: dict[Source, DTypeLike] = {Source.FLOAT32: np.float32, Source.BFLOAT16: np.uint16}


def strided(memory: DeviceMemory, address: int, shape: tuple[int, int], stride: int, dtype: DTypeLike) -> NDArray:
    """A view of a matrix whose rows lie `stride` bytes apart."""
    dtype = np.dtype(dtype)
    return np.ndarray(shape, dtype, memory.bytes.data, address - memory.base, (stride, dtype.itemsize))


def operand_a(memory: DeviceMemory, op: Gemm, m0: int, m1: int) -> Int8:
    """Rows m0 .. m1 - 1 of A: int8 [m1 - m0, k]; a view, or a copy if they are patches."""
    if op.a_form == OperandA.PATCHES:
        return _patches(memory, op, m0, m1)
    if op.transpose_a:
        return strided(memory, op.a_address, (op.k, op.m), op.a_stride, np.int8).T[m0:m1]
    return strided(memory, op.a_address, (op.m, op.k), op.a_stride, np.int8)[m0:m1]


def operand_b(memory: DeviceMemory, op: Gemm, bus_bytes: int) -> Int8:
    """B: int8 [k, n]; a view, or a copy if it is stored as reversed blocks."""
    if op.b_form == OperandB.REVERSED_BLOCKS:
        blocks, block_rows = last_block(op) + 1, round_up(op.n, bus_bytes)
        stored = strided(memory, op.b_address, (blocks * block_rows, op.channels), op.b_stride, np.int8)
        kernel, steps = (op.kernel_height, op.kernel_width), (op.block_row_step, op.block_step)
        return reversed_blocks(stored.reshape(blocks, block_rows, op.channels), kernel, steps, op.n)
    if op.transpose_b:
        return strided(memory, op.b_address, (op.n, op.k), op.b_stride, np.int8).T
    return strided(memory, op.b_address, (op.k, op.n), op.b_stride, np.int8)


def operand_c(memory: DeviceMemory, op: Gemm) -> NDArray:
    """C: [m, n] in the type of the result (bfloat16 as uint16); a view."""
    return strided(memory, op.c_address, (op.m, op.n), op.c_stride, RESULT_TYPES[op.result])


def scales(memory: DeviceMemory, mode: ScaleMode, address: int, start: int, stop: int) -> Float32 | None:
    """The scales of rows or columns start .. stop - 1: float32 [1] or [stop - start], or None."""
    if mode == ScaleMode.NONE:
        return None
    if mode == ScaleMode.TENSOR:
        start, stop = 0, 1
    return memory.view(address + FLOAT_BYTES * start, FLOAT_BYTES * (stop - start)).view(np.float32)


def bias(memory: DeviceMemory, op: Gemm, start: int, stop: int) -> Float32 | None:
    """The bias of columns start .. stop - 1, or None."""
    return scales(memory, ScaleMode.VECTOR if op.bias else ScaleMode.NONE, op.bias_address, start, stop)


def quantize_source(memory: DeviceMemory, op: Quantize) -> Float32:
    """The input of a QUANTIZE: float32 [m, n]; a view if it is stored as such."""
    stored = strided(memory, op.a_address, (op.m, op.n), op.a_stride, SOURCE_TYPES[op.source])
    return from_bfloat16(stored) if op.source == Source.BFLOAT16 else stored


def write_rows(
    memory: DeviceMemory, address: int, stride: int, values: NDArray, bus_bytes: int, n0: int = 0, m0: int = 0
) -> None:
    """Writes a matrix, or the part of one that begins at (m0, n0), row by row in whole bus words, zeros behind its end."""
    size = values.dtype.itemsize
    rows, columns = values.shape
    padded = round_up(columns * size, bus_bytes) // size
    place = strided(memory, address + m0 * stride + n0 * size, (rows, padded), stride, values.dtype)
    place[:, :columns] = values
    place[:, columns:] = 0


def write_result(memory: DeviceMemory, op: Gemm, values: NDArray, bus_bytes: int, m0: int = 0, n0: int = 0) -> None:
    """Writes (a part of) C."""
    write_rows(memory, op.c_address, op.c_stride, values, bus_bytes, n0, m0)


def write_quantized(memory: DeviceMemory, op: Quantize, q: Int8, scale: Float32, bus_bytes: int) -> None:
    """Writes the integers and the scales of a QUANTIZE."""
    write_rows(memory, op.c_address, op.c_stride, q, bus_bytes)
    line = round_up(FLOAT_BYTES * scale_count(op), bus_bytes)
    write_rows(memory, op.scale_a_address, line, scale.reshape(1, -1), bus_bytes)


def _patches(memory: DeviceMemory, op: Gemm, m0: int, m1: int) -> Int8:
    """Rows m0 .. m1 - 1 of the implicit GEMM's A: int8 [m1 - m0, k]."""
    geometry = PatchGeometry.of(op)
    indices = pixel_indices(geometry)
    per_image = geometry.out_height * geometry.out_width
    pixels = geometry.image_height * geometry.image_width
    stored = strided(memory, op.a_address, (op.m // per_image * pixels, op.channels), op.a_stride, np.int8)
    patch = np.arange(m0, m1)
    index = indices[patch % per_image]
    rows = stored[np.where(index >= 0, index + (patch // per_image * pixels)[:, None], 0)]
    rows[index < 0] = 0
    return rows.reshape(m1 - m0, op.k)
