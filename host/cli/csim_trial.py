"""One GEMM on the compiled hardware source, against the exact product and the predicted counters: `systolora csim`."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from systolora.errors import UserError
from systolora.hls.config import ArrayConfig
from systolora.hls.fields import Dataflow, Result
from systolora.hls.isa import INSTRUCTION_BYTES, decode
from systolora.hls.registers import Counters
from systolora.programs.compiler import ProgramBuilder
from systolora.programs.tensors import DeviceMatrix, ElementType, matrix_bytes, row_stride
from systolora.programs.tiling import choose_tiling
from systolora.sim.csim.device import CsimDevice
from systolora.sim.functional.counts import count_instruction
from systolora.sim.functional.reference import gemm_int32

MOST_BYTES = 1 << 31
"""Of the two operands and the result together: their memory is allocated twice."""

DATAFLOWS = {"ws": Dataflow.WEIGHT_STATIONARY, "os": Dataflow.OUTPUT_STATIONARY, "auto": None}


@dataclass(frozen=True)
class CsimTrial:
    """Outcome: results that differ from the exact product, the counters and what was predicted, wall seconds of the run."""

    mismatches: int
    counters: Counters
    predicted: Counters
    dataflow: str
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the counters by name, then the rest."""
        return {
            **asdict(self.counters),
            "predicted": asdict(self.predicted),
            "counters_equal_prediction": self.counters == self.predicted,
            "dataflow": self.dataflow,
            "mismatches": self.mismatches,
            "seconds": round(self.seconds, 6),
        }


def sum_counters(config: ArrayConfig, code: bytes) -> Counters:
    """What a program's counters must read at its end. One GEMM may be several instructions: a long k is cut."""
    total = Counters()
    for start in range(0, len(code), INSTRUCTION_BYTES):
        total += count_instruction(config, decode(code[start : start + INSTRUCTION_BYTES]))
    return total


def run_trial(config: ArrayConfig, m: int, n: int, k: int, dataflow: str, seed: int) -> CsimTrial:
    """Runs a random int8 [m, k] x [k, n] on a `CsimDevice`.

    Raises:
        UserError: for an unknown dataflow, or matrices that are too large for a trial.
    """
    if dataflow not in DATAFLOWS:
        raise UserError(f"--dataflow {dataflow!r}: allowed are {', '.join(DATAFLOWS)}")
    if dataflow == "os" and not config.output_stationary:
        raise UserError("--dataflow os: this hardware is built for ws alone; give --dataflow ws, or --dataflows ws,os")
    needed = m * k + k * n + 4 * m * n
    if needed > MOST_BYTES:
        raise UserError(f"--m {m} --n {n} --k {k}: {needed:,} bytes of matrices, and at most {MOST_BYTES:,} are tried")
    tiling = choose_tiling(config, m, n, k, result=Result.INT32, dataflow=DATAFLOWS[dataflow])
    random = np.random.default_rng(seed)
    a, b = random.integers(-128, 128, (m, k), np.int8), random.integers(-128, 128, (k, n), np.int8)
    with CsimDevice(config) as device:
        matrices = []
        for rows, cols, kind in ((m, k, ElementType.INT8), (k, n, ElementType.INT8), (m, n, ElementType.INT32)):
            buffer = device.allocate(matrix_bytes(rows, cols, kind, config.bus_bytes))
            matrices.append(DeviceMatrix(buffer, 0, rows, cols, row_stride(cols, kind, config.bus_bytes), kind))
        matrices[0].write(a)
        matrices[1].write(b)
        builder = ProgramBuilder(config)
        builder.gemm(matrices[0], matrices[1], matrices[2], tiling=tiling, label="trial")
        program = builder.build()
        began = time.perf_counter()
        status = device.run(program)
        seconds = time.perf_counter() - began
        mismatches = int(np.count_nonzero(matrices[2].read() != gemm_int32(a, b)))
    predicted = sum_counters(config, program.code)
    return CsimTrial(mismatches, status.counters, predicted, tiling.dataflow.name.lower(), seconds)
