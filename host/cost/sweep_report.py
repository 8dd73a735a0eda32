"""What a sweep leaves behind: its points as CSV, its plot, and an HTML report with both."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from systolora.errors import UserError
from systolora.hls.rendering import template_environment
from systolora.outputs import write_output

from .layer_csv import CSV_MARK, render_csv
from .plots import PLOT_FORMATS, PLOT_MARK, draw_panel, draw_plot, drawn_panels
from .report import REPORT_MARK, provenance_sections
from .run import check_files
from .settings import SimulateSettings, check_simulation
from .sweep import Sweep, read_axes, shown, simulate_points, sweep_points


def run_sweep(settings: SimulateSettings, texts: Sequence[str], jobs: int = 1) -> Sweep:
    """Simulates every combination of the swept settings and writes the files that were asked for.

    Args:
        texts: `name=value,value` for each setting that is swept. jobs: processes.

    Raises:
        UserError, ConfigError: for settings that are not allowed, and files that could not be written; before any work.
    """
    check_simulation(settings)
    axes = read_axes(texts, settings)
    if settings.trace:
        raise UserError("--trace with --sweep: a trace shows one simulation; leave one of them out")
    if settings.plot and Path(settings.plot).suffix.lower() not in PLOT_FORMATS:
        raise UserError(f"--plot {settings.plot}: the name must end in {' or '.join(PLOT_FORMATS)}")
    check_files(settings, {"html": REPORT_MARK, "csv": CSV_MARK, "plot": PLOT_MARK})
    sweep = Sweep(settings, axes, simulate_points(sweep_points(settings, axes), jobs))
    if settings.csv:
        write_output(Path(settings.csv), render_points(sweep).encode(), "--csv", CSV_MARK)
    if settings.plot:
        picture = draw_plot(sweep, Path(settings.plot).suffix.lower())
        write_output(Path(settings.plot), picture, "--plot", PLOT_MARK)
    if settings.html:
        write_output(Path(settings.html), render_sweep(sweep).encode(), "--html", REPORT_MARK)
    return sweep


def render_points(sweep: Sweep) -> str:
    """One line of CSV a point: the swept settings, then the figures of the step."""
    names = [axis.name for axis in sweep.axes]
    # A swept setting may be called as a figure is (dataflow); its column is there once, and both say the same.
    figures = [name for name in sweep.points[0].figures if name not in names]
    rows = [{**point.figures, **dict(zip(names, point.values, strict=True))} for point in sweep.points]
    return render_csv([*names, *figures], rows)


def render_sweep(sweep: Sweep) -> str:
    """The report as HTML: one file that needs nothing from elsewhere."""
    panels = [(panel, b64encode(draw_panel(sweep, panel)).decode()) for panel in drawn_panels(sweep)]
    template = template_environment("systolora.cost", autoescape=True).get_template("sweep.html")
    return template.render(
        title=f"{len(sweep.points)} simulations",
        swept=[(axis.name, ", ".join(shown(value) for value in axis.values)) for axis in sweep.axes],
        workload=sweep.settings.gemms or sweep.settings.workload,
        panels=panels,
        names=[axis.name for axis in sweep.axes],
        rows=[([shown(value) for value in point.values], _cells(point.figures)) for point in sweep.points],
        provenance=provenance_sections(sweep.provenance(), " (but for what is swept)"),
    )


def _cells(figures: dict[str, Any]) -> list[str]:
    """The figures of a point, in the order of the report's columns."""
    moved, spent = figures["dram_bytes"], figures["energy_j"]
    return [
        f"{figures['seconds']:.4g}",
        f"{figures['cycles']:,}",
        f"{figures['quantize_cycles']:,}",
        f"{100 * figures['utilization']:.1f} %",
        "not modelled" if moved is None else f"{moved / 1e6:,.1f}",
        "not modelled" if spent is None else f"{spent:.4g}",
        str(figures["bottleneck"]),
    ]
