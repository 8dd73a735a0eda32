"""A run's page: one HTML file without links to anything outside it, rewritten whole at each checkpoint and validation."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from systolora.files import write_atomically
from systolora.hls.rendering import template_environment

PAGE_FILE = "run.html"
PAGE_MARK = "<!-- systolora run page -->"
WIDTH, HEIGHT = 640, 200
"""Of a curve's coordinates."""

_MOST_POINTS = 600
_KEEP = 0.95
"""Of the running mean, as in the progress line: about the last twenty steps."""

_MOST_PICTURES, _THUMBNAIL = 12, 224


@dataclass(frozen=True)
class Curve:
    """One plot: polylines by name as SVG points, and what stands at its corners; `spoken` describes it."""

    lines: Mapping[str, str]
    low: str
    high: str
    first: int
    last: int


@dataclass(frozen=True)
class PageFacts:
    """What the page shows.

    Attributes:
        run: content of run.json. rows: of the log. prompts, drawn: validation prompts, and (step, pictures by prompt).
        report: what ran where. forecast: name and value of what a cost model says of the step, if it was asked.
    """

    run: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    prompts: Sequence[str] = ()
    drawn: Sequence[tuple[int, Sequence[Path]]] = ()
    report: str = ""
    forecast: Sequence[tuple[str, str]] = field(default_factory=tuple)


def write_page(output: Path, facts: PageFacts) -> Path:
    """Writes `run.html`; readers see the page from before or this one.

    Raises:
        OSError: if it cannot be written.
    """
    path = output / PAGE_FILE
    write_atomically(path, render_page(facts).encode())
    return path


def render_page(facts: PageFacts) -> str:
    """The page's text."""
    template = template_environment("systolora.training", autoescape=True).get_template("run.html")
    return template.render(
        mark=PAGE_MARK,
        width=WIDTH,
        height=HEIGHT,
        run=facts.run,
        figures=_figures(facts),
        loss=_loss_curve(facts.rows),
        rate=_curve(facts.rows, {"learning rate": [row["learning_rate"] for row in facts.rows]}),
        prompts=list(facts.prompts),
        drawn=[
            (step, [_embedded(path) for path in paths])
            for step, paths in _some(list(facts.drawn), _MOST_PICTURES)[::-1]
        ],
        report=facts.report,
        forecast=list(facts.forecast),
        settings=[(name, _text(value)) for name, value in facts.run["settings"].items()],
        versions=list(facts.run["versions"].items()),
    )


def smoothed(values: Sequence[float]) -> list[float]:
    """The running mean that the progress line shows."""
    found, mean = [], 0.0
    for count, value in enumerate(values, 1):
        keep = min(_KEEP, 1 - 1 / count)
        mean = keep * mean + (1 - keep) * value
        found.append(mean)
    return found


def _figures(facts: PageFacts) -> list[tuple[str, str]]:
    run, rows = facts.run, facts.rows
    figures = [("step", f"{rows[-1]['step'] if rows else 0} of {run['settings']['steps']}")]
    if rows:
        figures.append(("loss, mean of about the last 20 steps", f"{smoothed([row['loss'] for row in rows])[-1]:.4f}"))
        last = rows[-20:]
        whole = sum(row["seconds"] for row in last) / len(last)
        device = sum(row.get("device_seconds", 0.0) for row in last) / len(last)
        split = f" = {device:.3f} s device + {whole - device:.3f} s host" if device else ", all on the host"
        figures.append(("time of a step, mean of the last 20", f"{whole:.3f} s{split}"))
    data = run["data"]
    skipped = f", {data['skipped']} skipped" if data["skipped"] else ""
    figures += [
        ("pictures", f"{data['pictures']}{skipped}; fingerprint {data['fingerprint'][:16]}"),
        ("seed", str(run["settings"]["seed"])),
        ("trackers", "; ".join([", ".join(run["trackers"]) or "none", *run["notes"]])),
        ("started", run["started"]),
        ("goes on after step", str(run["resumed_from"])),
    ]
    return figures if run["resumed_from"] else figures[:-1]


def _loss_curve(rows: Sequence[Mapping[str, Any]]) -> Curve | None:
    losses = [row["loss"] for row in rows]
    return _curve(rows, {"loss": losses, "mean of about 20 steps": smoothed(losses)})


def _curve(rows: Sequence[Mapping[str, Any]], values: Mapping[str, Sequence[float]]) -> Curve | None:
    """Lines over the steps, the axis from the least to the most; None before the second step."""
    if len(rows) < 2:
        return None
    steps = [row["step"] for row in rows]
    finite = [value for line in values.values() for value in line if math.isfinite(value)]
    low, high = min(finite), max(finite)
    tall = (high - low) or 1.0
    wide = steps[-1] - steps[0] or 1

    def points(line: Sequence[float]) -> str:
        kept = _some(list(zip(steps, line, strict=True)), _MOST_POINTS)
        return " ".join(
            f"{WIDTH * (step - steps[0]) / wide:.1f},{HEIGHT - HEIGHT * (value - low) / tall:.1f}"
            for step, value in kept
        )

    lines = {name: points(line) for name, line in values.items()}
    return Curve(lines, f"{low:.4g}", f"{high:.4g}", steps[0], steps[-1])


def _some(items: list[Any], most: int) -> list[Any]:
    """No more than `most` of them, evenly, the first and the last among them."""
    if len(items) <= most:
        return items
    return [items[round(number * (len(items) - 1) / (most - 1))] for number in range(most)]


def _embedded(path: Path) -> str:
    """A picture as a data URL, made smaller where it is larger than a thumbnail: a page of full ones would be tens of megabytes."""
    buffer = io.BytesIO()
    with Image.open(path) as picture:
        picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
        picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value) if value != "" else "(empty)"
