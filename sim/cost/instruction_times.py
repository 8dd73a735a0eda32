"""Clocks of whole programs: the closed forms of each kind of instruction, side by side."""

from __future__ import annotations

from collections.abc import Sequence

from systolora.hls.isa import INSTRUCTION_BYTES, End, Gemm, Instruction, Quantize

from .columns import GemmColumns
from .performance import gemm_costs
from .quantize_times import quantize_time
from .tile_times import Machine
from .unit_times import fetch_clocks


def instruction_cycles(machine: Machine, program: Sequence[Instruction]) -> list[int]:
    """Clocks of each instruction of a program, up to its END.

    Instructions run one after the other: nothing of the next is loaded while one runs, so the sum is the program's time.
    """
    ends = [index for index, op in enumerate(program) if isinstance(op, End)]
    run = program[: ends[0] + 1] if ends else program
    gemms = [op for op in run if isinstance(op, Gemm)]
    gemm_cycles = iter(gemm_costs(machine, GemmColumns.of(machine.config, gemms)).cycles.tolist() if gemms else [])
    fetch = fetch_clocks(machine.config, machine.dram, INSTRUCTION_BYTES)
    cycles = []
    for op in run:
        if isinstance(op, Gemm):
            cycles.append(next(gemm_cycles))
        else:
            cycles.append(quantize_time(machine, op).cycles if isinstance(op, Quantize) else fetch)
    return cycles
