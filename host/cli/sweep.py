"""What `systolora simulate --sweep` prints: one line for each combination of the swept settings."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Sequence

from rich.console import Console
from systolora.cost.settings import SimulateSettings
from systolora.cost.sweep import Sweep, shown
from systolora.cost.sweep_report import run_sweep

from .options import make_console
from .simulate import millions
from .tables import Sheet, print_sheet


def run_sweeps(settings: SimulateSettings, texts: Sequence[str], jobs: int, json: bool) -> None:
    """Simulates and prints a table; with `json` it goes to standard error and one JSON line to standard output."""
    console = make_console(json)
    sweep = run_sweep(settings, texts, jobs)
    print_sweep(sweep, console)
    if json:
        print(jsonlib.dumps(sweep.as_dict()))


def print_sweep(sweep: Sweep, console: Console) -> None:
    """The table."""
    settings = sweep.settings
    axes = " x ".join(f"{len(axis.values)} {axis.name}" for axis in sweep.axes)
    console.print(f"{settings.gemms or settings.workload}: {len(sweep.points)} simulations, {axes}")
    console.print()
    print_sheet(console, _points(sweep))
    for file in (settings.html, settings.csv, settings.plot):
        if file:
            console.print(f"written: {file}", soft_wrap=True)


def _points(sweep: Sweep) -> Sheet:
    modelled = all(point.figures["energy_j"] is not None for point in sweep.points)
    names = [axis.name if axis.is_number else f"{axis.name}<" for axis in sweep.axes]
    columns = [*names, "seconds", "M cycles", "used", *(("DRAM MB", "energy J") if modelled else ()), "bottleneck<"]
    rows = []
    for point in sweep.points:
        figures = point.figures
        row = [*(shown(value) for value in point.values), f"{figures['seconds']:.4g}", millions(figures["cycles"])]
        row.append(f"{figures['utilization']:.1%}")
        if modelled:
            row += [f"{figures['dram_bytes'] / 1e6:,.1f}", f"{figures['energy_j']:.4g}"]
        rows.append([*row, str(figures["bottleneck"])])
    return Sheet("the step with its quantizations, on the accelerator", columns, rows, keys=len(names))
