"""The instruction fields, declared once: where each lies in the 128 bytes, and what its values mean.

An instruction is sixteen 64-bit little-endian words. The Python encoder and decoder, the disassembler, the C++ decoder and the
table in the documentation are all derived from `FIELDS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Opcode(IntEnum):
    """First byte of an instruction. Zero is no opcode, so that blank memory is never a program."""

    GEMM = 1
    QUANTIZE = 2
    FENCE = 3
    END = 4


class Dataflow(IntEnum):
    """What stays in the PEs while the rest moves."""

    WEIGHT_STATIONARY = 0
    OUTPUT_STATIONARY = 1


class Result(IntEnum):
    """Type in which a GEMM leaves the array."""

    INT32 = 0
    FLOAT32 = 1
    BFLOAT16 = 2


class ScaleMode(IntEnum):
    """How many scales an operand has. VECTOR: per row of A, per column of B."""

    NONE = 0
    TENSOR = 1
    VECTOR = 2


class LoopOrder(IntEnum):
    """Which tile loop of the controller is outermost. The k loop is always innermost."""

    M_OUTER = 0
    N_OUTER = 1


class OperandA(IntEnum):
    """How the load unit finds A. PATCHES forms the rows of a convolution's implicit GEMM from a channels-last image."""

    MATRIX = 0
    PATCHES = 1


class OperandB(IntEnum):
    """How the load unit finds B. REVERSED_BLOCKS: the weight of a convolution, read backwards for its grad-input."""

    MATRIX = 0
    REVERSED_BLOCKS = 1


class Source(IntEnum):
    """Element type that QUANTIZE reads."""

    FLOAT32 = 0
    BFLOAT16 = 1


class Axis(IntEnum):
    """What QUANTIZE gives a scale of its own."""

    TENSOR = 0
    ROW = 1
    COLUMN = 2


class Rounding(IntEnum):
    """NEAREST is half to even; STOCHASTIC draws from (seed, element index)."""

    NEAREST = 0
    STOCHASTIC = 1


@dataclass(frozen=True)
class Field:
    """Place of one field: bits `lsb` .. `lsb + bits - 1` of 64-bit word `word`."""

    name: str
    word: int
    lsb: int
    bits: int
    meaning: str
    kind: type[IntEnum] | type[bool] | type[float] | type[int] = int


OPCODE_FIELD = Field("opcode", 0, 0, 8, "what to do", Opcode)
TAG_FIELD = Field("tag", 0, 32, 32, "ignored by the hardware; names the instruction in traces and errors")

FIELDS: dict[Opcode, tuple[Field, ...]] = {
    Opcode.GEMM: (
        OPCODE_FIELD,
        Field("dataflow", 0, 8, 1, "weight- or output-stationary", Dataflow),
        Field("transpose_a", 0, 9, 1, "A is stored as [k, m]", bool),
        Field("transpose_b", 0, 10, 1, "B is stored as [n, k]", bool),
        Field("result", 0, 12, 2, "element type of C", Result),
        Field("accumulate", 0, 14, 1, "add to what C holds", bool),
        Field("scale_a", 0, 16, 2, "scales of A: none, one, or one per row", ScaleMode),
        Field("scale_b", 0, 18, 2, "scales of B: none, one, or one per column", ScaleMode),
        Field("bias", 0, 20, 1, "add a float32 per column", bool),
        Field("loop_order", 0, 21, 1, "outermost tile loop", LoopOrder),
        Field("reuse_a", 0, 22, 1, "A is still in the input memory from the previous GEMM", bool),
        Field("scales_swapped", 0, 23, 1, "multiply by the scale of B before that of A", bool),
        Field("a_form", 0, 24, 2, "A is a matrix, or patches of an image", OperandA),
        Field("b_form", 0, 26, 2, "B is a matrix, or the reversed blocks of a convolution weight", OperandB),
        TAG_FIELD,
        Field("m", 1, 0, 32, "rows of A and C"),
        Field("n", 1, 32, 32, "columns of B and C"),
        Field("k", 2, 0, 32, "columns of A, rows of B"),
        Field("alpha", 2, 32, 32, "float32 factor of the product", float),
        Field("tile_m", 3, 0, 32, "rows of C that are on chip at once"),
        Field("tile_n", 3, 32, 32, "columns of C that are on chip at once"),
        Field("tile_k", 4, 0, 32, "part of k that is on chip at once"),
        Field("a_address", 5, 0, 64, "device address of A (int8)"),
        Field("b_address", 6, 0, 64, "device address of B (int8)"),
        Field("c_address", 7, 0, 64, "device address of C"),
        Field("a_stride", 8, 0, 32, "bytes from row to row of A as stored; of an image: from pixel to pixel"),
        Field("b_stride", 8, 32, 32, "bytes from row to row of B as stored"),
        Field("c_stride", 9, 0, 32, "bytes from row to row of C"),
        Field("block_row_step", 9, 32, 16, "reversed blocks: stored blocks from one to the next down the kernel"),
        Field("scale_a_address", 10, 0, 64, "float32 [1] or [m]"),
        Field("scale_b_address", 11, 0, 64, "float32 [1] or [n]"),
        Field("bias_address", 12, 0, 64, "float32 [n]"),
        Field("image_height", 13, 0, 16, "rows of pixels of the stored image"),
        Field("image_width", 13, 16, 16, "pixels in a row"),
        Field("channels", 13, 32, 16, "int8 values in a pixel, a multiple of the bus width"),
        Field("out_height", 13, 48, 16, "rows of patches"),
        Field("out_width", 14, 0, 16, "patches in a row"),
        Field("kernel_height", 14, 16, 8, "pixels in a patch, down"),
        Field("kernel_width", 14, 24, 8, "pixels in a patch, across"),
        Field("step", 14, 32, 8, "pixels from patch to patch (the convolution's stride)"),
        Field("block_step", 14, 40, 8, "reversed blocks: stored blocks from one to the next across the kernel"),
        Field("pad_top", 14, 48, 8, "rows of zeros above the image"),
        Field("pad_left", 14, 56, 8, "zeros left of the image"),
    ),
    Opcode.QUANTIZE: (
        OPCODE_FIELD,
        Field("source", 0, 8, 2, "element type of the input", Source),
        Field("axis", 0, 10, 2, "one scale per tensor, per row or per column", Axis),
        Field("rounding", 0, 12, 1, "half to even, or stochastic", Rounding),
        Field("multiply", 0, 13, 1, "multiply each column by a float32 first", bool),
        TAG_FIELD,
        Field("m", 1, 0, 32, "rows"),
        Field("n", 1, 32, 32, "columns"),
        Field("seed", 4, 32, 32, "of the stochastic rounding"),
        Field("a_address", 5, 0, 64, "device address of the input"),
        Field("c_address", 7, 0, 64, "device address of the int8 result"),
        Field("a_stride", 8, 0, 32, "bytes from row to row of the input"),
        Field("c_stride", 9, 0, 32, "bytes from row to row of the result"),
        Field("index_base", 9, 32, 32, "element index of the first element (stochastic rounding)"),
        Field("scale_a_address", 10, 0, 64, "where the scales go: float32 [1], [m] or [n]"),
        Field("scale_b_address", 11, 0, 64, "float32 [n], if `multiply`"),
        Field("index_stride", 15, 0, 32, "element indices from row to row (stochastic rounding)"),
    ),
    Opcode.FENCE: (OPCODE_FIELD, TAG_FIELD),
    Opcode.END: (OPCODE_FIELD, TAG_FIELD),
}


def field_table() -> str:
    """The Markdown table of all fields, for the documentation."""
    rows = ["| instruction | field | word | bits | type | meaning |", "|---|---|---|---|---|---|"]
    for opcode, layout in FIELDS.items():
        for field in layout:
            span = f"{field.lsb + field.bits - 1}:{field.lsb}" if field.bits > 1 else str(field.lsb)
            rows.append(
                f"| {opcode.name} | `{field.name}` | {field.word} | {span} | {_kind(field)} | {field.meaning} |"
            )
    return "\n".join(rows) + "\n"


def _kind(field: Field) -> str:
    if issubclass(field.kind, IntEnum):
        return ", ".join(f"{item.value} {item.name}" for item in field.kind)
    return {bool: "flag", float: "float32", int: "unsigned"}[field.kind]
