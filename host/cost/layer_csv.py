"""Every GEMM and QUANTIZE of a step as CSV, one line a call; `simulate --gemms` reads it again."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from importlib.metadata import version
from typing import Any

from systolora.hls.isa import Gemm
from systolora.sim.cost.energy import Energy, energy
from systolora.sim.cost.quantize_times import quantize_time, quantize_work

from .flags import write_flags
from .policies import TRAFFIC, GemmCost
from .settings import RESULTS, usual_flags
from .simulation import Simulation
from .step_gemms import StepGemm, StepQuantize, Work

GIVEN_COLUMNS = ("name", "operation", "kind", "class", "m", "n", "k", "count", "macs", "flags")
"""What describes a call, and what a list may have."""

_ENERGY = tuple(item.name for item in fields(Energy))
VERSION_COLUMN = "systolora_version"
RESULT_COLUMNS = (
    *("dataflow", "loop_order", "tile_m", "tile_n", "tile_k"),
    *("cycles", "array_cycles", "stall_cycles", "total_cycles", "utilization", "bound", "dram_bytes"),
    *(f"{name}_dram_bytes" for name in TRAFFIC),
    "energy_j",
    *(f"{name}_j" for name in _ENERGY),
    VERSION_COLUMN,
)
"""What the model says of one of `count`; `total_cycles` is for all of them. What is not modelled is empty."""

CSV_MARK = f",{VERSION_COLUMN}\n".encode()
"""How the first line of every CSV file of `simulate` ends; the column says which version the figures are of."""


def render_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV, with the version in a last column; a value that a row does not have is empty. Numbers are written in full."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, (*columns, VERSION_COLUMN), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, VERSION_COLUMN: version("systolora")} for row in rows)
    return text.getvalue()


def render_layers(simulation: Simulation) -> str:
    """The step's calls in the order of the forward, each call's backward behind it, under the dataflow of the settings."""
    return render_csv(GIVEN_COLUMNS + RESULT_COLUMNS[:-1], _rows(simulation))


def _rows(simulation: Simulation) -> Iterator[dict[str, Any]]:
    costs = {replace(cost.item.gemm, layer=""): cost for cost in simulation.chosen.gemms}
    usual = usual_flags(RESULTS[simulation.settings.result])
    for work in simulation.workload.order:
        row = _given(work, usual)
        if isinstance(work, StepGemm):
            row |= _gemm_results(costs[replace(work, layer="")])
        elif not simulation.settings.compat:
            row |= _quantize_results(simulation, work)
        yield row if "cycles" not in row else {**row, "total_cycles": work.repeats * row["cycles"]}


def _given(work: Work, usual: Mapping[str, Any]) -> dict[str, Any]:
    op = work.op
    row = {"name": work.layer, "class": work.layer_class, "m": op.m, "n": op.n, "count": work.repeats}
    row["flags"] = write_flags(op, usual)
    if isinstance(work, StepGemm) and isinstance(op, Gemm):
        return {**row, "operation": "gemm", "kind": work.kind, "k": op.k, "macs": work.macs}
    return {**row, "operation": "quantize", "kind": getattr(work, "tensor", "")}


def _gemm_results(cost: GemmCost) -> dict[str, Any]:
    row: dict[str, Any] = {
        "dataflow": cost.dataflow,
        "cycles": cost.cycles,
        "array_cycles": cost.array_cycles,
        "stall_cycles": cost.cycles - cost.array_cycles,
        "utilization": cost.utilization,
        "bound": cost.bound,
    }
    if cost.op is None:
        return row
    tiles = {name: getattr(cost.op, name) for name in ("tile_m", "tile_n", "tile_k")}
    moved = {f"{name}_dram_bytes": count for name, count in cost.traffic.items()}
    order = cost.op.loop_order.name.lower()
    return {**row, **tiles, "loop_order": order, "dram_bytes": cost.dram_bytes, **moved, **_joules(cost.energy)}


def _quantize_results(simulation: Simulation, work: StepQuantize) -> dict[str, Any]:
    machine = simulation.machine
    cycles, paid = quantize_time(machine, work.op).cycles, quantize_work(machine.config, work.op)
    joules = _joules(energy(simulation.technology, paid))
    unused = {"array_cycles": 0, "stall_cycles": cycles, "utilization": 0.0, "bound": "quantize"}
    return {"cycles": cycles, "dram_bytes": paid.dram_bytes, **unused, **joules}


def _joules(spent: Energy) -> dict[str, float]:
    return {"energy_j": spent.total, **{f"{name}_j": value for name, value in spent.as_dict().items()}}
