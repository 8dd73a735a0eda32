"""Whole instructions by the compiled kernels, and the choice of the fastest execution that proves exact here."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import INSTRUCTION_BYTES, Gemm, Quantize, decode

from . import operands
from .integer import IntegerGemm
from .memory import ArenaBuffer, DeviceMemory
from .native import Unit, best_unit, load_library, thread_count
from .randoms import FLOAT_PATTERNS, GEMM_PATTERNS, random_gemm, random_patches, random_quantize
from .reference import NonFiniteError
from .trials import Trial, gemm_trial, quantize_trial
from .whole import Executor, NumpyExecutor

_NONFINITE, _NO_SUCH_UNIT = 1, 3


class CompiledExecutor(Executor):
    """Executes GEMM and QUANTIZE by the compiled kernels; they read the binary instruction themselves.

    Args:
        config: the accelerator.
        library: the compiled kernels.
        unit: on which the kernels multiply; without one they only quantize and dequantize.
    """

    def __init__(self, config: ArrayConfig, library: ctypes.CDLL, unit: Unit) -> None:
        self.unit = unit
        self._bus_bytes = config.bus_bytes
        self._library = library
        self._integer = IntegerGemm() if unit == Unit.NONE else None

    def run_gemm(self, memory: DeviceMemory, op: Gemm, data: bytes) -> None:
        """See `Executor.run_gemm`."""
        if self._integer is None:
            run = self._library.systolora_gemm
            _check(run(data, memory.pointer, memory.base, self._bus_bytes, thread_count(), self.unit))
            return
        sums = self._integer(operands.operand_a(memory, op, 0, op.m), operands.operand_b(memory, op, self._bus_bytes))
        pointer = sums.ctypes.data
        finish = self._library.systolora_epilogue
        _check(finish(data, memory.pointer, memory.base, self._bus_bytes, thread_count(), pointer))

    def run_quantize(self, memory: DeviceMemory, op: Quantize, data: bytes) -> None:
        """See `Executor.run_quantize`."""
        run = self._library.systolora_quantize
        _check(run(data, memory.pointer, memory.base, self._bus_bytes, thread_count()))


def fastest_executor(config: ArrayConfig) -> Executor:
    """The fastest execution that gives the reference's bits on this processor; a slower one gives a warning once."""
    library, unit = load_library(), proved_unit()
    if library is None or unit is None:
        return NumpyExecutor(config)
    return CompiledExecutor(config, library, unit)


@lru_cache(maxsize=1)
def proved_unit() -> Unit | None:
    """The best unit on which the kernels give the reference's bits here; None if they must not be used at all."""
    library = load_library()
    if library is None:
        return None
    for unit in range(best_unit(library), -1, -1):
        wrong = self_check(partial(CompiledExecutor, library=library, unit=Unit(unit)))
        if not wrong:
            return Unit(unit)
        what = f"{Unit(unit).name.lower()} unit" if unit else "compiled kernels"
        warnings.warn(f"the {what} gave wrong bits ({wrong}) and will not be used", RuntimeWarning, stacklevel=3)
    return None


def self_check(make: Callable[[ArrayConfig], Executor]) -> str:
    """Runs trials of every form on an execution that `make` gives. Empty if all bits are right, else the first that is not."""
    for bus_bytes in (8, 16):
        config = ArrayConfig(rows=8, cols=8, bus_bytes=bus_bytes)
        executor = make(config)
        bench = _Bench(config, DeviceMemory(1 << 24))
        rng = np.random.default_rng(bus_bytes)
        for index in range(24):
            trial = _some_trial(bench, rng, index)
            executor.run(bench.memory, trial.program.code[:INSTRUCTION_BYTES])
            wrong = trial.mismatch()
            if wrong:
                return f"{decode(trial.program.code[:INSTRUCTION_BYTES])}: {wrong}"
            trial.free()
    return ""


@dataclass(frozen=True)
class _Bench:
    config: ArrayConfig
    memory: DeviceMemory

    def allocate(self, nbytes: int, label: str = "") -> ArenaBuffer:
        return self.memory.allocate(nbytes, label)


def _some_trial(bench: _Bench, rng: np.random.Generator, index: int) -> Trial:
    if index % 3 == 0:
        pattern = FLOAT_PATTERNS[index // 3 % len(FLOAT_PATTERNS)]
        return quantize_trial(bench, rng, random_quantize(rng, *rng.integers(1, 50, 2)), pattern)
    pattern = GEMM_PATTERNS[index // 3 % len(GEMM_PATTERNS)]
    if index % 3 == 1:
        return gemm_trial(bench, rng, random_patches(bench.config, rng, int(rng.integers(1, 50))), pattern)
    return gemm_trial(bench, rng, random_gemm(bench.config, rng, *rng.integers(1, 150, 3)), pattern)


def _check(code: int) -> None:
    if code == _NONFINITE:
        raise NonFiniteError
    if code == _NO_SUCH_UNIT:
        raise RuntimeError("the emulator's kernels were asked for a unit that this processor does not have")
    if code:
        raise MemoryError("the computer has no memory left for the working space of an emulated instruction")
