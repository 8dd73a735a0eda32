"""The top function's arguments, the status block and the counters, declared once.

The C++ signature, the AXI-Lite register map, the hardware hand-off file and the driver are derived from `ARGUMENTS`; the
status block of C++, emulator and driver from `Counters` and `Status`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields
from operator import add

from .isa import ErrorCode

STATUS_MAGIC = 0x53595354
STATUS_WORDS = 16


@dataclass(frozen=True)
class Argument:
    """One argument of the top function; `bits` is its width in the register map, `kind` how it is passed."""

    name: str
    bits: int
    kind: str
    meaning: str


ARGUMENTS: tuple[Argument, ...] = (
    Argument("memory_program", 64, "pointer", "window address: program and status block"),
    Argument("memory_input", 64, "pointer", "window address: A and the input of QUANTIZE"),
    Argument("memory_weight", 64, "pointer", "window address: B"),
    Argument("memory_output", 64, "pointer", "window address: C, scales and bias"),
    Argument("window_address", 64, "scalar", "first device address that the program may touch"),
    Argument("window_size", 64, "scalar", "bytes that it may touch"),
    Argument("program_address", 64, "scalar", "device address of the first instruction"),
    Argument("instruction_count", 32, "scalar", "length of the program in instructions"),
    Argument("status_address", 64, "scalar", "device address of the status block"),
    Argument("sequence", 32, "scalar", "copied to the status block, so that an old one is recognised"),
    Argument("error", 32, "output", "error code of the last program"),
    Argument("error_index", 32, "output", "instruction at which it stopped"),
    Argument("fingerprint", 32, "output", "of the configuration"),
)


@dataclass(frozen=True)
class Counters:
    """Counts of one program: array clocks, and bus words moved (docs/architecture.md, Counters)."""

    array_cycles: int = 0
    busy_cycles: int = 0
    input_words: int = 0
    weight_words: int = 0
    vector_words: int = 0
    result_words_loaded: int = 0
    result_words_stored: int = 0
    source_words: int = 0
    quantized_words: int = 0
    program_words: int = 0

    def __add__(self, other: Counters) -> Counters:
        return Counters(*map(add, vars(self).values(), vars(other).values()))

    @property
    def words_read(self) -> int:
        """Bus words read from device memory."""
        return (
            self.input_words
            + self.weight_words
            + self.vector_words
            + self.result_words_loaded
            + self.source_words
            + self.program_words
        )

    @property
    def words_written(self) -> int:
        """Bus words written to device memory, the status block aside."""
        return self.result_words_stored + self.quantized_words


@dataclass(frozen=True)
class Status:
    """The status block that a program leaves."""

    error: ErrorCode
    error_index: int
    executed: int
    sequence: int
    fingerprint: int
    counters: Counters

    def encode(self) -> bytes:
        """The 128 bytes of the block."""
        words = [
            STATUS_MAGIC | self.error << 32,
            self.error_index | self.executed << 32,
            self.sequence | self.fingerprint << 32,
        ]
        words += vars(self.counters).values()
        return struct.pack("<16Q", *words, *[0] * (STATUS_WORDS - len(words)))

    @classmethod
    def decode(cls, data: bytes) -> Status:
        """The block in 128 bytes.

        Raises:
            ValueError: if the magic number is missing: no program wrote it.
        """
        words = struct.unpack("<16Q", data)
        if words[0] & 0xFFFFFFFF != STATUS_MAGIC:
            raise ValueError(f"no status block: the first word is {words[0]:#018x}; the program did not finish")
        low, high = (lambda word: word & 0xFFFFFFFF), (lambda word: word >> 32)
        counters = Counters(*words[3 : 3 + len(fields(Counters))])
        return cls(ErrorCode(high(words[0])), low(words[1]), high(words[1]), low(words[2]), high(words[2]), counters)
