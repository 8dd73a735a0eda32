"""What `systolora simulate` prints: the three policies, where the time goes, and the GEMMs that take most of it."""

from __future__ import annotations

import json as jsonlib

from rich.console import Console
from rich.table import Table
from systolora.cost.policies import POLICIES
from systolora.cost.run import run_simulate
from systolora.cost.settings import SimulateSettings
from systolora.cost.simulation import Simulation

_TITLES = {"ws": "WS only", "os": "OS only", "auto": "best of each"}
_MOST_GEMMS = 12


def run_simulation(settings: SimulateSettings, json: bool) -> None:
    """Simulates and prints tables; with `json` they go to standard error and one JSON line to standard output."""
    simulation = run_simulate(settings)
    print_simulation(simulation, Console(stderr=json))
    if json:
        print(jsonlib.dumps(simulation.as_dict()))


def print_simulation(simulation: Simulation, console: Console) -> None:
    """The tables."""
    console.print(_headline(simulation))
    console.print(_policy_table(simulation))
    console.print(_class_table(simulation))
    console.print(_gemm_table(simulation))
    if not simulation.settings.compat:
        console.print(
            f"step: {simulation.step_cycles():,} cycles = {simulation.step_seconds():.3f} s on the accelerator, "
            f"of which quantizing {simulation.quantize_cycles:,}; {simulation.step_utilization():.1%} of the array used, QUANTIZE "
            f"included; bottleneck: {simulation.bottleneck()}"
        )
    console.print(f"traced in {simulation.trace_seconds:.1f} s, simulated in {simulation.model_seconds:.2f} s")
    for file in (simulation.settings.html, simulation.settings.trace):
        if file:
            console.print(f"written: {file}")


def _headline(simulation: Simulation) -> str:
    config, workload, settings = simulation.machine.config, simulation.workload, simulation.settings
    kind = "SCALE-Sim 3.0.0's array" if settings.compat else f"{simulation.machine.kind.value} array"
    return (
        f"{workload.spec.title}, targets {settings.targets}, adapter on {settings.adapt} with rank {settings.rank}, batch "
        f"{settings.batch}: {workload.gemm_count:,} GEMMs, {workload.macs() / 1e9:,.2f} GMAC a step\n"
        f"{config.rows} x {config.cols} {kind}, {config.clock_mhz:g} MHz, ports of {config.bus_bytes} bytes, "
        f"device memory {config.dram_gbps:g} GB/s"
    )


def _policy_table(simulation: Simulation) -> Table:
    table = Table(title="GEMM instructions of the step, by dataflow", box=None, title_justify="left")
    for title in (
        "dataflow",
        "cycles",
        "array",
        "stalls",
        "used",
        "DRAM MB",
        "energy J",
        "slower",
    ):
        table.add_column(title, justify="left" if title == "dataflow" else "right")
    best = simulation.policies["auto"].cycles
    for name in POLICIES:
        policy = simulation.policies[name]
        plain = [f"{policy.cycles:,}", f"{policy.array_cycles:,}", f"{policy.cycles - policy.array_cycles:,}"]
        measures = [
            f"{policy.utilization:.1%}",
            f"{policy.dram_bytes / 1e6:,.1f}",
            f"{sum(policy.energy().values()):.4f}",
        ]
        table.add_row(_TITLES[name], *plain, *measures, f"{policy.cycles / best:.3f} x")
    return table


def _class_table(simulation: Simulation) -> Table:
    table = Table(title="\ncycles by kind of layer, best of each", box=None, title_justify="left")
    for title in ("layers", "cycles", "share", "used"):
        table.add_column(title, justify="left" if title == "layers" else "right")
    auto = simulation.policies["auto"]
    for name, cycles in simulation.cycles_by("layer_class").items():
        macs = sum(cost.item.macs for cost in auto.gemms if cost.item.gemm.layer_class == name)
        table.add_row(name, f"{cycles:,}", f"{cycles / auto.cycles:.1%}", f"{macs / (auto.pes * cycles):.1%}")
    return table


def _gemm_table(simulation: Simulation) -> Table:
    table = Table(title="\nthe GEMMs that take most time", box=None, title_justify="left")
    for title in ("kind", "m,n,k", "times", "flow", "tile", "cycles", "used", "bound"):
        table.add_column(title, justify="left" if title == "kind" else "right")
    auto = simulation.policies["auto"]
    for cost in sorted(auto.gemms, key=lambda cost: -cost.total_cycles)[:_MOST_GEMMS]:
        gemm, op = cost.item.gemm, cost.item.gemm.op
        tile = "-" if cost.op is None else f"{cost.op.tile_m},{cost.op.tile_n},{cost.op.tile_k}"
        shape, share = f"{op.m},{op.n},{op.k}", f"{cost.utilization:.1%}"
        table.add_row(
            *(gemm.kind, shape, str(cost.item.count), cost.dataflow, tile),
            *(f"{cost.total_cycles / 1e6:,.2f} M", share, cost.bound),
        )
    return table
