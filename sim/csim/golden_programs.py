"""The programs of the generated test bench: what each is for, the memory that it finds, and what the emulator says it leaves.

Each program reads only what stands in memory at its start. C/RTL co-simulation gives each memory port a copy of its own, so a
program that reads what it has written through another port could not be checked there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from systolora.hls.check import RESULT_BYTES, STATUS_BYTES, round_up, scale_count, stored_shape_a, stored_shape_b
from systolora.hls.check import input_words as input_tile_words
from systolora.hls.check import weight_words as weight_tile_words
from systolora.hls.config import ArrayConfig
from systolora.hls.generate import TESTBENCH_BYTES
from systolora.hls.isa import (
    INSTRUCTION_BYTES,
    Axis,
    Dataflow,
    End,
    Gemm,
    Instruction,
    LoopOrder,
    OperandA,
    OperandB,
    Quantize,
    Result,
    Rounding,
    ScaleMode,
    Source,
    encode_program,
)
from systolora.sim.functional.controller import Controller
from systolora.sim.functional.memory import DEFAULT_BASE, DeviceMemory

BACKGROUND = 0x5A
"""Of all bytes of the test bench's memory that no program was given."""

STATUS_OFFSET = 16 * INSTRUCTION_BYTES


@dataclass(frozen=True)
class GoldenProgram:
    """A program and its memory.

    Attributes:
        name: what it is for, in a few words.
        instructions: END included.
        before, after: uint8 [TESTBENCH_BYTES]. The program lies at offset 0, the status block at 2048.
    """

    name: str
    instructions: tuple[Instruction, ...]
    before: NDArray[np.uint8]
    after: NDArray[np.uint8]


def golden_programs(config: ArrayConfig) -> list[GoldenProgram]:
    """All programs of the testbench; the same for a configuration every time."""
    makers: dict[str, Callable[[_Memory], list[Instruction]]] = {
        "weight-stationary GEMM, int32, accumulated": _plain,
        "output-stationary GEMM of transposed operands, float32, all of the epilogue": _scaled,
        "convolution's grad-input: patches and reversed blocks, bfloat16": _convolution,
        "QUANTIZE by row and, with factors and stochastic rounding, by column": _quantize,
        "a GEMM, then one that is refused": _refused,
    }
    return [_run(config, name, maker) for name, maker in makers.items()]


class _Memory:
    """Device memory of one program while it is laid out."""

    def __init__(self, config: ArrayConfig, name: str) -> None:
        self.config = config
        self.bytes = np.full(TESTBENCH_BYTES, BACKGROUND, np.uint8)
        self.rng = np.random.default_rng(list(name.encode()))
        self._next = STATUS_OFFSET + STATUS_BYTES

    def reserve(self, rows: int, stride: int) -> int:
        """Address of `rows` rows."""
        place = self._next
        self._next += rows * stride
        if self._next > TESTBENCH_BYTES:
            raise ValueError(f"the testbench's memory of {TESTBENCH_BYTES} bytes is too small for this configuration")
        return DEFAULT_BASE + place

    def place(self, data: NDArray) -> tuple[int, int]:
        """Writes a matrix; returns address and stride."""
        raw = np.ascontiguousarray(data).view(np.uint8)
        stride = self.stride(raw.shape[1])
        address = self.reserve(len(raw), stride)
        start = address - DEFAULT_BASE
        self.bytes[start : start + len(raw) * stride].reshape(-1, stride)[:, : raw.shape[1]] = raw
        return address, stride

    def stride(self, row_bytes: int) -> int:
        """Stride of rows, a bus word longer than they need."""
        return round_up(row_bytes, self.config.bus_bytes) + self.config.bus_bytes

    def integers(self, rows: int, columns: int) -> tuple[int, int]:
        """A random int8 matrix: address and stride."""
        return self.place(self.rng.integers(-128, 128, (rows, columns)).astype(np.int8))

    def floats(self, rows: int, columns: int, size: float = 1.0) -> tuple[int, int]:
        """A random float32 matrix: address and stride."""
        return self.place((self.rng.normal(size=(rows, columns)) * size).astype(np.float32))


def _run(config: ArrayConfig, name: str, maker: Callable[[_Memory], list[Instruction]]) -> GoldenProgram:
    layout = _Memory(config, name)
    instructions = [*maker(layout), End()]
    memory = DeviceMemory(TESTBENCH_BYTES)
    memory.bytes[:] = layout.bytes
    code = np.frombuffer(encode_program(instructions), np.uint8)
    memory.bytes[: code.size] = code
    before = memory.bytes.copy()
    Controller(config, memory).run(memory.window, DEFAULT_BASE, len(instructions), DEFAULT_BASE + STATUS_OFFSET, 1)
    return GoldenProgram(name, tuple(instructions), before, memory.bytes.copy())


def _sizes(config: ArrayConfig) -> tuple[int, int, int]:
    """m, n, k: a little more than a tile or a block, and small enough for co-simulation."""
    return 21, min(config.cols, 64) + 5, min(config.rows, 64) + 19


def _gemm(memory: _Memory, op: Gemm) -> Gemm:
    """Operands and tiles for a GEMM whose shape and form are set."""
    config, bus = memory.config, memory.config.bus_bytes
    a_address, a_stride = memory.integers(*stored_shape_a(op))
    b_address, b_stride = memory.integers(*stored_shape_b(config, op))
    c_stride = memory.stride(op.n * RESULT_BYTES[op.result])
    tile_m, tile_n, tile_k = min(bus, op.m), op.n, min(2 * bus, op.k)
    fits = weight_tile_words(config, tile_n, tile_k) <= config.weight_depth
    fits = fits and weight_tile_words(config, tile_n, tile_m) <= config.output_depth
    fits = fits and input_tile_words(config, op.dataflow, tile_m, tile_k) <= config.input_depth
    return replace(
        op,
        tile_m=tile_m,
        tile_n=tile_n if fits else min(bus, op.n),
        tile_k=tile_k if fits else min(bus, op.k),
        a_address=a_address,
        b_address=b_address,
        c_address=memory.reserve(op.m, c_stride),
        a_stride=a_stride,
        b_stride=b_stride,
        c_stride=c_stride,
    )


def _shape(m: int, n: int, k: int) -> Gemm:
    return Gemm(
        m=m,
        n=n,
        k=k,
        tile_m=1,
        tile_n=1,
        tile_k=1,
        a_address=0,
        b_address=0,
        c_address=0,
        a_stride=0,
        b_stride=0,
        c_stride=0,
    )


def _plain(memory: _Memory) -> list[Instruction]:
    return [_gemm(memory, replace(_shape(*_sizes(memory.config)), accumulate=True))]


def _scaled(memory: _Memory) -> list[Instruction]:
    m, n, k = _sizes(memory.config)
    op = replace(
        _shape(m, n, k),
        dataflow=Dataflow(int(memory.config.output_stationary)),
        transpose_a=True,
        transpose_b=True,
        result=Result.FLOAT32,
        loop_order=LoopOrder.N_OUTER,
        scale_a=ScaleMode.VECTOR,
        scale_b=ScaleMode.VECTOR,
        bias=True,
        alpha=0.375,
        scale_a_address=memory.floats(1, m, 1e-2)[0],
        scale_b_address=memory.floats(1, n, 1e-2)[0],
        bias_address=memory.floats(1, n)[0],
    )
    return [_gemm(memory, op)]


def _convolution(memory: _Memory) -> list[Instruction]:
    bus = memory.config.bus_bytes
    op = replace(
        _shape(2 * 4 * 3, 7, 4 * bus),
        transpose_b=True,
        a_form=OperandA.PATCHES,
        b_form=OperandB.REVERSED_BLOCKS,
        result=Result.BFLOAT16,
        scale_a=ScaleMode.TENSOR,
        scale_a_address=memory.floats(1, 1, 1e-2)[0],
        image_height=2,
        image_width=2,
        channels=bus,
        out_height=4,
        out_width=3,
        kernel_height=2,
        kernel_width=2,
        block_row_step=6,  # every second position of a 3 x 3 kernel
        block_step=2,
        step=1,
        pad_top=1,
        pad_left=1,
    )
    return [_gemm(memory, op)]


def _quantize(memory: _Memory) -> list[Instruction]:
    rows = _quantize_op(memory, 9, 43, Axis.ROW, memory.floats(9, 43, 3.0))
    half = (memory.rng.normal(size=(12, 37)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    columns = _quantize_op(memory, 12, 37, Axis.COLUMN, memory.place(half))
    factors = memory.floats(1, 37)[0]
    columns = replace(
        columns,
        source=Source.BFLOAT16,
        rounding=Rounding.STOCHASTIC,
        seed=2026,
        index_stride=37,
        multiply=True,
        scale_b_address=factors,
    )
    return [rows, columns]


def _quantize_op(memory: _Memory, m: int, n: int, axis: Axis, source: tuple[int, int]) -> Quantize:
    stride = memory.stride(n)
    op = Quantize(
        m=m,
        n=n,
        a_address=source[0],
        a_stride=source[1],
        c_address=memory.reserve(m, stride),
        c_stride=stride,
        scale_a_address=0,
        axis=axis,
    )
    return replace(op, scale_a_address=memory.reserve(1, memory.stride(4 * scale_count(op))))


def _refused(memory: _Memory) -> list[Instruction]:
    good = _gemm(memory, _shape(5, 6, 7))
    return [good, replace(good, c_address=good.a_address)]
