"""Status block, counters and the arguments of the top function."""

from __future__ import annotations

from dataclasses import astuple, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st
from systolora.hls.check import STATUS_BYTES
from systolora.hls.isa import ErrorCode
from systolora.hls.registers import ARGUMENTS, STATUS_MAGIC, Counters, Status

WORD32 = st.integers(0, 2**32 - 1)
COUNTERS = st.builds(Counters, *[st.integers(0, 2**64 - 1)] * len(fields(Counters)))


@given(st.builds(Status, st.sampled_from(ErrorCode), WORD32, WORD32, WORD32, WORD32, COUNTERS))
def test_a_status_block_is_read_as_it_was_written(status: Status) -> None:
    data = status.encode()
    assert len(data) == STATUS_BYTES
    assert Status.decode(data) == status


def test_the_words_of_the_block() -> None:
    counters = Counters(*range(1, 11))
    data = Status(ErrorCode.STRIDE, 3, 4, 5, 6, counters).encode()
    words = [int.from_bytes(data[8 * i : 8 * i + 8], "little") for i in range(16)]
    assert words[:3] == [STATUS_MAGIC | 6 << 32, 3 | 4 << 32, 5 | 6 << 32]
    assert words[3:13] == list(range(1, 11))
    assert words[13:] == [0, 0, 0]


def test_memory_that_holds_no_status_is_recognised() -> None:
    with pytest.raises(ValueError, match="no status block: the first word is 0x0000000000000000; the program did not"):
        Status.decode(bytes(128))


@given(COUNTERS, COUNTERS)
def test_counters_add_one_by_one(x: Counters, y: Counters) -> None:
    assert astuple(x + y) == tuple(a + b for a, b in zip(astuple(x), astuple(y), strict=True))


def test_every_moved_word_is_read_or_written() -> None:
    ones = Counters(*[1] * len(fields(Counters)))
    words = [field.name for field in fields(Counters) if "words" in field.name]
    assert ones.words_read + ones.words_written == len(words)
    assert Counters(result_words_stored=5, quantized_words=6).words_written == 11
    assert Counters(result_words_loaded=5, result_words_stored=1).words_read == 5


def test_the_arguments_of_the_top_function() -> None:
    names = [argument.name for argument in ARGUMENTS]
    assert len(set(names)) == len(names)
    assert {argument.kind for argument in ARGUMENTS} == {"pointer", "scalar", "output"}
    assert all(argument.bits in (32, 64) for argument in ARGUMENTS)
    assert all(argument.bits == 64 for argument in ARGUMENTS if argument.kind == "pointer")
    assert names[:4] == ["memory_program", "memory_input", "memory_weight", "memory_output"]
