"""What `systolora simulate` prints: the three policies, where the time goes, and the GEMMs that take most of it."""

from __future__ import annotations

import json as jsonlib

from rich.console import Console
from rich.table import Table
from systolora.cost.policies import POLICIES
from systolora.cost.run import run_simulate
from systolora.cost.settings import SimulateSettings
from systolora.cost.simulation import Simulation
from systolora.offloading.target_names import adapted_by

from .options import make_console, print_table

_TITLES = {"ws": "WS only", "os": "OS only", "auto": "best of each"}
_MOST_GEMMS, _MOST_OPERATORS = 12, 4


def run_simulation(settings: SimulateSettings, json: bool) -> None:
    """Simulates and prints tables; with `json` they go to standard error and one JSON line to standard output."""
    simulation = run_simulate(settings)
    print_simulation(simulation, make_console(json))
    if json:
        print(jsonlib.dumps(simulation.as_dict()))


def print_simulation(simulation: Simulation, console: Console) -> None:
    """The tables."""
    console.print(_headline(simulation), soft_wrap=True)
    print_table(console, _policy_table(simulation))
    print_table(console, _class_table(simulation))
    print_table(console, _gemm_table(simulation))
    if not simulation.settings.compat:
        console.print(
            f"step: {simulation.step_cycles():,} cycles = {simulation.step_seconds():.3f} s on the accelerator, "
            f"of which quantizing {simulation.quantize_cycles:,}; {simulation.step_utilization():.1%} of the array used, QUANTIZE "
            f"included; bottleneck: {simulation.bottleneck()}",
            soft_wrap=True,
        )
        _print_surroundings(simulation, console)
    console.print(f"traced in {simulation.trace_seconds:.1f} s, simulated in {simulation.model_seconds:.2f} s")
    for file in (simulation.settings.html, simulation.settings.trace):
        if file:
            console.print(f"written: {file}", soft_wrap=True)


def _print_surroundings(simulation: Simulation, console: Console) -> None:
    """What stands around the accelerator: the processor's part of the step, and the memory that both need."""
    host, memory = simulation.host, simulation.footprint
    first = list(host.seconds_by_operator().items())[:_MOST_OPERATORS]
    parts = ", ".join(f"{name.replace('_', ' ')} {seconds:.2f}" for name, seconds in first)
    console.print(f"host: {host.seconds:.3f} s ({parts} s, ...) on {host.rates.name}", soft_wrap=True)
    console.print(f"accelerator and host, one after the other: {simulation.wall_seconds():.3f} s", soft_wrap=True)
    console.print(f"memory: {memory.total / 1e9:.2f} GB for weights, activations, buffers and system", soft_wrap=True)
    if memory.warning():
        console.print(memory.warning(), soft_wrap=True)


def _headline(simulation: Simulation) -> str:
    config, workload, settings = simulation.machine.config, simulation.workload, simulation.settings
    products = "on the accelerator" if settings.attention_products else "left to the host"
    kind = "SCALE-Sim 3.0.0's array" if settings.compat else f"{simulation.machine.kind.value} array"
    return (
        f"{workload.spec.title}, targets {settings.targets}, attention products {products}, adapter on "
        f"{adapted_by(settings.targets, settings.adapt)} with rank {settings.rank}, batch {settings.batch}: {workload.gemm_count:,} GEMMs, {workload.macs() / 1e9:,.2f} GMAC a step\n"
        f"{config.rows} x {config.cols} {kind}, {config.clock_mhz:g} MHz, ports of {config.bus_bytes} bytes, "
        f"device memory {config.dram_gbps:g} GB/s"
    )


def _policy_table(simulation: Simulation) -> Table:
    # In millions, so that all of it stands in 80 columns; --json has every digit.
    table = _table("GEMM instructions of the step, by dataflow (cycles in millions)")
    for title in ("dataflow", "cycles", "array", "stalls", "used", "DRAM MB", "energy J", "slower"):
        table.add_column(title, justify="left" if title == "dataflow" else "right", no_wrap=True)
    best = simulation.policies["auto"].cycles
    for name in POLICIES:
        policy = simulation.policies[name]
        cycles = (policy.cycles, policy.array_cycles, policy.cycles - policy.array_cycles)
        measures = [
            f"{policy.utilization:.1%}",
            f"{policy.dram_bytes / 1e6:,.1f}",
            f"{sum(policy.energy().values()):.4g}",
        ]
        table.add_row(
            *(_TITLES[name], *(_millions(count) for count in cycles), *measures, f"{policy.cycles / best:.3f} x")
        )
    return table


def _table(title: str) -> Table:
    return Table(title=title, box=None, title_justify="left", pad_edge=False, padding=(0, 1, 0, 0))


def _millions(cycles: float) -> str:
    return f"{cycles / 1e6:,.2f}"


def _class_table(simulation: Simulation) -> Table:
    table = _table("\ncycles by kind of layer, best of each")
    for title in ("layers", "cycles", "share", "used"):
        table.add_column(title, justify="left" if title == "layers" else "right")
    auto = simulation.policies["auto"]
    for name, cycles in simulation.cycles_by("layer_class").items():
        macs = sum(cost.item.macs for cost in auto.gemms if cost.item.gemm.layer_class == name)
        table.add_row(name, f"{cycles:,}", f"{cycles / auto.cycles:.1%}", f"{macs / (auto.pes * cycles):.1%}")
    return table


def _gemm_table(simulation: Simulation) -> Table:
    table = _table("\nthe GEMMs that take most time")
    for title in ("kind", "m,n,k", "times", "flow", "tile", "M cycles", "used", "bound"):
        table.add_column(title, justify="left" if title == "kind" else "right")
    auto = simulation.policies["auto"]
    for cost in sorted(auto.gemms, key=lambda cost: -cost.total_cycles)[:_MOST_GEMMS]:
        gemm, op = cost.item.gemm, cost.item.gemm.op
        tile = "-" if cost.op is None else f"{cost.op.tile_m},{cost.op.tile_n},{cost.op.tile_k}"
        shape, share = f"{op.m},{op.n},{op.k}", f"{cost.utilization:.1%}"
        table.add_row(
            *(gemm.kind, shape, str(cost.item.count), cost.dataflow, tile),
            *(_millions(cost.total_cycles), share, cost.bound),
        )
    return table
