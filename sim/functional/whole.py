"""A whole instruction at once: what executes one, and how numpy does it where the compiled kernels cannot."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray
from systolora.hls.config import FLOAT_BYTES, ArrayConfig
from systolora.hls.isa import Gemm, Quantize, Rounding, decode

from . import operands
from .integer import integer_gemm
from .memory import DeviceMemory
from .reference import NonFiniteError, epilogue, quantize


class Executor(ABC):
    """Executes single instructions, which passed their checks, on a device memory."""

    @abstractmethod
    def run_gemm(self, memory: DeviceMemory, op: Gemm, data: bytes) -> None:
        """Executes a GEMM; `data` is the same instruction in binary."""

    @abstractmethod
    def run_quantize(self, memory: DeviceMemory, op: Quantize, data: bytes) -> None:
        """Executes a QUANTIZE.

        Raises:
            NonFiniteError: if the input holds a NaN or an infinity. Nothing is written then, but by row: see `reference.quantize`.
        """

    def run(self, memory: DeviceMemory, data: bytes) -> None:
        """Decodes and executes an instruction; FENCE and END do nothing."""
        op = decode(data)
        if isinstance(op, Gemm):
            self.run_gemm(memory, op, data)
        elif isinstance(op, Quantize):
            self.run_quantize(memory, op, data)


class NumpyExecutor(Executor):
    """Each instruction as one numpy expression of the reference's functions."""

    def __init__(self, config: ArrayConfig) -> None:
        self._bus_bytes = config.bus_bytes

    def run_gemm(self, memory: DeviceMemory, op: Gemm, data: bytes) -> None:
        """See `Executor.run_gemm`."""
        a = operands.operand_a(memory, op, 0, op.m)
        b = operands.operand_b(memory, op, self._bus_bytes)
        values = epilogue(
            integer_gemm(a, b),
            op.result,
            scale_a=operands.scales(memory, op.scale_a, op.scale_a_address, 0, op.m),
            scale_b=operands.scales(memory, op.scale_b, op.scale_b_address, 0, op.n),
            alpha=op.alpha,
            bias=operands.bias(memory, op, 0, op.n),
            c=np.ascontiguousarray(operands.operand_c(memory, op)) if op.accumulate else None,
            scales_swapped=op.scales_swapped,
        )
        operands.write_result(memory, op, values, self._bus_bytes)

    def run_quantize(self, memory: DeviceMemory, op: Quantize, data: bytes) -> None:
        """See `Executor.run_quantize`."""
        try:
            q, scale = quantize(
                operands.quantize_source(memory, op),
                op.axis,
                rounding=op.rounding,
                seed=op.seed,
                index=element_indices(op) if op.rounding == Rounding.STOCHASTIC else None,
                column_factor=memory.view(op.scale_b_address, FLOAT_BYTES * op.n).view(np.float32)
                if op.multiply
                else None,
            )
        except NonFiniteError as error:
            if error.written is not None:
                operands.write_quantized(memory, op, *error.written, self._bus_bytes)
            raise
        operands.write_quantized(memory, op, q, scale, self._bus_bytes)


def element_indices(op: Quantize) -> NDArray[np.uint32]:
    """The indices of the elements in the stochastic rounding: uint32 [m, n]."""
    rows = np.arange(op.m, dtype=np.uint64) * np.uint64(op.index_stride) + np.uint64(op.index_base)
    return (rows[:, None] + np.arange(op.n, dtype=np.uint64)[None, :]).astype(np.uint32)
