"""A workload under three policies: weight-stationary only, output-stationary only, and the better of the two for each GEMM.

Under each of them a GEMM whose result may lie in either order is computed as C^T = B^T A^T where that is faster, as the compiler does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Dataflow, Gemm
from systolora.sim.cost.columns import GemmColumns
from systolora.sim.cost.energy import Energy, Technology, Work, energy
from systolora.sim.cost.mapping import best_products
from systolora.sim.cost.performance import Costs, gemm_costs
from systolora.sim.cost.scalesim import scalesim_report
from systolora.sim.cost.tile_times import Machine
from systolora.sim.cost.unit_times import ArrayKind, array_work

from .workloads import Distinct, Workload

POLICIES = ("ws", "os", "auto")
TRAFFIC = ("input", "weight", "vector", "result_loaded", "result_stored", "program")
"""What moves to and from device memory."""

_FLOWS = {"ws": Dataflow.WEIGHT_STATIONARY, "os": Dataflow.OUTPUT_STATIONARY}


@dataclass(frozen=True)
class GemmCost:
    """What one of some GEMMs that are alike costs.

    Attributes:
        item: the GEMMs, with their count.
        op: the tiled instruction, in the form C^T = B^T A^T if its `scales_swapped` is set; None where no instruction was tiled
            (SCALE-Sim).
        dataflow: "ws" or "os".
        cycles, array_cycles: of one. utilization: needed multiply-accumulates over all that the array could have done.
        traffic: bytes to and from device memory by tensor, of one.
        bound: what takes longest: array, input, weight, store or dram.
        energy: of one.
    """

    item: Distinct
    op: Gemm | None
    dataflow: str
    cycles: int
    array_cycles: int
    utilization: float
    traffic: Mapping[str, int]
    bound: str
    energy: Energy

    @property
    def total_cycles(self) -> int:
        """Cycles of all of them."""
        return self.item.count * self.cycles

    @property
    def dram_bytes(self) -> int:
        """Bytes to and from device memory, of one."""
        return sum(self.traffic.values())

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `cycles`, `stall_cycles`, `dram_bytes` and `energy_j` are those of one, `count` says how many there are.

        What SCALE-Sim's totals do not contain is null.
        """
        gemm, op = self.item.gemm, self.item.gemm.op
        modelled = self.op is not None
        tiles = {}
        if self.op is not None:
            tiles = {"turned": self.op.scales_swapped, "tile": [self.op.tile_m, self.op.tile_n, self.op.tile_k]}
        return {
            "layer": gemm.layer,
            "class": gemm.layer_class,
            "kind": gemm.kind,
            "m": op.m,
            "n": op.n,
            "k": op.k,
            "count": self.item.count,
            "dataflow": self.dataflow,
            **tiles,
            "cycles": self.cycles,
            "stall_cycles": self.cycles - self.array_cycles,
            "utilization": round(self.utilization, 6),
            "dram_bytes": self.dram_bytes if modelled else None,
            "traffic": dict(self.traffic),
            "bound": self.bound,
            "energy_j": self.energy.total if modelled else None,
        }


@dataclass(frozen=True)
class PolicyResult:
    """All GEMMs of a step under one policy."""

    name: str
    gemms: tuple[GemmCost, ...]
    pes: int

    @property
    def cycles(self) -> int:
        """Clocks of all GEMM instructions."""
        return sum(cost.total_cycles for cost in self.gemms)

    @property
    def array_cycles(self) -> int:
        """Clocks in which the array is in a tile."""
        return sum(cost.item.count * cost.array_cycles for cost in self.gemms)

    @property
    def macs(self) -> int:
        """Multiply-accumulates that the step needs."""
        return sum(cost.item.macs for cost in self.gemms)

    @property
    def utilization(self) -> float:
        """Needed multiply-accumulates over all that the array could have done in these clocks."""
        return self.macs / (self.pes * self.cycles)

    @property
    def dram_bytes(self) -> int:
        """Bytes to and from device memory."""
        return sum(cost.item.count * cost.dram_bytes for cost in self.gemms)

    def energy(self) -> dict[str, float]:
        """Joules by component."""
        parts = [cost.energy.as_dict() for cost in self.gemms]
        counts = [cost.item.count for cost in self.gemms]
        return {name: sum(count * part[name] for count, part in zip(counts, parts, strict=True)) for name in parts[0]}

    def as_dict(self) -> dict[str, Any]:
        """For JSON; what SCALE-Sim's totals do not contain is null."""
        modelled = self.gemms[0].op is not None
        spent = self.energy() if modelled else {}
        return {
            "cycles": self.cycles,
            "stall_cycles": self.cycles - self.array_cycles,
            "array_cycles": self.array_cycles,
            "utilization": round(self.utilization, 6),
            "dram_bytes": self.dram_bytes if modelled else None,
            "energy_j": sum(spent.values()) if modelled else None,
            "energy_parts_j": spent,
            "gemms": [cost.as_dict() for cost in self.gemms],
        }


def run_policies(machine: Machine, technology: Technology, workload: Workload) -> dict[str, PolicyResult]:
    """The workload under each policy, every GEMM tiled as the model finds best for it."""
    pes = machine.config.rows * machine.config.cols
    by_flow = {name: _one_dataflow(machine, technology, workload, name) for name in _FLOWS}
    pairs = zip(by_flow["ws"], by_flow["os"], strict=True)
    best = tuple(min(pair, key=lambda cost: (cost.cycles, cost.energy.total)) for pair in pairs)
    if not machine.config.output_stationary:
        best = by_flow["ws"]
    return {name: PolicyResult(name, costs, pes) for name, costs in {**by_flow, "auto": best}.items()}


def _one_dataflow(machine: Machine, technology: Technology, workload: Workload, flow: str) -> tuple[GemmCost, ...]:
    keys = [(item.gemm.op, item.gemm.turnable) for item in workload.gemms]
    rows = {key: row for row, key in enumerate(dict.fromkeys(keys))}
    ops, turnable = zip(*rows, strict=True)
    tiled = [product.op for product in best_products(machine, ops, (_FLOWS[flow],), turnable)]
    columns = GemmColumns.of(machine.config, tiled)
    costs = gemm_costs(machine, columns)
    work = _work(machine, columns, costs)
    return tuple(
        _gemm_cost(machine, technology, item, tiled[rows[key]], costs, work[rows[key]], rows[key])
        for item, key in zip(workload.gemms, keys, strict=True)
    )


def _gemm_cost(
    machine: Machine, technology: Technology, item: Distinct, op: Gemm, costs: Costs, work: Work, row: int
) -> GemmCost:
    bus = machine.config.bus_bytes
    columns = (
        *(costs.input_words, costs.weight_words, costs.vector_words),
        *(costs.result_words_loaded, costs.result_words_stored, costs.program_words),
    )
    limits = {
        "array": costs.array_cycles,
        "input": costs.input_clocks,
        "weight": costs.weight_clocks,
        "store": costs.store_clocks,
        "dram": costs.dram_clocks,
    }
    cycles = int(costs.cycles[row])
    return GemmCost(
        item=item,
        op=op,
        dataflow="ws" if op.dataflow == Dataflow.WEIGHT_STATIONARY else "os",
        cycles=cycles,
        array_cycles=int(costs.array_cycles[row]),
        utilization=item.gemm.macs / (machine.config.rows * machine.config.cols * cycles),
        traffic={name: bus * int(column[row]) for name, column in zip(TRAFFIC, columns, strict=True)},
        bound=max(limits, key=lambda name: int(limits[name][row])),
        energy=energy(technology, replace(work, macs=item.gemm.macs)),
    )


def _work(machine: Machine, columns: GemmColumns, costs: Costs) -> list[Work]:
    """What is to be paid for in energy, row by row; the multiply-accumulates are filled in by the caller."""
    config = machine.config
    bus = config.bus_bytes
    input_reads, weight_reads = costs.busy_cycles * config.rows, costs.weight_reads * config.cols
    # Each update reads and writes a word of sums; the epilogue reads each sum once more.
    sums = 4 * config.cols * (2 * costs.output_updates) + 4 * columns.m * columns.n
    loaded = bus * (costs.input_words + costs.weight_words)
    sram = input_reads + weight_reads + sums + loaded
    dram = bus * costs.words
    table = np.stack((costs.busy_cycles * config.rows * config.cols, columns.m * columns.n, sram, dram), axis=1)
    return [
        Work(pe_cycles=pe, elements=elements, sram_bytes=on_chip, dram_bytes=off)
        for pe, elements, on_chip, off in table.tolist()
    ]


def scalesim_policies(rows: int, cols: int, items: Sequence[Distinct]) -> dict[str, PolicyResult]:
    """The same policies with the totals that SCALE-Sim 3.0.0 reports; device memory and energy are not in them."""
    nothing = Energy(0.0, 0.0, 0.0, 0.0, 0.0)
    found: dict[str, tuple[GemmCost, ...]] = {}
    for name in _FLOWS:
        costs = []
        for item in items:
            op = item.gemm.op
            cycles = scalesim_report(rows, cols, name, op.m, op.n, op.k).total_cycles
            share = item.gemm.macs / (rows * cols * max(cycles, 1))
            costs.append(GemmCost(item, None, name, cycles, cycles, share, {}, "array", nothing))
        found[name] = tuple(costs)
    pairs = zip(found["ws"], found["os"], strict=True)
    found["auto"] = tuple(min(pair, key=lambda cost: cost.cycles) for pair in pairs)
    return {name: PolicyResult(name, costs, rows * cols) for name, costs in found.items()}


def array_alone(config: ArrayConfig, kind: ArrayKind, items: Sequence[Distinct]) -> dict[str, int]:
    """Cycles of a step's GEMMs by policy if memories were endless and instant: each GEMM is one tile, and only the array counts."""
    m, n, k, counts = (
        np.array(values, np.int64) for values in zip(*(_shape_and_count(item) for item in items), strict=True)
    )
    cycles = {
        name: array_work(config, kind, np.full_like(m, int(flow)), m, n, k).cycles for name, flow in _FLOWS.items()
    }
    cycles["auto"] = np.minimum(cycles["ws"], cycles["os"])
    return {name: int(counts @ values) for name, values in cycles.items()}


def _shape_and_count(item: Distinct) -> tuple[int, int, int, int]:
    return item.gemm.op.m, item.gemm.op.n, item.gemm.op.k, item.count
