"""Small charts as inline SVG: horizontal bars and a roofline. No library, no script, readable in light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

WIDTH = 440
"""Drawn as wide as a phone shows it: a page sets charts beside each other where it has room, and text keeps its size."""

_VALUE = 118
_ROW = 16
_SIGN = 6.3
"""Width of a letter of the small text, about."""


@dataclass(frozen=True)
class Bar:
    """A row of a bar chart: values are drawn side by side below each other, one for each series."""

    label: str
    values: tuple[float, ...]
    texts: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True)
class Dot:
    """A point of a roofline; its area follows `weight` (0 to 1)."""

    x: float
    y: float
    weight: float
    series: int
    note: str


def bar_chart(bars: Sequence[Bar], most: float, series: Sequence[str] = ()) -> str:
    """Horizontal bars, scaled so that `most` is full width.

    Args:
        series: names of the values of each bar, for the legend; none if there is one.
    """
    thick = _ROW if len(series) < 2 else 13
    parts, y = _legend([(name, f"s{index}") for index, name in enumerate(series)])
    room = WIDTH - _VALUE
    for bar in bars:
        parts.append(f'<text x="0" y="{y + 12}">{escape(_short(bar.label))}</text>')
        y += 17
        for index, (value, text) in enumerate(zip(bar.values, bar.texts, strict=True)):
            top, width = y + index * thick, max(1.0, room * value / most if most else 0.0)
            note = f"<title>{escape(bar.note or f'{bar.label}: {text}')}</title>"
            box = f'x="0" y="{top}" width="{width:.1f}" height="{thick - 3}" rx="2"'
            parts.append(f'<rect class="s{index}" {box}>{note}</rect>')
            parts.append(f'<text class="n" x="{width + 6:.1f}" y="{top + thick / 2 + 3:.1f}">{escape(text)}</text>')
        y += thick * len(bar.values) + 6
    return _svg(parts, y)


def roofline(dots: Sequence[Dot], peak: float, slopes: Sequence[tuple[str, float]], series: Sequence[str]) -> str:
    """Rate over arithmetic intensity, both in logarithms, under the roof.

    Args:
        dots: x in operations a byte, y in 10**12 operations a second.
        peak: the flat part of the roof, in 10**12 operations a second.
        slopes: name and 10**9 bytes a second of the sloping parts.
    """
    colours = [(name, f"s{index % 10}") for index, name in enumerate(series)]
    lines = [(name, f"roof r{index}") for index, (name, _) in enumerate(slopes)]
    parts, legend = _legend([*colours, *lines])
    left, top = 40, legend + 22
    bottom, height = top + 280, top + 318
    xs = [dot.x for dot in dots] + [1000 * peak / slope for _, slope in slopes]
    low_x, high_x = floor(log10(min(xs))), ceil(log10(max(xs)))
    low_y, high_y = floor(log10(min(dot.y for dot in dots))), ceil(log10(peak))

    def at_x(value: float) -> float:
        return left + (WIDTH - left - 16) * (log10(value) - low_x) / (high_x - low_x)

    def at_y(value: float) -> float:
        return bottom - (bottom - top) * (log10(value) - low_y) / (high_y - low_y)

    for power in range(low_x, high_x + 1):
        x = at_x(10.0**power)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(f'<text class="n" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{10.0**power:g}</text>')
    for power in range(low_y, high_y + 1):
        y = at_y(10.0**power)
        parts.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{WIDTH - 16}" y2="{y:.1f}"/>')
        parts.append(f'<text class="n" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g}</text>')
    for index, (name, slope) in enumerate(slopes):
        ridge, start = 1000 * peak / slope, max(10.0**low_x, 1000 * 10.0**low_y / slope)
        points = [(start, slope * start / 1000), (ridge, peak), (10.0**high_x, peak)]
        line = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in points)
        parts.append(f'<polyline class="roof r{index}" points="{line}"><title>{escape(name)}</title></polyline>')
    for dot in sorted(dots, key=lambda dot: -dot.weight):
        place = f'cx="{at_x(dot.x):.1f}" cy="{at_y(dot.y):.1f}" r="{2.5 + 11 * dot.weight**0.5:.1f}"'
        parts.append(f'<circle class="s{dot.series}" {place}><title>{escape(dot.note)}</title></circle>')
    parts.append(
        f'<text class="n" x="{(left + WIDTH) / 2:.0f}" y="{height - 4}" text-anchor="middle">operations per byte of device memory</text>'
    )
    parts.append(f'<text class="n" x="0" y="{top - 8}">10¹² operations/s</text>')
    return _svg(parts, height)


def _legend(entries: Sequence[tuple[str, str]]) -> tuple[list[str], int]:
    """Names beside a sample of their colour or line, in as many rows as they need; and the height of all."""
    parts: list[str] = []
    x, y = 0.0, 0
    for full, style in entries:
        name = _short(full)
        width = 34 + _SIGN * len(name)
        if x and x + width > WIDTH:
            x, y = 0.0, y + 18
        if style.startswith("roof"):
            parts.append(f'<line class="{style}" x1="{x:.0f}" y1="{y + 8}" x2="{x + 16:.0f}" y2="{y + 8}"/>')
        else:
            parts.append(f'<rect class="{style}" x="{x:.0f}" y="{y + 2}" width="11" height="11" rx="2"/>')
        parts.append(f'<text class="n" x="{x + 21:.0f}" y="{y + 12}">{escape(name)}</text>')
        x += width
    return parts, y + 24 if entries else 0


def _short(name: str) -> str:
    """A name that fits the width: of a longer one the beginning and the end; the bar's note and the tables have all of it."""
    most = int(WIDTH / _SIGN) - 4
    return name if len(name) <= most else f"{name[: most // 2]} ... {name[-(most // 2 - 4) :]}"


def _svg(parts: Sequence[str], height: float) -> str:
    body = "\n".join(part for part in parts if part)
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img">\n{body}\n</svg>'
