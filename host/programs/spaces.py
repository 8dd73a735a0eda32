"""Programs without addresses: written once for a shape, placed in real buffers at each call.

A `Sketch` builds a program whose matrices lie in named *spaces*. The result, a `ProgramTemplate`, is the encoded program and the
places of its addresses; `place` adds the addresses of real buffers, which costs microseconds, where encoding costs milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import FIELDS, INSTRUCTION_BYTES, INSTRUCTION_WORDS, Opcode, Quantize, Rounding, decode
from systolora.sim.functional.device import Buffer, Program

from .compiler import ProgramBuilder
from .tensors import DeviceMatrix, DeviceVector, ElementType, matrix_bytes, row_stride, vector_bytes

_SPACE_SHIFT = 40
"""Space i lies at (i + 1) << 40 while a program is sketched: apart from all others, and recognised in an address."""

_PLACED_PROGRAMS = 64
"""How many placements of one template are remembered."""


class Space(Buffer):
    """A buffer that has a size but no bytes yet; it grows with what is laid out in it."""

    def __init__(self, name: str, index: int, bus_bytes: int) -> None:
        self.label = name
        self.address = (index + 1) << _SPACE_SHIFT
        self.nbytes = 0
        self._bus_bytes = bus_bytes

    def matrix(self, rows: int, cols: int, dtype: ElementType) -> DeviceMatrix:
        """Room for a matrix, behind what is there already."""
        place = self._take(matrix_bytes(rows, cols, dtype, self._bus_bytes))
        return DeviceMatrix(self, place, rows, cols, row_stride(cols, dtype, self._bus_bytes), dtype)

    def vector(self, length: int) -> DeviceVector:
        """Room for a float32 vector, behind what is there already."""
        return DeviceVector(self, self._take(vector_bytes(length, self._bus_bytes)), length)

    def read(self) -> NDArray[np.uint8]:
        """Raises RuntimeError: there is nothing to read before the program is placed."""
        raise RuntimeError(f"space {self.label!r} has no bytes: place the program first")

    def write(self) -> NDArray[np.uint8]:
        """Raises RuntimeError: there is nothing to write before the program is placed."""
        raise RuntimeError(f"space {self.label!r} has no bytes: place the program first")

    def free(self) -> None:
        """Nothing to give back."""

    def _take(self, nbytes: int) -> int:
        place, self.nbytes = self.nbytes, self.nbytes + nbytes
        return place


@dataclass(frozen=True)
class GemmCount:
    """One GEMM of a template: which of a layer's GEMMs it is, and its multiply-accumulates."""

    kind: str
    macs: int


class Sketch:
    """A program in the making, and the spaces that it uses.

    Attributes:
        config: the accelerator. builder: where instructions are appended.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.builder = ProgramBuilder(config)
        self.config = config
        self._spaces: dict[str, Space] = {}
        self._matrices: dict[str, DeviceMatrix] = {}
        self._turned: dict[str, int] = {}
        self._gemms: list[GemmCount] = []

    def space(self, name: str) -> Space:
        """The space of that name, made at the first call."""
        if name not in self._spaces:
            self._spaces[name] = Space(name, len(self._spaces), self.config.bus_bytes)
        return self._spaces[name]

    def name(self, name: str, matrix: DeviceMatrix, turned: int = 0) -> DeviceMatrix:
        """Names a matrix that the host will write or read; returns it.

        Args:
            turned: it is a result that is stored as so many transposes of equal size, one below the other; see `ProgramTemplate.turned`.
        """
        self._matrices[name] = matrix
        if turned:
            self._turned[name] = turned
        return matrix

    def count(self, kind: str, macs: int) -> None:
        """Notes a GEMM for the statistics."""
        self._gemms.append(GemmCount(kind, macs))

    def finish(self) -> ProgramTemplate:
        """The template."""
        return ProgramTemplate(
            self.builder.build(), tuple(self._spaces.values()), self._matrices, tuple(self._gemms), self._turned
        )


class ProgramTemplate:
    """An encoded program, to be placed in buffers.

    Attributes:
        sizes: bytes that each space needs; spaces that the program does not touch are left out.
        gemms: what it computes, for statistics.
        turned: of each result that is stored as transposes, one below the other, how many there are.
    """

    def __init__(
        self,
        program: Program,
        spaces: tuple[Space, ...],
        matrices: Mapping[str, DeviceMatrix],
        gemms: tuple[GemmCount, ...],
        turned: Mapping[str, int],
    ) -> None:
        self.gemms = gemms
        self.turned = dict(turned)
        self._code = np.frombuffer(program.code, "<u8")
        self._labels = program.labels
        self._reads = tuple(buffer.label for buffer in program.reads)
        self._writes = tuple(buffer.label for buffer in program.writes)
        self._spaces = tuple(space.label for space in spaces)
        used = {*self._reads, *self._writes}
        self.sizes = {space.label: space.nbytes for space in spaces if space.label in used}
        self._matrices = dict(matrices)
        self._places, self._space_of = _addresses(self._code)
        self._seeds = _seed_places(program)
        self._placed: dict[tuple[object, ...], Program] = {}

    @property
    def empty(self) -> bool:
        """Whether there is nothing to run."""
        return not self.sizes

    @property
    def names(self) -> tuple[str, ...]:
        """The named matrices."""
        return tuple(self._matrices)

    def space_of(self, name: str) -> str:
        """The space in which a named matrix lies."""
        return self._matrices[name].buffer.label

    def shape_of(self, name: str) -> tuple[int, int]:
        """(rows, cols) of a named matrix."""
        return self._matrices[name].shape

    def matrix(self, name: str, buffers: Mapping[str, Buffer]) -> DeviceMatrix:
        """A named matrix, in the buffer of its space."""
        matrix = self._matrices[name]
        return replace(matrix, buffer=buffers[matrix.buffer.label])

    def place(self, buffers: Mapping[str, Buffer], title: str, seed: Callable[[str], int]) -> Program:
        """The program in real buffers.

        Args:
            buffers: one per space, at least as large as `sizes` says.
            title: put in front of each label: the name of the layer.
            seed: from the label of a stochastic quantization to its 32-bit seed.
        """
        key = (title, *(buffers[name].address for name in self.sizes))
        program = self._placed.get(key)
        if program is None:
            if len(self._placed) >= _PLACED_PROGRAMS:
                self._placed.clear()
            program = self._placed[key] = self._place(buffers, title)
        if not self._seeds:
            return replace(
                program, reads=self._buffers(self._reads, buffers), writes=self._buffers(self._writes, buffers)
            )
        code = bytearray(program.code)
        for place, label in self._seeds:
            code[place : place + 4] = seed(label).to_bytes(4, "little")
        return replace(
            program,
            code=bytes(code),
            reads=self._buffers(self._reads, buffers),
            writes=self._buffers(self._writes, buffers),
        )

    def _place(self, buffers: Mapping[str, Buffer], title: str) -> Program:
        moves = [
            buffers[name].address - (index + 1 << _SPACE_SHIFT) if name in self.sizes else 0
            for index, name in enumerate(self._spaces)
        ]
        code = self._code.astype(np.int64)
        code[self._places] += np.array(moves, np.int64)[self._space_of]
        labels = {index: f"{title}: {label}" for index, label in self._labels.items()}
        return Program(code.tobytes(), labels=labels)

    @staticmethod
    def _buffers(names: tuple[str, ...], buffers: Mapping[str, Buffer]) -> tuple[Buffer, ...]:
        return tuple(buffers[name] for name in names)


def _addresses(code: NDArray[np.uint64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Which words of a program are addresses that are in use, and in which space each lies."""
    words = code.reshape(-1, INSTRUCTION_WORDS)
    opcodes = words[:, 0] & np.uint64(0xFF)
    mask = np.zeros(words.shape, bool)
    for opcode, layout in FIELDS.items():
        for field in layout:
            if field.name.endswith("_address"):
                mask[opcodes == opcode, field.word] = True
    spaces = (words >> np.uint64(_SPACE_SHIFT)).astype(np.intp) - 1
    # An address that an instruction does not use is zero, which lies in no space.
    places = np.flatnonzero(mask & (spaces >= 0))
    return places, spaces.reshape(-1)[places]


def _seed_places(program: Program) -> list[tuple[int, str]]:
    """(byte of the program, label) of the seed of each stochastic quantization."""
    field = next(field for field in FIELDS[Opcode.QUANTIZE] if field.name == "seed")
    inside = 8 * field.word + field.lsb // 8
    found = []
    for start in range(0, len(program.code), INSTRUCTION_BYTES):
        op = decode(program.code[start : start + INSTRUCTION_BYTES])
        if isinstance(op, Quantize) and op.rounding == Rounding.STOCHASTIC:
            found.append((start + inside, program.labels.get(start // INSTRUCTION_BYTES, "")))
    return found
