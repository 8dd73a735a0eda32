"""Small charts as inline SVG: horizontal bars and a roofline. No library, no script, readable in light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

WIDTH = 860
_LABEL = 250
_ROW = 22


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
    thick = _ROW if len(series) < 2 else 14
    parts, y = [_legend(series)], 26 if series else 4
    room = WIDTH - _LABEL - 120
    for bar in bars:
        height = thick * len(bar.values)
        parts.append(
            f'<text x="{_LABEL - 8}" y="{y + height / 2 + 4:.1f}" text-anchor="end">{escape(bar.label)}</text>'
        )
        for index, (value, text) in enumerate(zip(bar.values, bar.texts, strict=True)):
            top, width = y + index * thick, max(1.0, room * value / most if most else 0.0)
            note = f"<title>{escape(bar.note or f'{bar.label}: {text}')}</title>"
            box = f'x="{_LABEL}" y="{top + 2}" width="{width:.1f}" height="{thick - 4}" rx="2"'
            parts.append(f'<rect class="s{index}" {box}>{note}</rect>')
            parts.append(
                f'<text class="n" x="{_LABEL + width + 6:.1f}" y="{top + thick / 2 + 4:.1f}">{escape(text)}</text>'
            )
        y += height + 6
    return _svg(parts, y + 4)


def roofline(dots: Sequence[Dot], peak: float, slopes: Sequence[tuple[str, float]], series: Sequence[str]) -> str:
    """Rate over arithmetic intensity, both in logarithms, under the roof.

    Args:
        dots: x in operations a byte, y in 10**12 operations a second.
        peak: the flat part of the roof, in 10**12 operations a second.
        slopes: name and 10**9 bytes a second of the sloping parts.
    """
    height, left, top, bottom = 440, 64, 62, 396
    xs = [dot.x for dot in dots] + [1000 * peak / slope for _, slope in slopes]
    low_x, high_x = floor(log10(min(xs))), ceil(log10(max(xs)))
    low_y, high_y = floor(log10(min(dot.y for dot in dots))), ceil(log10(peak))

    def at_x(value: float) -> float:
        return left + (WIDTH - left - 20) * (log10(value) - low_x) / (high_x - low_x)

    def at_y(value: float) -> float:
        return bottom - (bottom - top) * (log10(value) - low_y) / (high_y - low_y)

    parts = [_legend(series)]
    for power in range(low_x, high_x + 1):
        x = at_x(10.0**power)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(f'<text class="n" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{10.0**power:g}</text>')
    for power in range(low_y, high_y + 1):
        y = at_y(10.0**power)
        parts.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{WIDTH - 20}" y2="{y:.1f}"/>')
        parts.append(f'<text class="n" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g}</text>')
    for index, (name, slope) in enumerate(slopes):
        ridge, start = 1000 * peak / slope, max(10.0**low_x, 1000 * 10.0**low_y / slope)
        points = [(start, slope * start / 1000), (ridge, peak), (10.0**high_x, peak)]
        line = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in points)
        parts.append(f'<polyline class="roof r{index}" points="{line}"><title>{escape(name)}</title></polyline>')
        # One name stands above its line, on the left; the other below its own.
        name_at = (start**0.6 * ridge**0.4, -10, "end") if index else (start**0.4 * ridge**0.6, 14, "start")
        x, y = at_x(name_at[0]), at_y(slope * name_at[0] / 1000)
        parts.append(
            f'<text class="n" x="{x:.1f}" y="{y + name_at[1]:.1f}" text-anchor="{name_at[2]}">{escape(name)}</text>'
        )
    for dot in sorted(dots, key=lambda dot: -dot.weight):
        place = f'cx="{at_x(dot.x):.1f}" cy="{at_y(dot.y):.1f}" r="{3 + 15 * dot.weight**0.5:.1f}"'
        parts.append(f'<circle class="s{dot.series}" {place}><title>{escape(dot.note)}</title></circle>')
    parts.append(
        f'<text class="n" x="{WIDTH / 2}" y="{height - 8}" text-anchor="middle">operations per byte of device memory</text>'
    )
    parts.append(f'<text class="n" x="{left - 40}" y="{top - 10}">10¹² operations/s</text>')
    return _svg(parts, height)


def _legend(series: Sequence[str]) -> str:
    """Names of the series on one row, or on two if they are many."""
    parts: list[str] = []
    left, row = (_LABEL, 0) if len(series) < 4 else (64, 0)
    x = float(left)
    for index, name in enumerate(series):
        width = 34 + 6.4 * len(name)
        if x + width > WIDTH:
            x, row = float(left), row + 1
        parts.append(f'<rect class="s{index}" x="{x:.0f}" y="{6 + 18 * row}" width="11" height="11" rx="2"/>')
        parts.append(f'<text class="n" x="{x + 16:.0f}" y="{16 + 18 * row}">{escape(name)}</text>')
        x += width
    return "".join(parts)


def _svg(parts: Sequence[str], height: float) -> str:
    body = "\n".join(part for part in parts if part)
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img">\n{body}\n</svg>'
