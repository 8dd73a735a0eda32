"""How fast the performance model is: closed form, search, event mode, and a whole SDXL step. Processor time, one thread.

OMP_NUM_THREADS=1 python benchmarks/model_speed.py
"""

from __future__ import annotations

import time

from rich.console import Console
from rich.table import Table
from systolora.cost.policies import run_policies
from systolora.cost.settings import SimulateSettings
from systolora.cost.simulation import simulate_workload, step_program
from systolora.cost.tracing import trace_workload
from systolora.cost.workloads import StepOptions, Workload
from systolora.hls.config import ArrayConfig
from systolora.sim.cost.columns import GemmColumns
from systolora.sim.cost.energy import technology
from systolora.sim.cost.events import program_events
from systolora.sim.cost.instruction_times import instruction_cycles
from systolora.sim.cost.performance import gemm_costs
from systolora.sim.cost.tile_times import Machine


def main() -> None:
    """Prints the table."""
    began = time.perf_counter()
    sdxl = trace_workload("sdxl", StepOptions(targets="all", adapt="kv", attention_products=True))
    traced = time.perf_counter() - began
    table = Table(title="performance model")
    for title in ("what", "figure", "asked for"):
        table.add_column(title, justify="left" if title == "what" else "right")
    table.add_row("closed form, stalls included: layers x dataflows a second", f"{closed_form(sdxl):,.0f}", "10,000")
    table.add_row(
        "tilings searched too, energy included: layers x dataflows a second", f"{searched(sdxl):,.0f}", "10,000"
    )
    table.add_row("event mode, key and value step of SD 1.5: cycles a second", f"{events():,.0f}", "1,000,000")
    table.add_row("SDXL step, all GEMMs: tracing, wall seconds (diffusers imported)", f"{traced:.2f}", "60")
    table.add_row("SDXL step, all GEMMs, three policies: processor seconds", f"{step(sdxl):.2f}", "2")
    Console().print(table)


def closed_form(workload: Workload) -> float:
    """Evaluations of tiled GEMMs a second, both dataflows."""
    config = ArrayConfig()
    machine = Machine.of(config)
    policies = run_policies(machine, technology("16nm"), workload)
    ops = [cost.op for name in ("ws", "os") for cost in policies[name].gemms if cost.op is not None]
    columns = GemmColumns.of(config, ops * (20_000 // len(ops)))
    began = time.process_time()
    gemm_costs(machine, columns)
    return len(columns) / (time.process_time() - began)


def searched(workload: Workload) -> float:
    """GEMMs of a step a second, both dataflows, with the search for the tilings of those that differ."""
    machine, tech = Machine.of(ArrayConfig()), technology("16nm")
    began = time.process_time()
    run_policies(machine, tech, workload)
    return 2 * workload.gemm_count / (time.process_time() - began)


def events() -> float:
    """Simulated cycles a second of the mode that makes traces."""
    settings = SimulateSettings()
    simulation = simulate_workload(settings, trace_workload("sd15", StepOptions()))
    program, _ = step_program(simulation)
    began = time.process_time()
    count = sum(1 for _ in program_events(simulation.machine, program))
    seconds = time.process_time() - began
    assert count > len(program)
    return sum(instruction_cycles(simulation.machine, program)) / seconds


def step(workload: Workload) -> float:
    """Seconds for a whole step: tilings, three policies, quantizations."""
    began = time.process_time()
    simulate_workload(SimulateSettings(workload="sdxl", targets="all"), workload)
    return time.process_time() - began


if __name__ == "__main__":
    main()
