"""What a program touches, read from its instructions: nothing is started that reaches memory which no handle stands for.

On a board a wrong address in an instruction is a write to somebody else's memory, as root, so the driver looks before it
starts a program. The same regions say whether a program may be run a second time after the hardware hung.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from systolora.hls.check import Region, gemm_reads, gemm_writes, quantize_reads, quantize_writes
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import FIELDS, INSTRUCTION_BYTES, DecodeError, Gemm, Opcode, Quantize, decode

_KNOWN_INSTRUCTIONS = 65536

_SEED = next(field for field in FIELDS[Opcode.QUANTIZE] if field.name == "seed")
_SEED_PLACE = 8 * _SEED.word + _SEED.lsb // 8
"""Byte of an encoded QUANTIZE at which its seed begins; what it touches does not depend on it."""

_Regions = tuple[tuple[Region, ...], tuple[Region, ...]]


@dataclass(frozen=True)
class Touched:
    """Regions that one instruction reads and writes, in device addresses."""

    index: int
    reads: tuple[Region, ...]
    writes: tuple[Region, ...]


@dataclass(frozen=True)
class Misplaced:
    """An instruction that reaches outside the buffers of its program."""

    index: int
    region: Region


class ProgramRegions:
    """What the programs of one accelerator touch.

    A training step submits the same instructions over and over, up to the seeds of stochastic rounding, so what is known of an
    instruction is kept.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self._config = config
        self._known: dict[bytes, _Regions] = {}

    def touched(self, code: bytes) -> Iterator[Touched]:
        """What each instruction touches. Those that the controller refuses to decode touch nothing."""
        for index in range(len(code) // INSTRUCTION_BYTES):
            reads, writes = self._of(code[index * INSTRUCTION_BYTES : (index + 1) * INSTRUCTION_BYTES])
            if reads or writes:
                yield Touched(index, reads, writes)

    def written(self, code: bytes) -> list[Region]:
        """All regions that a program writes, in the order of its instructions."""
        return [region for item in self.touched(code) for region in item.writes]

    def find_misplaced(self, code: bytes, readable: Sequence[Region], writable: Sequence[Region]) -> Misplaced | None:
        """The first instruction that reads outside `readable` and `writable`, or writes outside `writable`; or None."""
        anywhere = [*readable, *writable]
        for item in self.touched(code):
            for regions, allowed in ((item.reads, anywhere), (item.writes, writable)):
                for region in regions:
                    if not any(region.inside(area) for area in allowed):
                        return Misplaced(item.index, region)
        return None

    def replayable(self, code: bytes) -> bool:
        """Whether running the program again after any part of it has run gives what one run gives.

        It does if no instruction reads bytes that the program held before and overwrites later: each region that is read was
        either written by an earlier instruction, in one piece, or is written by none.
        """
        steps = list(self.touched(code))
        everything = [region for item in steps for region in item.writes]
        done: list[Region] = []
        for item in steps:
            for region in item.reads:
                if any(region.inside(earlier) for earlier in done):
                    continue
                if any(region.overlaps(written) for written in everything):
                    return False
            done += item.writes
        return True

    def _of(self, word: bytes) -> _Regions:
        key = word[:_SEED_PLACE] + word[_SEED_PLACE + 4 :] if word[0] == Opcode.QUANTIZE else word
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _KNOWN_INSTRUCTIONS:
                self._known.clear()
            found = self._known[key] = self._decode(word)
        return found

    def _decode(self, word: bytes) -> _Regions:
        try:
            instruction = decode(word)
        except DecodeError:
            return (), ()
        if isinstance(instruction, Gemm):
            writes = tuple(gemm_writes(self._config, instruction))
            kept = writes if instruction.accumulate else ()
            return (*gemm_reads(self._config, instruction), *kept), writes
        if isinstance(instruction, Quantize):
            return tuple(quantize_reads(self._config, instruction)), tuple(quantize_writes(self._config, instruction))
        return (), ()
