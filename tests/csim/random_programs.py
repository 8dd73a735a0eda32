"""Random programs over all forms of all instructions, with the memory that they run on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from systolora.hls.check import (
    RESULT_BYTES,
    SOURCE_BYTES,
    STATUS_BYTES,
    Region,
    Surroundings,
    check_instruction,
    program_region,
    round_up,
    scale_count,
)
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import (
    INSTRUCTION_BYTES,
    Axis,
    Dataflow,
    End,
    ErrorCode,
    Fence,
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
from systolora.sim.functional.memory import DEFAULT_BASE, DeviceMemory

WINDOW_BYTES = 1 << 20


@dataclass(frozen=True)
class Case:
    """A memory image with a program in it."""

    image: NDArray[np.uint8]
    window: Region
    program_address: int
    count: int
    status_address: int
    instructions: tuple[Instruction, ...]

    def memory(self) -> DeviceMemory:
        """A device memory that holds the image."""
        memory = DeviceMemory(self.window.size, self.window.address)
        memory.bytes[:] = self.image
        return memory


class ProgramBuilder:
    """Lays operands out one after the other and draws instructions that pass the checks."""

    def __init__(self, config: ArrayConfig, rng: np.random.Generator, length: int = 8) -> None:
        self.config = config
        self.rng = rng
        self.image = rng.integers(0, 256, WINDOW_BYTES).astype(np.uint8)
        self.window = Region(DEFAULT_BASE, WINDOW_BYTES)
        self.program_address = DEFAULT_BASE
        self.status_address = DEFAULT_BASE + round_up((length + 2) * INSTRUCTION_BYTES, 64)
        self.next = self.status_address + STATUS_BYTES
        self.limit = max(24, min(3 * max(config.rows, config.cols), 150))
        self.instructions: list[Instruction] = []

    def place(self, data: NDArray, rows: int, stride: int) -> int:
        """Writes rows of data `stride` bytes apart; returns the address."""
        address = self.reserve(rows * stride)
        start = address - self.window.address
        raw = np.ascontiguousarray(data).reshape(rows, -1).view(np.uint8)
        self.image[start : start + rows * stride].reshape(rows, stride)[:, : raw.shape[1]] = raw
        return address

    def reserve(self, nbytes: int) -> int:
        """The address of fresh bytes; they hold noise."""
        address = self.next
        self.next += round_up(nbytes, self.config.bus_bytes)
        return address

    def has_room(self) -> bool:
        """Whether another instruction surely fits."""
        return self.window.address + self.window.size - self.next > 400_000

    def case(self) -> Case:
        """The program so far, END added."""
        program = [*self.instructions, End()]
        code = np.frombuffer(encode_program(program), np.uint8)
        image = self.image.copy()
        image[: len(code)] = code
        return Case(image, self.window, self.program_address, len(program), self.status_address, tuple(program))

    def add(self, instruction: Instruction) -> bool:
        """Appends an instruction if the controller would accept it; returns whether."""
        around = Surroundings(
            self.window, program_region(self.program_address, 64), Region(self.status_address, STATUS_BYTES)
        )
        around = replace(around, program=Region(self.program_address, self.status_address - self.program_address))
        previous = self.instructions[-1] if self.instructions else None
        code = check_instruction(self.config, around, instruction, previous)
        if code not in (ErrorCode.OK, ErrorCode.BAD_TILE):
            raise AssertionError(f"drew an instruction that is refused with {code.name}: {instruction}")
        if code == ErrorCode.OK:
            self.instructions.append(instruction)
        return code == ErrorCode.OK

    def integers(self, shape: tuple[int, int]) -> NDArray[np.int8]:
        """Random int8, sometimes only extremes."""
        kind = self.rng.integers(4)
        if kind == 0:
            return self.rng.choice(np.array([-128, 127, 0, -1], np.int8), shape)
        if kind == 1:
            return np.full(shape, -128, np.int8)
        return self.rng.integers(-128, 128, shape).astype(np.int8)

    def floats(self, count: int, *, wild: bool) -> NDArray[np.float32]:
        """Random float32; `wild` ones have denormals, huge values, zeros of both signs, infinities and NaNs among them."""
        values = self.rng.normal(size=count) * 10.0 ** self.rng.uniform(-6, 3)
        values = values.astype(np.float32)
        if wild:
            special = np.array([0.0, -0.0, 1e-40, -1e-39, 1e-38, 3e38, -3e38, np.inf, -np.inf, np.nan], np.float32)
            values = np.where(self.rng.random(count) < 0.2, self.rng.choice(special, count), values)
        return values.astype(np.float32)

    def stride(self, row_bytes: int) -> int:
        """A stride that holds the row, sometimes with a gap."""
        return round_up(row_bytes, self.config.bus_bytes) + self.config.bus_bytes * int(self.rng.integers(0, 3))

    def tile(self, dimension: int) -> int:
        """A tile: everything, or a multiple of the bus word."""
        if self.rng.random() < 0.4:
            return dimension + int(self.rng.integers(0, 5))
        bus = self.config.bus_bytes
        return bus * int(self.rng.integers(1, max(2, dimension // bus + 1)))

    def size(self) -> int:
        """A dimension, often small or at the edge of a block."""
        edges = [1, 2, self.config.rows - 1, self.config.rows, self.config.cols, self.config.cols + 1]
        if self.rng.random() < 0.3:
            return max(1, int(self.rng.choice(edges)))
        return int(self.rng.integers(1, self.limit))

    def pick(self, kind: type) -> object:
        """A random member of an enumeration."""
        return list(kind)[int(self.rng.integers(len(kind)))]

    def flag(self, share: float = 0.5) -> bool:
        """True with a probability."""
        return bool(self.rng.random() < share)

    def add_gemm(self) -> None:
        """A GEMM of matrices, or of patches; half of the time a second one that reuses A."""
        op = self._patch_gemm() if self.flag(0.35) else self._matrix_gemm()
        if not self.add(op) or not self.flag() or not self.has_room():
            return
        if op.tile_m < op.m or op.tile_k < op.k:
            return
        n = op.n
        again = replace(op, reuse_a=True, c_address=self.reserve(op.m * op.c_stride), tile_n=self.tile(n))
        self.add(again)

    def _matrix_gemm(self) -> Gemm:
        m, n, k = self.size(), self.size(), self.size()
        transpose_a, transpose_b = self.flag(), self.flag()
        a = self.integers((k, m) if transpose_a else (m, k))
        b = self.integers((n, k) if transpose_b else (k, n))
        a_stride, b_stride = self.stride(a.shape[1]), self.stride(b.shape[1])
        op = Gemm(
            m=m,
            n=n,
            k=k,
            tile_m=self.tile(m),
            tile_n=self.tile(n),
            tile_k=self.tile(k),
            a_address=self.place(a, a.shape[0], a_stride),
            b_address=self.place(b, b.shape[0], b_stride),
            c_address=0,
            a_stride=a_stride,
            b_stride=b_stride,
            c_stride=0,
            transpose_a=transpose_a,
            transpose_b=transpose_b,
        )
        return self._finish(op)

    def _patch_gemm(self) -> Gemm:
        bus, rng = self.config.bus_bytes, self.rng
        batch, height, width = (int(rng.integers(1, 4)), int(rng.integers(1, 7)), int(rng.integers(1, 7)))
        kernel_height, kernel_width = int(rng.integers(1, 4)), int(rng.integers(1, 4))
        channels = bus * int(rng.integers(1, 4))
        out_height, out_width = int(rng.integers(1, 6)), int(rng.integers(1, 6))
        n = self.size()
        k = kernel_height * kernel_width * channels
        image = self.integers((batch * height * width, channels))
        a_stride = self.stride(channels)
        reversed_blocks = self.flag()
        block_step, block_row_step = int(rng.integers(0, 3)), int(rng.integers(0, 7))
        if reversed_blocks:
            blocks = 1 + (kernel_height - 1) * block_row_step + (kernel_width - 1) * block_step
            b = self.integers((blocks * round_up(n, bus), channels))
            transpose_b = True
        else:
            transpose_b = self.flag()
            b = self.integers((n, k) if transpose_b else (k, n))
        b_stride = self.stride(b.shape[1])
        op = Gemm(
            m=batch * out_height * out_width,
            n=n,
            k=k,
            tile_m=self.tile(batch * out_height * out_width),
            tile_n=self.tile(n),
            tile_k=self.tile(k),
            a_address=self.place(image, image.shape[0], a_stride),
            b_address=self.place(b, b.shape[0], b_stride),
            c_address=0,
            a_stride=a_stride,
            b_stride=b_stride,
            c_stride=0,
            transpose_b=transpose_b,
            a_form=OperandA.PATCHES,
            b_form=OperandB.REVERSED_BLOCKS if reversed_blocks else OperandB.MATRIX,
            image_height=height,
            image_width=width,
            channels=channels,
            out_height=out_height,
            out_width=out_width,
            kernel_height=kernel_height,
            kernel_width=kernel_width,
            step=int(rng.integers(1, 4)),
            block_step=block_step,
            block_row_step=block_row_step,
            pad_top=int(rng.integers(0, 4)),
            pad_left=int(rng.integers(0, 4)),
        )
        return self._finish(op)

    def _finish(self, op: Gemm) -> Gemm:
        """Dataflow, loop order and epilogue."""
        result = self.pick(Result)
        stride = self.stride(op.n * RESULT_BYTES[result])
        op = replace(
            op,
            dataflow=self.pick(Dataflow) if self.config.output_stationary else Dataflow.WEIGHT_STATIONARY,
            loop_order=self.pick(LoopOrder),
            result=result,
            accumulate=self.flag(),
            scales_swapped=self.flag(),
            c_stride=stride,
        )
        if result == Result.FLOAT32 and self.flag():
            c = self.floats(op.m * op.n, wild=self.flag()).reshape(op.m, op.n)
            op = replace(op, c_address=self.place(c, op.m, stride))
        else:
            op = replace(op, c_address=self.reserve(op.m * stride))
        if result == Result.INT32:
            return op
        wild = self.flag(0.3)
        scale_a, scale_b, bias = self.pick(ScaleMode), self.pick(ScaleMode), self.flag()
        alpha = float(self.floats(1, wild=False)[0]) if self.flag() else 1.0
        return replace(
            op,
            alpha=alpha,
            scale_a=scale_a,
            scale_b=scale_b,
            bias=bias,
            scale_a_address=self._vector(op.m if scale_a else 0, wild),
            scale_b_address=self._vector(op.n if scale_b else 0, wild),
            bias_address=self._vector(op.n if bias else 0, wild),
        )

    def _vector(self, count: int, wild: bool) -> int:
        if count == 0:
            return 0
        return self.place(self.floats(count, wild=wild), 1, round_up(4 * count, self.config.bus_bytes))

    def add_quantize(self, *, finite: bool = True) -> None:
        """A QUANTIZE; of float32 noise with `finite`, else of anything."""
        m = self.size()
        n = min(self.size() * int(self.rng.integers(1, 13)), 40_000 // m)
        source = self.pick(Source)
        size = SOURCE_BYTES[source]
        values = self.floats(m * n, wild=not finite).reshape(m, n)
        if self.flag(0.3):
            values[self.rng.integers(m)] = 0
            values[:, self.rng.integers(n)] *= np.float32(1e-35)
        raw = values.view(np.uint32)
        stored = (raw >> 16).astype(np.uint16) if source == Source.BFLOAT16 else raw
        a_stride, c_stride = self.stride(n * size), self.stride(n)
        op = Quantize(
            m=m,
            n=n,
            a_address=self.place(stored, m, a_stride),
            c_address=self.reserve(m * c_stride),
            a_stride=a_stride,
            c_stride=c_stride,
            scale_a_address=0,
            source=source,
            axis=self.pick(Axis),
            rounding=self.pick(Rounding),
            multiply=self.flag(0.4),
            seed=int(self.rng.integers(1 << 32)),
            index_base=int(self.rng.integers(1 << 32)),
            index_stride=int(self.rng.integers(1 << 32)),
        )
        op = replace(op, scale_a_address=self.reserve(4 * scale_count(op)))
        if op.multiply:
            op = replace(op, scale_b_address=self._vector(n, wild=False))
        self.add(op)


def random_case(config: ArrayConfig, seed: int, length: int = 8) -> Case:
    """A program of up to about `length` instructions that all pass the checks."""
    rng = np.random.default_rng(seed)
    builder = ProgramBuilder(config, rng, length)
    for _ in range(length):
        if len(builder.instructions) >= length or not builder.has_room():
            break
        draw = rng.random()
        if draw < 0.65:
            builder.add_gemm()
        elif draw < 0.95:
            builder.add_quantize(finite=rng.random() < 0.9)
        else:
            builder.add(Fence())
    return builder.case()
