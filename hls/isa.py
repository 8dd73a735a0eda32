"""The instruction set, declared once.

An instruction is 128 bytes: sixteen 64-bit little-endian words. `FIELDS` says where each field of each instruction lies; the
Python encoder and decoder, the disassembler, the C++ decoder and the table in the documentation are all derived from it.
What an instruction computes is defined by `systolora.sim.reference`; which instructions are refused, by `systolora.hls.check`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields
from enum import IntEnum

INSTRUCTION_WORDS = 16
INSTRUCTION_BYTES = 8 * INSTRUCTION_WORDS
MAX_DIMENSION = 1 << 24
"""Largest m and n; k is bounded more tightly by `MAX_K`."""


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


class ErrorCode(IntEnum):
    """Why the controller stopped a program; written to the status block with the index of the instruction."""

    OK = 0
    BAD_OPCODE = 1
    BAD_FIELD = 2
    BAD_SHAPE = 3
    BAD_TILE = 4
    ALIGNMENT = 5
    STRIDE = 6
    WINDOW = 7
    OVERLAP = 8
    REUSE = 9
    NONFINITE = 10
    NO_END = 11
    BAD_PROGRAM = 12


ERROR_TEXT: dict[ErrorCode, str] = {
    ErrorCode.OK: "no error",
    ErrorCode.BAD_OPCODE: "unknown opcode",
    ErrorCode.BAD_FIELD: "a reserved bit is set, or a field holds a value that has no meaning",
    ErrorCode.BAD_SHAPE: "a dimension is zero or too large, or does not match the patch geometry",
    ErrorCode.BAD_TILE: "a tile is zero, cuts through a bus word, or does not fit its memory",
    ErrorCode.ALIGNMENT: "an address or a stride is not a multiple of the bus width",
    ErrorCode.STRIDE: "a stride is smaller than the row, rounded up to bus words",
    ErrorCode.WINDOW: "an operand lies outside the address window",
    ErrorCode.OVERLAP: "a result overlaps an operand, the program or the status block",
    ErrorCode.REUSE: "reuse_a does not follow a GEMM with the same single-tile A",
    ErrorCode.NONFINITE: "QUANTIZE met a NaN or an infinity",
    ErrorCode.NO_END: "the program has no END within its length",
    ErrorCode.BAD_PROGRAM: "the program or the status block lies outside the address window",
}


@dataclass(frozen=True)
class Field:
    """Place of one field: bits `lsb` .. `lsb + bits - 1` of 64-bit word `word`."""

    name: str
    word: int
    lsb: int
    bits: int
    meaning: str
    kind: type[IntEnum] | type[bool] | type[float] | type[int] = int


_OPCODE = Field("opcode", 0, 0, 8, "what to do", Opcode)
_TAG = Field("tag", 0, 32, 32, "ignored by the hardware; names the instruction in traces and errors")

FIELDS: dict[Opcode, tuple[Field, ...]] = {
    Opcode.GEMM: (
        _OPCODE,
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
        Field("a_form", 0, 24, 2, "A is a matrix, or patches of an image", OperandA),
        Field("b_form", 0, 26, 2, "B is a matrix, or the reversed blocks of a convolution weight", OperandB),
        _TAG,
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
        Field(
            "spread",
            14,
            40,
            8,
            "stored pixels lie this far apart, with zeros between (grad-input of a stride)",
        ),
        Field("pad_top", 14, 48, 8, "rows of zeros above the image"),
        Field("pad_left", 14, 56, 8, "zeros left of the image"),
    ),
    Opcode.QUANTIZE: (
        _OPCODE,
        Field("source", 0, 8, 2, "element type of the input", Source),
        Field("axis", 0, 10, 2, "one scale per tensor, per row or per column", Axis),
        Field("rounding", 0, 12, 1, "half to even, or stochastic", Rounding),
        Field("multiply", 0, 13, 1, "multiply each column by a float32 first", bool),
        _TAG,
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
    Opcode.FENCE: (_OPCODE, _TAG),
    Opcode.END: (_OPCODE, _TAG),
}


@dataclass(frozen=True)
class Gemm:
    """C[m, n] = A[m, k] B[k, n], dequantized and accumulated as the flags say; fields as in `FIELDS[Opcode.GEMM]`."""

    m: int
    n: int
    k: int
    tile_m: int
    tile_n: int
    tile_k: int
    a_address: int
    b_address: int
    c_address: int
    a_stride: int
    b_stride: int
    c_stride: int
    dataflow: Dataflow = Dataflow.WEIGHT_STATIONARY
    transpose_a: bool = False
    transpose_b: bool = False
    result: Result = Result.INT32
    accumulate: bool = False
    scale_a: ScaleMode = ScaleMode.NONE
    scale_b: ScaleMode = ScaleMode.NONE
    bias: bool = False
    loop_order: LoopOrder = LoopOrder.M_OUTER
    reuse_a: bool = False
    a_form: OperandA = OperandA.MATRIX
    b_form: OperandB = OperandB.MATRIX
    alpha: float = 1.0
    scale_a_address: int = 0
    scale_b_address: int = 0
    bias_address: int = 0
    image_height: int = 0
    image_width: int = 0
    channels: int = 0
    out_height: int = 0
    out_width: int = 0
    kernel_height: int = 0
    kernel_width: int = 0
    step: int = 0
    spread: int = 0
    pad_top: int = 0
    pad_left: int = 0
    tag: int = 0


@dataclass(frozen=True)
class Quantize:
    """int8 copy of a float [m, n] with its scales; fields as in `FIELDS[Opcode.QUANTIZE]`."""

    m: int
    n: int
    a_address: int
    c_address: int
    a_stride: int
    c_stride: int
    scale_a_address: int
    source: Source = Source.FLOAT32
    axis: Axis = Axis.ROW
    rounding: Rounding = Rounding.NEAREST
    multiply: bool = False
    scale_b_address: int = 0
    seed: int = 0
    index_base: int = 0
    index_stride: int = 0
    tag: int = 0


@dataclass(frozen=True)
class Fence:
    """All that came before is in device memory when what follows begins; nothing on chip is reused across it."""

    tag: int = 0


@dataclass(frozen=True)
class End:
    """The program is complete."""

    tag: int = 0


Instruction = Gemm | Quantize | Fence | End

CLASSES: dict[Opcode, type[Gemm] | type[Quantize] | type[Fence] | type[End]] = {
    Opcode.GEMM: Gemm,
    Opcode.QUANTIZE: Quantize,
    Opcode.FENCE: Fence,
    Opcode.END: End,
}
_OPCODES = {cls: opcode for opcode, cls in CLASSES.items()}


class DecodeError(ValueError):
    """Words that are no instruction; `code` is what the controller reports for them."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code


def opcode_of(instruction: Instruction) -> Opcode:
    """The opcode of an instruction object."""
    return _OPCODES[type(instruction)]


def encode(instruction: Instruction) -> bytes:
    """The 128 bytes of an instruction.

    Raises:
        ValueError: if a value does not fit its field.
    """
    opcode = opcode_of(instruction)
    words = [0] * INSTRUCTION_WORDS
    for field in FIELDS[opcode]:
        value = opcode if field is _OPCODE else getattr(instruction, field.name)
        if field.kind is float:
            bits = struct.unpack("<I", struct.pack("<f", value))[0]
        else:
            bits = int(value)
        if not 0 <= bits < 1 << field.bits:
            raise ValueError(f"{opcode.name} {field.name} = {value}: it does not fit {field.bits} bits")
        words[field.word] |= bits << field.lsb
    return struct.pack("<16Q", *words)


def encode_program(instructions: list[Instruction]) -> bytes:
    """The bytes of a program; an END is not added."""
    return b"".join(encode(instruction) for instruction in instructions)


def decode(data: bytes) -> Instruction:
    """The instruction in 128 bytes.

    Raises:
        DecodeError: with BAD_OPCODE for an unknown opcode, BAD_FIELD for a reserved bit or an enumeration value without
            meaning, as the controller does.
    """
    if len(data) != INSTRUCTION_BYTES:
        raise ValueError(f"an instruction has {INSTRUCTION_BYTES} bytes, not {len(data)}")
    words = struct.unpack("<16Q", data)
    code = words[0] & 0xFF
    if code not in CLASSES:
        raise DecodeError(ErrorCode.BAD_OPCODE, f"opcode {code} is unknown")
    opcode = Opcode(code)
    for index, mask in enumerate(_RESERVED[opcode]):
        if words[index] & mask:
            raise DecodeError(ErrorCode.BAD_FIELD, f"{opcode.name}: reserved bits of word {index} are set")
    values: dict[str, object] = {}
    for field in FIELDS[opcode][1:]:
        values[field.name] = _value(field, words[field.word] >> field.lsb & (1 << field.bits) - 1)
    return CLASSES[opcode](**values)  # type: ignore[arg-type]


def _value(field: Field, bits: int) -> object:
    if field.kind is float:
        return struct.unpack("<f", struct.pack("<I", bits))[0]
    try:
        return field.kind(bits)
    except ValueError:
        raise DecodeError(ErrorCode.BAD_FIELD, f"{field.name} = {bits} has no meaning") from None


def _reserved_masks(opcode: Opcode) -> tuple[int, ...]:
    masks = [(1 << 64) - 1] * INSTRUCTION_WORDS
    for field in FIELDS[opcode]:
        masks[field.word] &= ~((1 << field.bits) - 1 << field.lsb)
    return tuple(masks)


_RESERVED: dict[Opcode, tuple[int, ...]] = {opcode: _reserved_masks(opcode) for opcode in Opcode}


def reserved_masks(opcode: Opcode) -> tuple[int, ...]:
    """Per 64-bit word the bits that must be zero."""
    return _RESERVED[opcode]


def disassemble(data: bytes) -> list[str]:
    """One line of text per instruction; fields that hold their default are left out."""
    lines = []
    for index in range(0, len(data), INSTRUCTION_BYTES):
        head = f"{index // INSTRUCTION_BYTES:5d}  "
        try:
            instruction = decode(data[index : index + INSTRUCTION_BYTES])
        except DecodeError as error:
            lines.append(f"{head}?? {error}")
            continue
        parts = [opcode_of(instruction).name]
        for field in fields(instruction):
            value = getattr(instruction, field.name)
            if value != field.default:
                parts.append(f"{field.name}={_text(field.name, value)}")
        lines.append(head + " ".join(parts))
    return lines


def _text(name: str, value: object) -> str:
    if isinstance(value, IntEnum):
        return value.name.lower()
    if isinstance(value, bool):
        return "yes"
    return f"{value:#x}" if name.endswith("_address") else str(value)


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
