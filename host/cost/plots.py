"""The plot of a sweep: one panel for each of what a step takes, one line for each combination of the other settings."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .sweep import Axis, Point, Sweep, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLOT_MARK = b"systolora simulate"
"""In the metadata of every plot."""

PLOT_FORMATS = (".svg", ".png")

_INCHES = 6.1
"""Width of a panel: 440 pixels, as wide as the other charts of a report."""

_MARKERS = "osD^vPX*"
_WIDE = 8.0
"""From this ratio of the largest to the smallest value on, an axis is logarithmic."""


@dataclass(frozen=True)
class Panel:
    """One measure of a step: key of `Simulation.step_figures`, title, and the factor that brings it to the title's unit."""

    key: str
    title: str
    factor: float = 1.0


PANELS = (
    Panel("seconds", "Seconds of a step"),
    Panel("utilization", "Used of the array, %", 100.0),
    Panel("energy_j", "Energy of a step, J"),
    Panel("dram_bytes", "Device memory moved, GB", 1e-9),
)


def drawn_panels(sweep: Sweep) -> tuple[Panel, ...]:
    """The panels that the sweep has figures for."""
    return tuple(panel for panel in PANELS if all(point.figures[panel.key] is not None for point in sweep.points))


def draw_plot(sweep: Sweep, suffix: str) -> bytes:
    """All panels in one picture; `suffix` is one of `PLOT_FORMATS`."""
    return _draw(sweep, drawn_panels(sweep), suffix, titles=True)


def draw_panel(sweep: Sweep, panel: Panel) -> bytes:
    """One panel as SVG, for a page that has its title."""
    return _draw(sweep, (panel,), ".svg", titles=False)


def _draw(sweep: Sweep, panels: tuple[Panel, ...], suffix: str, titles: bool) -> bytes:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    lines = _lines(sweep)
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    legend_columns, legend_rows = _legend_size([name for name, _ in lines], columns)
    legend = 0.22 * legend_rows if len(lines) > 1 else 0.0
    # Without a salt the ids in an SVG, and so its bytes, would differ from run to run.
    with rc_context({"svg.hashsalt": "systolora", "svg.fonttype": "none", "font.size": 11}):
        figure = Figure(figsize=(_INCHES * columns, 3.4 * rows + legend), dpi=110, layout="constrained")
        for axes, panel in zip(figure.subplots(rows, columns, squeeze=False).flat, panels, strict=False):
            _draw_lines(axes, sweep, panel)
            axes.set_title(panel.title if titles else "", fontsize=11)
        if len(lines) > 1:
            handles, names = figure.axes[0].get_legend_handles_labels()
            figure.legend(handles, names, loc="outside lower center", ncols=legend_columns, frameon=False, fontsize=10)
        picture = io.BytesIO()
        by = {".svg": {"Creator": PLOT_MARK.decode(), "Date": None}, ".png": {"Software": PLOT_MARK.decode()}}
        figure.savefig(picture, format=suffix[1:], metadata=by[suffix])
    return picture.getvalue()


def _legend_size(names: list[str], columns: int) -> tuple[int, int]:
    """Columns and rows of a legend whose lines all stand in it."""
    across = max(1, min(len(names), int(columns * 56 // (max(len(name) for name in names) + 6))))
    return across, -(-len(names) // across)


def _along(sweep: Sweep) -> Axis:
    """The setting along the horizontal axis: of those that are numbers the one with most values, else the first."""
    numbers = [axis for axis in sweep.axes if axis.is_number]
    return max(numbers or sweep.axes[:1], key=lambda axis: len(axis.values))


def _lines(sweep: Sweep) -> list[tuple[str, list[Point]]]:
    """The points by the values of all settings but the one along the axis."""
    along = sweep.axes.index(_along(sweep))
    lines: dict[str, list[Point]] = {}
    for point in sweep.points:
        parts = [
            f"{axis.name} {shown(value)}"
            for index, (axis, value) in enumerate(zip(sweep.axes, point.values, strict=True))
            if index != along
        ]
        lines.setdefault(", ".join(parts), []).append(point)
    return list(lines.items())


def _draw_lines(axes: Axes, sweep: Sweep, panel: Panel) -> None:
    from matplotlib import colormaps

    along, lines = _along(sweep), _lines(sweep)
    index = sweep.axes.index(along)
    shades = 10 if len(lines) <= 10 else 20
    colours = colormaps[f"tab{shades}"](range(shades))
    places = list(along.values) if along.is_number else list(range(len(along.values)))
    where = dict(zip(along.values, places, strict=True))
    heights: list[float] = []
    for number, (name, points) in enumerate(lines):
        along_points = sorted(points, key=lambda point: where[point.values[index]])
        values = [panel.factor * point.figures[panel.key] for point in along_points]
        heights += values
        style = {"color": colours[number % shades], "marker": _MARKERS[number % len(_MARKERS)]}
        # Between names there is nothing that a line could show.
        style |= {"markersize": 4} if along.is_number else {"markersize": 7, "linestyle": "none"}
        axes.plot([where[point.values[index]] for point in along_points], values, label=name or None, **style)
    axes.set_xlabel(along.name)
    if along.is_number and min(places) > 0 and max(places) >= _WIDE * min(places):
        axes.set_xscale("log")
    axes.set_xticks(places, [shown(value) for value in along.values])
    axes.minorticks_off()
    axes.margins(x=0.05 if along.is_number else 0.2)
    if min(heights) > 0 and max(heights) >= 2 * _WIDE * min(heights):
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 1.08 * max(heights) or 1.0)
    axes.grid(alpha=0.25)
