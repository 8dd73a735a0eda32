"""The instructions as objects, and their binary form.

What an instruction computes is defined by `systolora.sim.functional.reference`; which instructions are refused, by `systolora.hls.check`;
where each field lies, by `systolora.hls.fields`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields
from enum import IntEnum

from .fields import (
    FIELDS,
    OPCODE_FIELD,
    Axis,
    Dataflow,
    Field,
    LoopOrder,
    Opcode,
    OperandA,
    OperandB,
    Result,
    Rounding,
    ScaleMode,
    Source,
    field_table,
)

__all__ = [
    "CLASSES",
    "ERROR_TEXT",
    "FIELDS",
    "INSTRUCTION_BYTES",
    "INSTRUCTION_WORDS",
    "MAX_DIMENSION",
    "Axis",
    "Dataflow",
    "DecodeError",
    "End",
    "ErrorCode",
    "Fence",
    "Field",
    "Gemm",
    "Instruction",
    "LoopOrder",
    "Opcode",
    "OperandA",
    "OperandB",
    "Quantize",
    "Result",
    "Rounding",
    "ScaleMode",
    "Source",
    "decode",
    "disassemble",
    "encode",
    "encode_program",
    "field_table",
    "opcode_of",
    "reserved_masks",
]

INSTRUCTION_WORDS = 16
INSTRUCTION_BYTES = 8 * INSTRUCTION_WORDS
MAX_DIMENSION = 1 << 24
"""Largest m and n; k is bounded more tightly by `MAX_K`."""


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
    scales_swapped: bool = False
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
    block_row_step: int = 0
    step: int = 0
    block_step: int = 0
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
        value = opcode if field is OPCODE_FIELD else getattr(instruction, field.name)
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
