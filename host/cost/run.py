"""A simulation as the command line asks for it: traced or read, run under each policy, and written to the files that were named."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

from systolora.errors import UserError
from systolora.options import option_name
from systolora.outputs import check_file, write_output
from systolora.sim.cost.events import TRACE_MARK, program_events, render_trace

from .gemm_list import read_gemms
from .host_time import read_rates
from .layer_csv import CSV_MARK, render_layers
from .report import REPORT_MARK, render_report
from .settings import RESULTS, SimulateSettings, check_simulation
from .simulation import Simulation, TraceExtent, simulate_workload, step_program
from .workloads import StepOptions, Workload


def run_simulate(settings: SimulateSettings) -> Simulation:
    """Traces the workload, runs it under each policy, and writes the files that were asked for.

    Raises:
        UserError, ConfigError: for settings that are not allowed, and files that could not be written.
    """
    check_simulation(settings)
    if settings.plot:
        raise UserError("--plot goes with --sweep: one simulation is one point; give --sweep, or --html for its charts")
    check_files(settings, {"html": REPORT_MARK, "csv": CSV_MARK, "trace": TRACE_MARK})
    read_rates(settings.host)  # a wrong file is told of before the long work
    began = time.perf_counter()
    workload = find_workload(settings)
    traced = time.perf_counter()
    simulation = simulate_workload(settings, workload)
    simulation = replace(simulation, trace_seconds=traced - began, model_seconds=time.perf_counter() - traced)
    if settings.trace:
        simulation = replace(simulation, trace=_write_trace(simulation))
    if settings.csv:
        write_output(Path(settings.csv), render_layers(simulation).encode(), "--csv", CSV_MARK)
    if settings.html:
        write_output(Path(settings.html), render_report(simulation).encode(), "--html", REPORT_MARK)
    return simulation


def check_files(settings: SimulateSettings, marks: dict[str, bytes]) -> None:
    """Before the work: whether each file that was asked for can be written, and no two are the same.

    Args:
        marks: setting -> what stands in each of our files of that kind.

    Raises:
        UserError: naming the first that cannot be.
    """
    places: dict[Path, str] = {}
    for name, mark in marks.items():
        path = getattr(settings, name)
        if not path:
            continue
        option = option_name(name)
        check_file(Path(path), option, mark)
        other = places.setdefault(Path(path).resolve(), option)
        if other != option:
            raise UserError(f"{other} and {option} are both {path}: give two names")


def find_workload(settings: SimulateSettings) -> Workload:
    """The step: the list of GEMMs if there is one, or the model's, traced.

    Raises:
        UserError: for a list or a model that cannot be read.
    """
    if settings.gemms:
        return read_gemms(settings.gemms, settings.array_config(), RESULTS[settings.result])
    from .tracing import trace_workload  # here: it loads torch, for which a list of GEMMs need not wait

    try:
        return trace_workload(settings.workload, step_options(settings))
    except RuntimeError as error:
        if "overflow" not in str(error):
            raise
        # torch's own sizes are of 64 bits, also where nothing is stored.
        raise UserError(
            f"--batch {settings.batch} with --resolution {settings.resolution}: torch cannot even count the bytes of a tensor; "
            "give smaller sizes"
        ) from None


def step_options(settings: SimulateSettings) -> StepOptions:
    """What a step depends on, the model or the list aside."""
    return StepOptions(
        targets=settings.targets,
        adapt=settings.adapt,
        attention_products=settings.attention_products,
        rank=settings.rank,
        batch=settings.batch,
        resolution=settings.resolution,
        bus_bytes=settings.array_config().bus_bytes,
        result=RESULTS[settings.result],
    )


def _write_trace(simulation: Simulation) -> TraceExtent:
    settings, machine = simulation.settings, simulation.machine
    program, labels = step_program(simulation)
    events = program_events(machine, program, labels)
    shown = list(islice(events, settings.trace_events))
    complete = next(events, None) is None
    extent = TraceExtent(len(shown), complete, max(event.end for event in shown), simulation.step_cycles())
    notes = vars(extent) | {"command": simulation.provenance()["command"]}
    text = render_trace(machine.config, shown, notes)
    write_output(Path(settings.trace), text.encode(), "--trace", TRACE_MARK)
    return extent
