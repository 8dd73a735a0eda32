"""Random instructions together with the bytes that they must leave: one proof for every backend.

A trial allocates its operands on a device, fills them, all padding included, and computes with `reference` what every one of
its buffers must hold after the program. Emulator, C-simulation and board are held to the same trials.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from systolora.hls.check import (
    last_block,
    round_up,
    scale_count,
    stored_shape_a,
    stored_shape_b,
)
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import (
    End,
    Gemm,
    OperandA,
    OperandB,
    Quantize,
    Result,
    ScaleMode,
    Source,
    encode_program,
)

from . import reference
from .device import Buffer, Program
from .operands import RESULT_TYPES
from .randoms import FLOAT_PATTERNS, random_floats, random_integers

Bytes = NDArray[np.uint8]


class Allocator(Protocol):
    """What a trial needs of a device."""

    @property
    def config(self) -> ArrayConfig:
        """The accelerator."""

    def allocate(self, nbytes: int, label: str = "") -> Buffer:
        """See `Device.allocate`."""


@dataclass(frozen=True)
class Trial:
    """A program and what it must leave: every buffer of it with all its bytes."""

    program: Program
    expected: tuple[tuple[Buffer, Bytes], ...]

    def mismatch(self) -> str:
        """Empty if all buffers hold the expected bytes; else the first that differs, and where."""
        for buffer, wanted in self.expected:
            found = buffer.read()[: len(wanted)]
            if not np.array_equal(found, wanted):
                place = int(np.flatnonzero(found != wanted)[0])
                return f"{buffer.label}: byte {place} of {len(wanted)} is {found[place]:#x}, not {wanted[place]:#x}"
        return ""

    def free(self) -> None:
        """Gives the buffers back."""
        for buffer, _ in self.expected:
            buffer.free()


def join(trials: Sequence[Trial]) -> Trial:
    """One program that does what several do, one after the other."""
    ending = len(encode_program([End()]))
    code = b"".join(trial.program.code[:-ending] for trial in trials) + trials[0].program.code[-ending:]
    reads = tuple(buffer for trial in trials for buffer in trial.program.reads)
    writes = tuple(buffer for trial in trials for buffer in trial.program.writes)
    return Trial(Program(code, reads, writes), tuple(pair for trial in trials for pair in trial.expected))


def gemm_trial(device: Allocator, rng: np.random.Generator, op: Gemm, pattern: str = "random") -> Trial:
    """Places a GEMM's operands on a device. `pattern` is one of GEMM_PATTERNS."""
    place = _Placer(device, rng)
    a = place.matrix("A", random_integers(rng, stored_shape_a(op), pattern))
    b = place.matrix("B", random_integers(rng, stored_shape_b(device.config, op), pattern))
    old = _old_result(rng, op)
    c = place.matrix("C", old)
    float_pattern = str(rng.choice(FLOAT_PATTERNS))
    lengths = {ScaleMode.NONE: 0, ScaleMode.TENSOR: 1}
    scale_a = place.vector("scale_a", lengths.get(op.scale_a, op.m), float_pattern)
    scale_b = place.vector("scale_b", lengths.get(op.scale_b, op.n), float_pattern)
    bias = place.vector("bias", op.n if op.bias else 0, float_pattern)
    sums = reference.gemm_int32(_logical_a(op, a.values), _logical_b(device.config, op, b.values))
    values = reference.epilogue(
        sums,
        op.result,
        scale_a=reference.scale_vector(scale_a.values[0], op.scale_a),
        scale_b=reference.scale_vector(scale_b.values[0], op.scale_b),
        alpha=op.alpha,
        bias=bias.values[0] if op.bias else None,
        c=old if op.accumulate else None,
        scales_swapped=op.scales_swapped,
    )
    op = replace(
        op,
        a_address=a.address,
        b_address=b.address,
        c_address=c.address,
        a_stride=a.stride,
        b_stride=b.stride,
        c_stride=c.stride,
        scale_a_address=scale_a.address,
        scale_b_address=scale_b.address,
        bias_address=bias.address,
    )
    return place.trial(op, {"C": (c, values)})


def quantize_trial(device: Allocator, rng: np.random.Generator, op: Quantize, pattern: str = "normal") -> Trial:
    """Places a QUANTIZE's operands on a device. `pattern` is one of FLOAT_PATTERNS."""
    place = _Placer(device, rng)
    source = random_floats(rng, (op.m, op.n), pattern)
    stored: NDArray = source
    if op.source == Source.BFLOAT16:
        stored = reference.bfloat16_bits(source)
        source = reference.from_bfloat16(stored)
    a = place.matrix("source", stored)
    factor = place.vector("factor", op.n if op.multiply else 0, "normal")
    c = place.matrix("integers", rng.integers(-128, 128, (op.m, op.n)).astype(np.int8))
    scale = place.vector("scale", scale_count(op), "normal")
    rows = (op.index_base + np.arange(op.m, dtype=object) * op.index_stride)[:, None]
    index = ((rows + np.arange(op.n, dtype=object)) % 2**32).astype(np.uint32)
    integers, scales = reference.quantize(
        source,
        op.axis,
        rounding=op.rounding,
        seed=op.seed,
        index=index,
        column_factor=factor.values[0] if op.multiply else None,
    )
    op = replace(
        op,
        a_address=a.address,
        c_address=c.address,
        a_stride=a.stride,
        c_stride=c.stride,
        scale_a_address=scale.address,
        scale_b_address=factor.address,
    )
    return place.trial(op, {"integers": (c, integers), "scale": (scale, scales.reshape(1, -1))})


@dataclass(frozen=True)
class _Placed:
    buffer: Buffer
    offset: int
    stride: int
    values: NDArray

    @property
    def address(self) -> int:
        return self.buffer.address + self.offset


class _Placer:
    """Puts matrices somewhere into buffers that are full of random bytes, and remembers the buffers."""

    def __init__(self, device: Allocator, rng: np.random.Generator) -> None:
        self._device = device
        self._rng = rng
        self._placed: list[_Placed] = []

    def matrix(self, name: str, values: NDArray) -> _Placed:
        rng, bus = self._rng, self._device.config.bus_bytes
        rows, columns = values.shape
        stride = round_up(columns * values.itemsize, bus) + bus * int(rng.integers(3))
        offset = bus * int(rng.integers(4))
        buffer = self._device.allocate(offset + rows * stride + bus * int(rng.integers(3)), name)
        buffer.write()[:] = rng.integers(0, 256, buffer.nbytes, np.uint8)
        placed = _Placed(buffer, offset, stride, values)
        _rows_of(buffer.write(), placed, values.dtype)[:, :columns] = values
        self._placed.append(placed)
        return placed

    def vector(self, name: str, length: int, pattern: str) -> _Placed:
        return self.matrix(name, random_floats(self._rng, (1, max(length, 1)), pattern))

    def trial(self, op: Gemm | Quantize, results: dict[str, tuple[_Placed, NDArray]]) -> Trial:
        buffers = tuple(placed.buffer for placed in self._placed)
        images = {placed.buffer.label: placed.buffer.read().copy() for placed in self._placed}
        for name, (placed, values) in results.items():
            rows = _rows_of(images[name], placed, values.dtype)
            columns = values.shape[1]
            padded = round_up(columns * values.itemsize, self._device.config.bus_bytes) // values.itemsize
            rows[:, :columns] = values
            rows[:, columns:padded] = 0
        code = encode_program([op, End()])
        program = Program(code, buffers, tuple(placed.buffer for placed, _ in results.values()))
        return Trial(program, tuple((buffer, images[buffer.label]) for buffer in buffers))


def _rows_of(image: Bytes, placed: _Placed, dtype: np.dtype) -> NDArray:
    rows = len(placed.values)
    return image[placed.offset : placed.offset + rows * placed.stride].view(dtype).reshape(rows, -1)


def _old_result(rng: np.random.Generator, op: Gemm) -> NDArray:
    shape = (op.m, op.n)
    if op.result == Result.INT32:
        return rng.integers(-(2**31), 2**31, shape).astype(np.int32)
    values = random_floats(rng, shape, str(rng.choice(FLOAT_PATTERNS)))
    return reference.bfloat16_bits(values) if op.result == Result.BFLOAT16 else values.astype(RESULT_TYPES[op.result])


def _logical_a(op: Gemm, stored: reference.Int8) -> reference.Int8:
    if op.a_form == OperandA.PATCHES:
        image = stored.reshape(-1, op.image_height, op.image_width, op.channels)
        out, kernel = (op.out_height, op.out_width), (op.kernel_height, op.kernel_width)
        return reference.gather_patches(image, out, kernel, op.step, (op.pad_top, op.pad_left))
    return stored.T if op.transpose_a else stored


def _logical_b(config: ArrayConfig, op: Gemm, stored: reference.Int8) -> reference.Int8:
    if op.b_form == OperandB.REVERSED_BLOCKS:
        kernel, steps = (op.kernel_height, op.kernel_width), (op.block_row_step, op.block_step)
        blocks = stored.reshape(last_block(op) + 1, -1, op.channels)
        return reference.reversed_blocks(blocks, kernel, steps, op.n)
    return stored.T if op.transpose_b else stored
