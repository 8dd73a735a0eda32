"""What `systolora simulate` prints: the three policies, where the time goes, and the GEMMs that take most of it."""

from __future__ import annotations

import json as jsonlib

from rich.console import Console
from systolora.cost.policies import POLICIES, GemmCost
from systolora.cost.run import run_simulate
from systolora.cost.settings import SimulateSettings
from systolora.cost.simulation import Simulation
from systolora.offloading.target_names import adapted_by

from .options import make_console
from .tables import Sheet, print_sheet

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
    console.print(_headline(simulation))
    for sheet in (_policies(simulation), _classes(simulation), _gemms(simulation)):
        console.print()
        print_sheet(console, sheet)
    console.print()
    if not simulation.settings.compat:
        console.print(
            f"step: {simulation.step_cycles():,} cycles = {simulation.step_seconds():.3f} s on the accelerator "
            f"({_TITLES[simulation.settings.dataflow]}), "
            f"of which quantizing {simulation.quantize_cycles:,}; {simulation.step_utilization():.1%} of the array used, QUANTIZE "
            f"included; bottleneck: {simulation.bottleneck()}"
        )
        _print_surroundings(simulation, console)
    console.print(f"traced in {simulation.trace_seconds:.1f} s, simulated in {simulation.model_seconds:.2f} s")
    _print_files(simulation, console)


def _print_files(simulation: Simulation, console: Console) -> None:
    settings, trace = simulation.settings, simulation.trace
    for file in (settings.html, settings.csv, settings.trace):
        if file:
            console.print(f"written: {file}", soft_wrap=True)
    if trace is not None and not trace.complete:
        console.print(
            f"the trace ends after {trace.events:,} events, {trace.cycles / trace.step_cycles:.1%} of the step's cycles: "
            f"--trace-events {settings.trace_events} is the limit; a larger one shows more"
        )


def _print_surroundings(simulation: Simulation, console: Console) -> None:
    """What stands around the accelerator: the processor's part of the step, and the memory that both need."""
    host, memory = simulation.host, simulation.footprint
    if host is None or memory is None:
        return
    first = list(host.seconds_by_operator().items())[:_MOST_OPERATORS]
    parts = ", ".join(f"{name.replace('_', ' ')} {seconds:.2f}" for name, seconds in first)
    console.print(f"host: {host.seconds:.3f} s ({parts} s, ...) on {host.rates.name}")
    console.print(f"accelerator and host, one after the other: {simulation.wall_seconds():.3f} s")
    console.print(f"memory: {memory.total / 1e9:.2f} GB for weights, activations, buffers and system")
    if memory.warning():
        console.print(memory.warning())


def _headline(simulation: Simulation) -> str:
    config, workload, settings = simulation.machine.config, simulation.workload, simulation.settings
    products = "on the accelerator" if settings.attention_products else "left to the host"
    kind = "SCALE-Sim 3.0.0's array" if settings.compat else f"{simulation.machine.kind.value} array"
    step = (
        f"targets {settings.targets}, attention products {products}, adapter on "
        f"{adapted_by(settings.targets, settings.adapt)} with rank {settings.rank}, batch {settings.batch}"
        if not settings.gemms
        else "a list"
    )
    ports = f"ports of {config.bus_bytes} bytes"
    if config.port_bytes < config.bus_bytes:
        ports += f" at {config.port_bytes:.3g} a clock"
    return (
        f"{workload.spec.title}, {step}: {workload.gemm_count:,} GEMMs, {workload.macs() / 1e9:,.2f} GMAC a step\n"
        f"{config.rows} x {config.cols} {kind}, {config.clock_mhz:g} MHz, {ports}, "
        f"device memory {config.dram_gbps:g} GB/s"
    )


def _policies(simulation: Simulation) -> Sheet:
    # In millions, so that all of it stands in 80 columns; --json and --csv have every digit.
    best = simulation.policies["auto"].cycles
    rows = []
    for name in POLICIES:
        policy = simulation.policies[name]
        cycles = (policy.cycles, policy.array_cycles, policy.cycles - policy.array_cycles)
        row = [_TITLES[name], *(millions(count) for count in cycles), f"{policy.utilization:.1%}"]
        if not simulation.settings.compat:
            row += [f"{policy.dram_bytes / 1e6:,.1f}", f"{sum(policy.energy().values()):.4g}"]
        rows.append([*row, f"{policy.cycles / best:.3f} x"])
    modelled = () if simulation.settings.compat else ("DRAM MB", "energy J")
    columns = ("dataflow<", "cycles", "array", "stalls", "used", *modelled, "slower")
    return Sheet("GEMM instructions of the step, by dataflow (cycles in millions)", columns, rows)


def millions(cycles: float) -> str:
    """Clocks in millions, never shown as none."""
    return f"{cycles / 1e6:,.2f}" if cycles >= 5e3 or not cycles else f"{cycles / 1e6:.2g}"


def _classes(simulation: Simulation) -> Sheet:
    chosen, rows = simulation.chosen, []
    for name, cycles in simulation.cycles_by("layer_class").items():
        macs = sum(cost.item.macs for cost in chosen.gemms if cost.item.gemm.layer_class == name)
        rows.append([name, f"{cycles:,}", f"{cycles / chosen.cycles:.1%}", f"{macs / (chosen.pes * cycles):.1%}"])
    title = f"cycles by kind of layer, {_TITLES[simulation.settings.dataflow]}"
    return Sheet(title, ("layers<", "cycles", "share", "used"), rows)


def _gemms(simulation: Simulation) -> Sheet:
    costs = sorted(simulation.chosen.gemms, key=lambda cost: -cost.total_cycles)
    rows = [_gemm_row(simulation, cost) for cost in costs[:_MOST_GEMMS]]
    title = "the GEMMs that take most time"
    if len(costs) > _MOST_GEMMS:
        title += f": {_MOST_GEMMS} of {len(costs)} different ones (--csv FILE writes all)"
    columns = ("kind<", "m,n,k", "times", "flow", "tile", "M cycles", "used", "bound")
    return Sheet(title, columns, rows, keys=2)


def _gemm_row(simulation: Simulation, cost: GemmCost) -> list[str]:
    gemm, op = cost.item.gemm, cost.item.gemm.op
    tile = "-" if cost.op is None else f"{cost.op.tile_m},{cost.op.tile_n},{cost.op.tile_k}"
    called = gemm.layer if simulation.settings.gemms else gemm.kind
    shape, share = f"{op.m},{op.n},{op.k}", f"{cost.utilization:.1%}"
    return [
        *(called, shape, str(cost.item.count), cost.dataflow, tile),
        *(millions(cost.total_cycles), share, cost.bound),
    ]
