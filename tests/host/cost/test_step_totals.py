"""Bytes, energy and utilization of a step with QUANTIZE, against arithmetic that is written out here for one small step."""

from __future__ import annotations

import pytest
from systolora.cost.settings import SimulateSettings
from systolora.cost.simulation import Simulation, simulate_workload
from systolora.cost.step_gemms import StepGemm, StepQuantize
from systolora.cost.step_trace import Trace
from systolora.cost.workloads import Distinct, DistinctQuantize, Workload
from systolora.hls.isa import Axis, Gemm, Quantize, Result, ScaleMode
from systolora.models.configs import MODELS
from systolora.sim.cost.instruction_times import instruction_cycles

M, N, K = 48, 32, 64
GEMMS, COLUMNS, TENSORS = 5, 3, 2
"""How often the product [48, 32, 64] runs, and the quantizations of [64, 32] by column and of [64, 48] as a whole."""

PROGRAM = 128
GEMM_BYTES = M * K + K * N + 4 * M * N + 4 * M + 4 * N + PROGRAM
"""Both operands and the result once, a scale for each row and column, the instruction: all of it fits one tile."""
COLUMN_BYTES = 2 * 4 * 64 * 32 + 64 * 32 + 4 * 32 + PROGRAM
"""The source twice, the integers, a scale for each column."""
TENSOR_BYTES = 2 * 4 * 64 * 48 + 64 * 48 + 16 + PROGRAM
"""One scale, which takes a bus word."""


@pytest.fixture(scope="module")
def step() -> Simulation:
    gemm = Gemm(
        *(M, N, K, M, N, K, 0, 0, 0, 0, 0, 0),
        result=Result.FLOAT32,
        scale_a=ScaleMode.VECTOR,
        scale_b=ScaleMode.VECTOR,
    )
    by_column, whole = (
        Quantize(64, cols, 0, 0, 0, 0, 0, axis=axis) for cols, axis in ((32, Axis.COLUMN), (48, Axis.TENSOR))
    )
    workload = Workload(
        spec=MODELS["sd15"],
        parameters=1,
        trainable=1,
        layers=1,
        gemms=(Distinct(StepGemm("a", "other linear", "forward_base", gemm, M * N * K), GEMMS),),
        quantizes=(
            DistinctQuantize(StepQuantize("a", "other linear", "x", by_column), COLUMNS),
            DistinctQuantize(StepQuantize("a", "convolution", "x", whole), TENSORS),
        ),
        order=(),
        calls=(),
        host_calls=(),
        host_macs=0,
        trace=Trace((), {}, 0),
    )
    return simulate_workload(SimulateSettings(rows=16, cols=16, bus_bytes=16, technology="45nm"), workload)


def test_bytes_of_a_step_by_hand(step: Simulation) -> None:
    expected = GEMMS * GEMM_BYTES + COLUMNS * COLUMN_BYTES + TENSORS * TENSOR_BYTES
    assert step.as_dict()["step"]["dram_bytes"] == expected
    assert step.quantize.dram_bytes == COLUMNS * COLUMN_BYTES + TENSORS * TENSOR_BYTES


def test_energy_of_a_step_by_hand(step: Simulation) -> None:
    """Horowitz's table at 45 nm: an element three FP32 products of 3.7 and two sums of 0.9 pJ; 20 and 1,300 pJ for 8 bytes of SRAM and DRAM."""
    element, sram, dram = 3 * 3.7 + 2 * 0.9, 20 / 8, 1300 / 8
    by_column, whole = 64 * 32, 64 * 48
    # What is written passes a memory, in and out, scales too; a column's magnitude is written once and read twice.
    on_chip = COLUMNS * (2 * (by_column + 4 * 32) + 3 * 4 * by_column)
    on_chip += TENSORS * 2 * (whole + 16)
    quantizing = element * (COLUMNS * by_column + TENSORS * whole) + sram * on_chip
    quantizing += dram * (COLUMNS * COLUMN_BYTES + TENSORS * TENSOR_BYTES)
    # Words are of 16 bytes, and every row here is a whole number of them.
    assert step.quantize.energy_j == pytest.approx(1e-12 * quantizing)
    parts = step.policies["auto"].energy()
    assert parts["mac"] == pytest.approx(1e-12 * GEMMS * M * N * K * (0.2 + 0.1))
    assert parts["dram"] == pytest.approx(1e-12 * GEMMS * GEMM_BYTES * dram)
    assert step.as_dict()["step"]["energy_j"] == pytest.approx(sum(parts.values()) + 1e-12 * quantizing)


def test_utilization_of_a_step_by_hand(step: Simulation) -> None:
    """Multiply-accumulates that are needed over those that 256 PEs could have done in all instructions' clocks."""
    gemm = step.policies["auto"].gemms[0].op
    assert gemm is not None
    by_column, whole = (item.quantize.op for item in step.workload.quantizes)
    clocks = instruction_cycles(step.machine, [gemm] * GEMMS + [by_column] * COLUMNS + [whole] * TENSORS)
    found = step.as_dict()["step"]
    assert found["cycles"] == sum(clocks) == found["gemm_cycles"] + found["quantize_cycles"]
    assert found["utilization"] == pytest.approx(GEMMS * M * N * K / (256 * sum(clocks)), abs=1e-6)
    # Reading 4 bytes an element twice through a port of 16 takes at least this long.
    floor = (COLUMNS * 2 * 4 * 64 * 32 + TENSORS * 2 * 4 * 64 * 48) / 16
    assert floor < found["quantize_cycles"] < 3 * floor + (COLUMNS + TENSORS) * 1000
