"""The instruction set: what is encoded is decoded again, and everything else is refused."""

from __future__ import annotations

import struct
from dataclasses import fields, replace
from enum import IntEnum
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from systolora.hls.isa import (
    CLASSES,
    ERROR_TEXT,
    FIELDS,
    INSTRUCTION_BYTES,
    DecodeError,
    End,
    ErrorCode,
    Fence,
    Field,
    Gemm,
    Instruction,
    Opcode,
    Quantize,
    Result,
    decode,
    disassemble,
    encode,
    encode_program,
    field_table,
    opcode_of,
    reserved_masks,
)

ROOT = Path(__file__).parents[2]


def values_of(field: Field) -> st.SearchStrategy:
    if field.kind is float:
        return st.floats(width=32, allow_nan=False)
    if field.kind is bool:
        return st.booleans()
    if issubclass(field.kind, IntEnum):
        return st.sampled_from(list(field.kind))
    return st.integers(0, (1 << field.bits) - 1)


def instructions() -> st.SearchStrategy[Instruction]:
    def of(opcode: Opcode) -> st.SearchStrategy[Instruction]:
        return st.builds(CLASSES[opcode], **{field.name: values_of(field) for field in FIELDS[opcode][1:]})

    return st.one_of([of(opcode) for opcode in Opcode])


@given(instructions())
def test_what_is_encoded_is_decoded_again(instruction: Instruction) -> None:
    data = encode(instruction)
    assert len(data) == INSTRUCTION_BYTES
    assert decode(data) == instruction
    assert data[0] == opcode_of(instruction)


@given(instructions())
def test_every_reserved_bit_is_refused(instruction: Instruction) -> None:
    data = encode(instruction)
    words = struct.unpack("<16Q", data)
    masks = reserved_masks(opcode_of(instruction))
    assert all(word & mask == 0 for word, mask in zip(words, masks, strict=True))
    for index, mask in enumerate(masks):
        for bit in (mask & -mask, 1 << mask.bit_length() - 1 if mask else 0):
            if bit:
                broken = [word | bit if place == index else word for place, word in enumerate(words)]
                with pytest.raises(DecodeError, match=f"reserved bits of word {index} are set") as caught:
                    decode(struct.pack("<16Q", *broken))
                assert caught.value.code == ErrorCode.BAD_FIELD


@given(st.binary(min_size=INSTRUCTION_BYTES, max_size=INSTRUCTION_BYTES))
def test_any_bytes_are_an_instruction_or_refused(data: bytes) -> None:
    try:
        instruction = decode(data)
    except DecodeError as error:
        assert error.code in (ErrorCode.BAD_OPCODE, ErrorCode.BAD_FIELD)
    else:
        assert decode(encode(instruction)) == instruction


@pytest.mark.parametrize("opcode", [0, 5, 255])
def test_other_opcodes_are_unknown(opcode: int) -> None:
    with pytest.raises(DecodeError, match=f"opcode {opcode} is unknown") as caught:
        decode(bytes([opcode]) + bytes(127))
    assert caught.value.code == ErrorCode.BAD_OPCODE


@pytest.mark.parametrize("opcode", Opcode)
def test_enumerations_without_meaning_are_refused(opcode: Opcode) -> None:
    for field in FIELDS[opcode][1:]:
        if not issubclass(field.kind, IntEnum):
            continue
        for value in set(range(1 << field.bits)) - {int(item) for item in field.kind}:
            words = [int(opcode)] + [0] * 15
            words[field.word] |= value << field.lsb
            with pytest.raises(DecodeError, match=f"{field.name} = {value} has no meaning") as caught:
                decode(struct.pack("<16Q", *words))
            assert caught.value.code == ErrorCode.BAD_FIELD


def test_a_value_that_does_not_fit_its_field_is_refused() -> None:
    op = Quantize(1, 1, 0, 0, 16, 16, 0)
    for change in ({"m": 1 << 32}, {"m": -1}, {"a_address": 1 << 64}, {"seed": 1 << 32}):
        name = next(iter(change))
        with pytest.raises(ValueError, match=f"QUANTIZE {name} = .*: it does not fit"):
            encode(replace(op, **change))


def test_an_instruction_has_128_bytes() -> None:
    with pytest.raises(ValueError, match="an instruction has 128 bytes, not 64"):
        decode(bytes(64))


@pytest.mark.parametrize("opcode", Opcode)
def test_fields_do_not_overlap_and_match_their_class(opcode: Opcode) -> None:
    taken: set[tuple[int, int]] = set()
    for field in FIELDS[opcode]:
        bits = {(field.word, bit) for bit in range(field.lsb, field.lsb + field.bits)}
        assert 0 <= field.word < 16 and field.lsb + field.bits <= 64
        assert not bits & taken, f"{field.name} overlaps another field"
        taken |= bits
    assert {field.name for field in FIELDS[opcode][1:]} == {field.name for field in fields(CLASSES[opcode])}


def test_common_fields_lie_at_the_same_place() -> None:
    """The hardware's decoder reads them before it knows the opcode."""
    gemm = {field.name: field for field in FIELDS[Opcode.GEMM]}
    for field in FIELDS[Opcode.QUANTIZE]:
        if field.name in gemm and field.name not in ("scale_a_address", "scale_b_address"):
            other = gemm[field.name]
            assert (field.word, field.lsb, field.bits) == (other.word, other.lsb, other.bits)


def test_disassembly_leaves_defaults_out() -> None:
    gemm = Gemm(2, 3, 4, 2, 3, 4, 0x1000, 0x2000, 0x3000, 16, 16, 16, transpose_b=True, result=Result.FLOAT32, tag=7)
    lines = disassemble(encode_program([gemm, Fence(), End()]) + bytes(128))
    assert lines == [
        "    0  GEMM m=2 n=3 k=4 tile_m=2 tile_n=3 tile_k=4 a_address=0x1000 b_address=0x2000 c_address=0x3000 "
        "a_stride=16 b_stride=16 c_stride=16 transpose_b=yes result=float32 tag=7",
        "    1  FENCE",
        "    2  END",
        "    3  ?? opcode 0 is unknown",
    ]


def test_every_error_has_a_text() -> None:
    assert set(ERROR_TEXT) == set(ErrorCode)
    assert len(set(ERROR_TEXT.values())) == len(ErrorCode)


def test_the_documentation_is_current() -> None:
    """`docs/instructions.md` is made from the declaration; run `systolora.hls.isa.field_table` and paste it if this fails."""
    assert field_table() in (ROOT / "docs" / "instructions.md").read_text()
