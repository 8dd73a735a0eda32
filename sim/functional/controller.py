"""The controller in software: fetches, decodes, checks and executes the programs that lie in a device memory.

Same checks, error codes, counters and status block as the hardware. `EmulatorDevice` puts it behind the device seam; the
emulated board starts it by its registers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import add

from systolora.hls.check import (
    STATUS_BYTES,
    Region,
    Surroundings,
    check_instruction,
    check_program,
    gemm_writes,
    program_region,
    quantize_writes,
    reusable,
    status_writable,
)
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import INSTRUCTION_BYTES, DecodeError, End, ErrorCode, Gemm, Instruction, Quantize, decode
from systolora.hls.registers import Counters, Status

from .compiled import fastest_executor
from .counts import count_fetch, count_instruction
from .memory import DeviceMemory
from .reference import NonFiniteError
from .whole import Executor

Trace = Callable[[int, Instruction], None]
"""Called with the index and the instruction before each one that is executed."""

_CACHED_INSTRUCTIONS = 16384
_NOWHERE = Region(0, 0)
_COUNTER_NAMES = tuple(Counters.__dataclass_fields__)


@dataclass(frozen=True)
class _Prepared:
    """What is known of an instruction by its bytes alone: wherever its program lies, whatever came before."""

    instruction: Instruction | None
    code: ErrorCode
    writes: tuple[Region, ...]
    counts: tuple[int, ...]
    counts_nonfinite: tuple[int, ...]


class Controller:
    """Runs programs on a device memory.

    Args:
        config: the accelerator.
        memory: its device memory.
        executor: what executes the instructions; by default the fastest that is exact on this processor.
    """

    def __init__(self, config: ArrayConfig, memory: DeviceMemory, executor: Executor | None = None) -> None:
        self.config = config
        self.memory = memory
        self._executor = executor or fastest_executor(config)
        self._prepared: dict[bytes, _Prepared] = {}
        self._window = _NOWHERE
        self._fetch_counts = _values(count_fetch(config))

    def run(
        self,
        window: Region,
        program_address: int,
        count: int,
        status_address: int,
        sequence: int = 0,
        trace: Trace | None = None,
    ) -> Status:
        """What one start of `systolora_top` does; the arguments are its registers.

        Args:
            window: the part of the device memory that the program may touch.
            program_address, count: where the instructions lie, and how many.
            status_address: where the status block is written.
            sequence: copied to the status block.

        Returns:
            the status, whether or not it could be written to memory.

        Raises:
            ValueError: if the window is not inside the device memory (on hardware the driver guarantees it).
        """
        if not window.inside(self.memory.window):
            raise ValueError(f"the window {window} is not inside the device memory {self.memory.window}")
        around = Surroundings(window, program_region(program_address, count), Region(status_address, STATUS_BYTES))
        error, index, executed, counts = check_program(self.config, around, count), 0, 0, (0,) * len(_COUNTER_NAMES)
        if not error:
            error, index, counts = self._execute(around, count, trace)
            executed = index + 1 if not error else index
            index = index if error else 0
        status = Status(error, index, executed, sequence, self.config.fingerprint, Counters(*counts))
        if status_writable(self.config, around):
            self.memory.view(status_address, STATUS_BYTES)[:] = memoryview(status.encode())
        return status

    def _execute(self, around: Surroundings, count: int, trace: Trace | None) -> tuple[ErrorCode, int, tuple[int, ...]]:
        """Runs the instructions; returns the error, the index at which it stopped, and the counters."""
        code = self.memory.view(around.program.address, around.program.size).tobytes()
        totals: tuple[int, ...] = (0,) * len(_COUNTER_NAMES)
        previous: Instruction | None = None
        for index in range(count):
            data = code[index * INSTRUCTION_BYTES : (index + 1) * INSTRUCTION_BYTES]
            prepared = self._prepare(data, around.window)
            instruction = prepared.instruction
            error = _check_here(prepared, around, previous)
            if error or instruction is None:
                return error, index, tuple(map(add, totals, self._fetch_counts))
            if trace is not None:
                trace(index, instruction)
            try:
                if isinstance(instruction, Gemm):
                    self._executor.run_gemm(self.memory, instruction, data)
                elif isinstance(instruction, Quantize):
                    self._executor.run_quantize(self.memory, instruction, data)
            except NonFiniteError:
                return ErrorCode.NONFINITE, index, tuple(map(add, totals, prepared.counts_nonfinite))
            totals = tuple(map(add, totals, prepared.counts))
            if isinstance(instruction, End):
                return ErrorCode.OK, index, totals
            previous = instruction
        return ErrorCode.NO_END, count, totals

    def _prepare(self, data: bytes, window: Region) -> _Prepared:
        """Decodes and checks an instruction, or finds it among those seen before."""
        if window != self._window or len(self._prepared) > _CACHED_INSTRUCTIONS:
            self._prepared.clear()
            self._window = window
        prepared = self._prepared.get(data)
        if prepared is None:
            prepared = self._prepared[data] = _prepare(self.config, data, window)
        return prepared


def _prepare(config: ArrayConfig, data: bytes, window: Region) -> _Prepared:
    try:
        instruction = decode(data)
    except DecodeError as error:
        return _Prepared(None, error.code, (), (), ())
    # reuse_a depends on the instruction before, the program and status regions on the start: both come in _check_here.
    alone = instruction
    if isinstance(instruction, Gemm) and instruction.reuse_a:
        alone = replace(instruction, reuse_a=False)
    code = check_instruction(config, Surroundings(window, _NOWHERE, _NOWHERE), alone, None)
    if code:
        return _Prepared(instruction, code, (), (), ())
    counts = _values(count_instruction(config, instruction))
    writes: list[Region] = []
    nonfinite: tuple[int, ...] = ()
    if isinstance(instruction, Gemm):
        writes = gemm_writes(config, instruction)
    elif isinstance(instruction, Quantize):
        writes = quantize_writes(config, instruction)
        nonfinite = _values(count_instruction(config, instruction, nonfinite=True))
    return _Prepared(instruction, ErrorCode.OK, tuple(writes), counts, nonfinite)


def _check_here(prepared: _Prepared, around: Surroundings, previous: Instruction | None) -> ErrorCode:
    """What `check_instruction` says, from what is known of the instruction by itself."""
    if prepared.code:
        return prepared.code
    for written in prepared.writes:
        if written.overlaps(around.program) or written.overlaps(around.status):
            return ErrorCode.OVERLAP
    instruction = prepared.instruction
    if isinstance(instruction, Gemm) and instruction.reuse_a and not reusable(instruction, previous):
        return ErrorCode.REUSE
    return ErrorCode.OK


def _values(counters: Counters) -> tuple[int, ...]:
    return tuple(getattr(counters, name) for name in _COUNTER_NAMES)
