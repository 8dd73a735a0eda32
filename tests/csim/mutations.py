"""Instruction words that no compiler would write: random ones, and good ones with some of their bits or fields changed."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from systolora.hls.check import STATUS_BYTES, Region, round_up
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import FIELDS, INSTRUCTION_BYTES, INSTRUCTION_WORDS, End, Opcode, encode
from systolora.sim.functional.memory import DEFAULT_BASE

from .random_programs import ProgramBuilder

MEMORY_BYTES = 16 * 1024
DATA = Region(DEFAULT_BASE + 4096, MEMORY_BYTES - 4096)
"""Where the operands of good instructions lie: behind program and status block."""

_EDGES = [
    0,
    1,
    3,
    4,
    7,
    8,
    15,
    16,
    17,
    63,
    64,
    255,
    256,
    1 << 15,
    1 << 16,
    (1 << 24) - 1,
    1 << 24,
    1 << 31,
    (1 << 32) - 1,
]
_PLACES = [0, DEFAULT_BASE, DEFAULT_BASE + MEMORY_BYTES, (1 << 64) - 16, (1 << 64) - 1, 1 << 63, 1 << 32]


@dataclass(frozen=True)
class Start:
    """One start of the hardware: its registers, and the program that lies in memory."""

    window: Region
    program_address: int
    count: int
    status_address: int
    code: bytes


class Mutator:
    """Draws starts. The good instructions that it changes work on a few kilobytes, so that each start is quick."""

    def __init__(self, config: ArrayConfig, seed: int) -> None:
        self.config = config
        self.rng = np.random.default_rng(seed)
        self.good = list(self._good_instructions())

    def image(self) -> bytes:
        """The memory before each start: small values, so that most of what QUANTIZE reads is finite."""
        values = self.rng.integers(0, 256, MEMORY_BYTES).astype(np.uint8)
        values[3::4] = self.rng.choice(np.array([0x3F, 0x40, 0xBF, 0x00, 0x80], np.uint8), MEMORY_BYTES // 4)
        return values.tobytes()

    def start(self) -> Start:
        """One to three instructions and, mostly, an END; sometimes registers that are wrong themselves."""
        code = b"".join(self._instruction() for _ in range(int(self.rng.integers(1, 4))))
        if self.rng.random() < 0.9:
            code += encode(End(tag=7))
        count = len(code) // INSTRUCTION_BYTES
        window = Region(DEFAULT_BASE, MEMORY_BYTES)
        status = DEFAULT_BASE + 2048
        if self.rng.random() < 0.05:
            return self._bad_registers(code)
        return Start(window, DEFAULT_BASE, count, status, code)

    def _bad_registers(self, code: bytes) -> Start:
        rng = self.rng
        first = int(rng.integers(0, MEMORY_BYTES // 2))
        window = Region(DEFAULT_BASE + first, int(rng.integers(0, MEMORY_BYTES - first)))
        if rng.random() < 0.5:
            window = Region(round_up(window.address, 64), window.size // 2)
        places = [*_PLACES, window.address, window.address + window.size - STATUS_BYTES, window.address + 256]
        program = self._pick(places)
        status = self._pick([*places, program, (program + 64) & (1 << 64) - 1])
        if program != DEFAULT_BASE:
            code = b""
        count = self._pick([0, 1, 2, 3, self.config.max_instructions + 1, (1 << 32) - 1])
        return Start(window, program, count, status, code)

    def _instruction(self) -> bytes:
        draw = self.rng.random()
        if draw < 0.15:
            return self._random_words()
        good = self.good[int(self.rng.integers(len(self.good)))]
        if draw < 0.3:
            return good
        if draw < 0.5:
            return self._flip_bits(good)
        return self._change_fields(good)

    def _random_words(self) -> bytes:
        words = self.rng.integers(0, 1 << 64, INSTRUCTION_WORDS, dtype=np.uint64)
        if self.rng.random() < 0.7:
            words[0] = words[0] & np.uint64(0xFFFFFF00) | np.uint64(self.rng.integers(0, 6))
        return words.astype("<u8").tobytes()

    def _flip_bits(self, code: bytes) -> bytes:
        raw = bytearray(code)
        for bit in self.rng.integers(0, 8 * INSTRUCTION_BYTES, int(self.rng.integers(1, 4))):
            raw[bit // 8] ^= 1 << bit % 8
        return bytes(raw)

    def _change_fields(self, code: bytes) -> bytes:
        words = list(struct.unpack("<16Q", code))
        layout = FIELDS[Opcode(words[0] & 0xFF)]
        for _ in range(int(self.rng.integers(1, 3))):
            field = layout[int(self.rng.integers(1, len(layout)))]
            mask = (1 << field.bits) - 1
            old = words[field.word] >> field.lsb & mask
            value = self._value(old, field.bits) & mask
            words[field.word] = words[field.word] & ~(mask << field.lsb) | value << field.lsb
        return struct.pack("<16Q", *words)

    def _value(self, old: int, bits: int) -> int:
        draw = int(self.rng.integers(4))
        if draw == 0:
            return old + int(self.rng.integers(-2, 3)) * self.config.bus_bytes
        if draw == 1:
            return self._pick(_PLACES if bits == 64 else _EDGES)
        if draw == 2:
            return old + int(self.rng.integers(-3, 4))
        return int(self.rng.integers(0, 1 << min(bits, 62)))

    def _pick(self, values: list[int]) -> int:
        return values[int(self.rng.integers(len(values)))]

    def _good_instructions(self) -> Iterator[bytes]:
        builder = ProgramBuilder(self.config, self.rng)
        builder.limit = 40
        for draw in range(120):
            builder.next = DATA.address
            builder.instructions.clear()
            if draw % 3:
                builder.add_gemm()
            else:
                builder.add_quantize()
            if builder.next <= DATA.address + DATA.size:
                yield from (encode(op) for op in builder.instructions)
