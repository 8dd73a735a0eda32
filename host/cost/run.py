"""A simulation as the command line asks for it: traced, run under each policy, and written to the files that were named."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

from systolora.outputs import check_file, write_output
from systolora.sim.cost.events import TRACE_MARK, program_events, render_trace
from systolora.sim.cost.tile_times import Machine

from .host_time import read_rates
from .report import REPORT_MARK, render_report
from .settings import RESULTS, SimulateSettings, check_simulation
from .simulation import Simulation, simulate_workload, step_program
from .workloads import StepOptions, trace_workload


def run_simulate(settings: SimulateSettings) -> Simulation:
    """Traces the workload, runs it under each policy, and writes the files that were asked for.

    Raises:
        UserError, ConfigError: for settings that are not allowed.
    """
    check_simulation(settings)
    for option, path, mark in (("--html", settings.html, REPORT_MARK), ("--trace", settings.trace, TRACE_MARK)):
        if path:
            check_file(Path(path), option, mark)
    machine = settings.machine()
    read_rates(settings.host)  # a wrong file is told of before the long work
    began = time.perf_counter()
    workload = trace_workload(settings.workload, _step_options(settings, machine))
    traced = time.perf_counter()
    simulation = simulate_workload(settings, workload)
    simulation = replace(simulation, trace_seconds=traced - began, model_seconds=time.perf_counter() - traced)
    if settings.html:
        write_output(Path(settings.html), render_report(simulation).encode(), "--html", REPORT_MARK)
    if settings.trace:
        program, labels = step_program(simulation)
        events = islice(program_events(machine, program, labels), settings.trace_events)
        write_output(Path(settings.trace), render_trace(machine.config, list(events)).encode(), "--trace", TRACE_MARK)
    return simulation


def _step_options(settings: SimulateSettings, machine: Machine) -> StepOptions:
    return StepOptions(
        targets=settings.targets,
        adapt=settings.adapt,
        attention_products=settings.attention_products,
        rank=settings.rank,
        batch=settings.batch,
        resolution=settings.resolution,
        bus_bytes=machine.config.bus_bytes,
        result=RESULTS[settings.result],
    )
