"""Which programs the controller accepts: the checks, in the order in which the hardware makes them.

The first check that fails gives the error code, in Python and in C++ alike (`templates/decoder.hpp` is this file in C++).
All sizes are in bytes; all products stay below 2**63 because dimensions, pixels and block rows are at most 2**24 and strides below
2**32.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from .config import FLOAT_BYTES, MAX_K, ArrayConfig
from .isa import (
    INSTRUCTION_BYTES,
    MAX_DIMENSION,
    Axis,
    Dataflow,
    ErrorCode,
    Gemm,
    Instruction,
    OperandA,
    OperandB,
    Quantize,
    Result,
    ScaleMode,
    Source,
)

STATUS_BYTES = 128
RESULT_BYTES = {Result.INT32: 4, Result.FLOAT32: 4, Result.BFLOAT16: 2}
SOURCE_BYTES = {Source.FLOAT32: 4, Source.BFLOAT16: 2}


@dataclass(frozen=True)
class Region:
    """`size` bytes of device memory from `address` on."""

    address: int
    size: int

    def overlaps(self, other: Region) -> bool:
        """Whether the two share a byte."""
        return self.address < other.address + other.size and other.address < self.address + self.size

    def inside(self, other: Region) -> bool:
        """Whether all of this lies in the other."""
        return self.address >= other.address and self.address + self.size <= other.address + other.size


@dataclass(frozen=True)
class Surroundings:
    """What an instruction is checked against: the address window and what it must not overwrite."""

    window: Region
    program: Region
    status: Region


def round_up(value: int, unit: int) -> int:
    """`value`, raised to a multiple of `unit`."""
    return -(-value // unit) * unit


def check_program(config: ArrayConfig, around: Surroundings, count: int) -> ErrorCode:
    """Checks what must hold before the first instruction is fetched; `count` is the program's length in instructions."""
    if not 1 <= count <= config.max_instructions:
        return ErrorCode.BAD_PROGRAM
    if any(place.address % config.bus_bytes for place in (around.window, around.program, around.status)):
        return ErrorCode.BAD_PROGRAM
    if not around.program.inside(around.window) or not around.status.inside(around.window):
        return ErrorCode.BAD_PROGRAM
    if around.program.overlaps(around.status):
        return ErrorCode.BAD_PROGRAM
    return ErrorCode.OK


def status_writable(config: ArrayConfig, around: Surroundings) -> bool:
    """Whether the status block can be written at all: aligned, inside the window, and not on top of the program."""
    status = around.status
    if any(place.address % config.bus_bytes for place in (around.window, status)) or not status.inside(around.window):
        return False
    return not around.program.overlaps(status)


def program_region(address: int, count: int) -> Region:
    """Where a program of `count` instructions lies."""
    return Region(address, count * INSTRUCTION_BYTES)


def check_instruction(
    config: ArrayConfig, around: Surroundings, instruction: Instruction, previous: Instruction | None
) -> ErrorCode:
    """Checks one decoded instruction; `previous` is the one executed before it in this program, or None."""
    if isinstance(instruction, Gemm):
        return _check_gemm(config, around, instruction, previous)
    if isinstance(instruction, Quantize):
        return _check_quantize(config, around, instruction)
    return ErrorCode.OK


def _check_gemm(config: ArrayConfig, around: Surroundings, op: Gemm, previous: Instruction | None) -> ErrorCode:
    for test in (_gemm_fields, _gemm_shape, _gemm_tiles):
        code = test(config, op)
        if code:
            return code
    code = _placed(config, around, gemm_reads(config, op), gemm_writes(config, op), _gemm_strides(config, op))
    if code:
        return code
    if op.reuse_a and not reusable(op, previous):
        return ErrorCode.REUSE
    return ErrorCode.OK


def _gemm_fields(config: ArrayConfig, op: Gemm) -> ErrorCode:
    if not abs(op.alpha) < float("inf"):
        return ErrorCode.BAD_FIELD
    if op.dataflow == Dataflow.OUTPUT_STATIONARY and not config.output_stationary:
        return ErrorCode.BAD_FIELD
    if op.result == Result.INT32 and (op.scale_a or op.scale_b or op.bias):
        return ErrorCode.BAD_FIELD
    if op.a_form == OperandA.PATCHES and op.transpose_a:
        return ErrorCode.BAD_FIELD
    if op.b_form == OperandB.REVERSED_BLOCKS and not (op.transpose_b and op.a_form == OperandA.PATCHES):
        return ErrorCode.BAD_FIELD
    return ErrorCode.OK


def _gemm_shape(config: ArrayConfig, op: Gemm) -> ErrorCode:
    if not (1 <= op.m <= MAX_DIMENSION and 1 <= op.n <= MAX_DIMENSION and 1 <= op.k <= MAX_K):
        return ErrorCode.BAD_SHAPE
    if op.a_form == OperandA.MATRIX:
        return ErrorCode.OK
    geometry = (op.image_height, op.image_width, op.channels, op.out_height, op.out_width)
    kernel = (op.kernel_height, op.kernel_width, op.step)
    if 0 in geometry or 0 in kernel or op.channels % config.bus_bytes:
        return ErrorCode.BAD_SHAPE
    if op.k != op.kernel_height * op.kernel_width * op.channels or op.m % (op.out_height * op.out_width):
        return ErrorCode.BAD_SHAPE
    stored_rows = (stored_shape_a(op)[0], stored_shape_b(config, op)[0])
    return ErrorCode.BAD_SHAPE if max(stored_rows) > MAX_DIMENSION else ErrorCode.OK


def _gemm_tiles(config: ArrayConfig, op: Gemm) -> ErrorCode:
    for tile, dimension in ((op.tile_m, op.m), (op.tile_n, op.n), (op.tile_k, op.k)):
        if tile == 0 or (tile < dimension and tile % config.bus_bytes):
            return ErrorCode.BAD_TILE
    tile_m, tile_n, tile_k = min(op.tile_m, op.m), min(op.tile_n, op.n), min(op.tile_k, op.k)
    if input_words(config, op.dataflow, tile_m, tile_k) > config.input_depth:
        return ErrorCode.BAD_TILE
    if weight_words(config, tile_n, tile_k) > config.weight_depth:
        return ErrorCode.BAD_TILE
    if weight_words(config, tile_n, tile_m) > config.output_depth:
        return ErrorCode.BAD_TILE
    return ErrorCode.OK


def input_words(config: ArrayConfig, dataflow: Dataflow, tile_m: int, tile_k: int) -> int:
    """Words of the input memory that an A tile takes: blocks of k (weight-stationary), or of m in whole bands of k."""
    if dataflow == Dataflow.WEIGHT_STATIONARY:
        return -(-tile_k // config.rows) * tile_m
    return -(-tile_m // config.stationary_rows) * round_up(tile_k, config.band_rows)


def weight_words(config: ArrayConfig, tile_n: int, length: int) -> int:
    """Words of the weight (or output) memory that a tile of `tile_n` columns and `length` rows takes."""
    return -(-tile_n // config.cols) * length


def _matrix(bus: int, address: int, rows: int, row_bytes: int, stride: int) -> Region:
    return Region(address, (rows - 1) * stride + round_up(row_bytes, bus))


def _vector(bus: int, address: int, mode: ScaleMode, length: int) -> list[Region]:
    if mode == ScaleMode.NONE:
        return []
    count = 1 if mode == ScaleMode.TENSOR else length
    return [Region(address, round_up(count * FLOAT_BYTES, bus))]


def stored_shape_a(op: Gemm) -> tuple[int, int]:
    """(rows, bytes in a row) of A as stored; of an image: pixels and channels."""
    if op.a_form == OperandA.PATCHES:
        return op.m // (op.out_height * op.out_width) * op.image_height * op.image_width, op.channels
    return (op.k, op.m) if op.transpose_a else (op.m, op.k)


def stored_shape_b(config: ArrayConfig, op: Gemm) -> tuple[int, int]:
    """(rows, bytes in a row) of B as stored; of reversed blocks: from the first that is read to the end of the last."""
    if op.b_form == OperandB.REVERSED_BLOCKS:
        return (last_block(op) + 1) * round_up(op.n, config.bus_bytes), op.channels
    return (op.n, op.k) if op.transpose_b else (op.k, op.n)


def last_block(op: Gemm) -> int:
    """The stored block that the kernel's first position reads, which is the last of a weight read backwards."""
    return (op.kernel_height - 1) * op.block_row_step + (op.kernel_width - 1) * op.block_step


def gemm_reads(config: ArrayConfig, op: Gemm) -> list[Region]:
    """What a GEMM reads, C itself aside: A, B, scales and bias, in the order in which they are checked."""
    bus = config.bus_bytes
    regions = [
        _matrix(bus, op.a_address, *stored_shape_a(op), op.a_stride),
        _matrix(bus, op.b_address, *stored_shape_b(config, op), op.b_stride),
    ]
    regions += _vector(bus, op.scale_a_address, op.scale_a, op.m)
    regions += _vector(bus, op.scale_b_address, op.scale_b, op.n)
    regions += _vector(bus, op.bias_address, ScaleMode.VECTOR if op.bias else ScaleMode.NONE, op.n)
    return regions


def gemm_writes(config: ArrayConfig, op: Gemm) -> list[Region]:
    """What a GEMM writes: C, each row rounded up to bus words."""
    return [_matrix(config.bus_bytes, op.c_address, op.m, op.n * RESULT_BYTES[op.result], op.c_stride)]


def _gemm_strides(config: ArrayConfig, op: Gemm) -> list[tuple[int, int]]:
    return [
        (op.a_stride, stored_shape_a(op)[1]),
        (op.b_stride, stored_shape_b(config, op)[1]),
        (op.c_stride, op.n * RESULT_BYTES[op.result]),
    ]


def reusable(op: Gemm, previous: Instruction | None) -> bool:
    """Whether the A tile of `previous` is the only one that `op` needs, so that it need not be loaded again."""
    if not isinstance(previous, Gemm) or op.tile_m < op.m or op.tile_k < op.k:
        return False
    if previous.tile_m < previous.m or previous.tile_k < previous.k:
        return False
    same = ("m", "k", "a_address", "a_stride", "transpose_a", "dataflow", "a_form")
    patch = (
        *("image_height", "image_width", "channels", "out_height", "out_width"),
        *("kernel_height", "kernel_width", "step", "pad_top", "pad_left"),
    )
    names = same + patch if op.a_form == OperandA.PATCHES else same
    return all(getattr(op, name) == getattr(previous, name) for name in names)


def _check_quantize(config: ArrayConfig, around: Surroundings, op: Quantize) -> ErrorCode:
    if not (1 <= op.m <= MAX_DIMENSION and 1 <= op.n <= MAX_DIMENSION):
        return ErrorCode.BAD_SHAPE
    if scale_count(op) > config.quantize_limit or (op.multiply and op.n > config.quantize_limit):
        return ErrorCode.BAD_TILE
    strides = [(op.a_stride, op.n * SOURCE_BYTES[op.source]), (op.c_stride, op.n)]
    return _placed(config, around, quantize_reads(config, op), quantize_writes(config, op), strides)


def scale_count(op: Quantize) -> int:
    """Scales that a QUANTIZE produces."""
    return {Axis.TENSOR: 1, Axis.ROW: op.m, Axis.COLUMN: op.n}[op.axis]


def quantize_reads(config: ArrayConfig, op: Quantize) -> list[Region]:
    """What a QUANTIZE reads: its input and the column factors."""
    regions = [_matrix(config.bus_bytes, op.a_address, op.m, op.n * SOURCE_BYTES[op.source], op.a_stride)]
    mode = ScaleMode.VECTOR if op.multiply else ScaleMode.NONE
    return regions + _vector(config.bus_bytes, op.scale_b_address, mode, op.n)


def quantize_writes(config: ArrayConfig, op: Quantize) -> list[Region]:
    """What a QUANTIZE writes: the int8 rows, each rounded up to bus words, and the scales."""
    bus = config.bus_bytes
    return [
        _matrix(bus, op.c_address, op.m, op.n, op.c_stride),
        Region(op.scale_a_address, round_up(scale_count(op) * FLOAT_BYTES, bus)),
    ]


def _placed(
    config: ArrayConfig,
    around: Surroundings,
    reads: list[Region],
    writes: list[Region],
    strides: list[tuple[int, int]],
) -> ErrorCode:
    bus = config.bus_bytes
    if any(region.address % bus for region in reads + writes) or any(stride % bus for stride, _ in strides):
        return ErrorCode.ALIGNMENT
    if any(stride < round_up(row_bytes, bus) for stride, row_bytes in strides):
        return ErrorCode.STRIDE
    if not all(region.inside(around.window) for region in reads + writes):
        return ErrorCode.WINDOW
    guarded = [*reads, around.program, around.status]
    if any(written.overlaps(region) for written, region in product(writes, guarded)):
        return ErrorCode.OVERLAP
    if len(writes) == 2 and writes[0].overlaps(writes[1]):
        return ErrorCode.OVERLAP
    return ErrorCode.OK
