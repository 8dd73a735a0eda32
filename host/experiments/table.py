"""The tables of `docs/intlora.md`, in Markdown, made from the rows of the experiment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev

from systolora.errors import UserError
from systolora.files import write_atomically

from .cells import Row
from .claims import claim_table

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
"""Between these lines of the page the tables are replaced."""

_HEAD = (
    "| method | seeds | concept | Frechet | held-out loss | weight error | training, CPU s | kB | integer bits |\n"
    "|---|---|---|---|---|---|---|---|---|\n"
)


def page_tables(rows: list[Row], steps: int) -> str:
    """All tables: means over seeds, and the standard deviation where there are several."""
    text = f"Made by `systolora experiment intlora --steps {steps}`; mean ± standard deviation over the seeds.\n"
    others = [row for row in rows if ", 4 bits: " in row.label]
    for setting in dict.fromkeys(row.setting for row in rows):
        text += f"\n### {setting}\n\n{_table([r for r in rows if r.setting == setting and r not in others])}"
    claimed = claim_table(rows)
    if claimed:
        text += f"\n### Claims\n\n{claimed}"
    exponents = [row for row in others if " ratio, " in row.label]
    remedies = [row for row in others if row not in exponents]
    if remedies:
        text += f"\n### Each change alone, W4A8\n\n{_table(remedies)}"
    if exponents:
        text += f"\n### Variance matching, IntLoRA_MUL mended, W4A8\n\n{_table(exponents)}"
    return text


def update_page(page: Path, tables: str) -> None:
    """Puts the tables between the page's markers.

    Raises:
        UserError: if the page has no markers.
    """
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    before, found, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise UserError(f"--page {page}: it needs the two lines {BEGIN!r} and {END!r}, between which the tables go")
    write_atomically(page, f"{before}{BEGIN}\n\n{tables}\n{END}{after}".encode())


def _table(rows: list[Row]) -> str:
    lines = []
    for label in dict.fromkeys(row.label for row in rows):
        same = [row for row in rows if row.label == label]
        cells = [
            label,
            str(len(same)),
            _spread([row.concept for row in same], "{:.1%}".format),
            _spread([row.frechet for row in same], "{:.1f}".format),
            _spread([row.loss for row in same], "{:.4f}".format),
            _spread([row.error for row in same], "{:.2%}".format),
            _spread([row.seconds for row in same], "{:.0f}".format),
            f"{mean(row.bytes for row in same) / 1000:.0f}",
            "float"
            if same[0].setting == "float32" or "float adapter" in label
            else str(max(row.width for row in same)),
        ]
        lines.append("| " + " | ".join(cells) + " |\n")
    return _HEAD + "".join(lines)


def _spread(values: list[float], show: Callable[[float], str]) -> str:
    return show(mean(values)) + (f" ± {show(stdev(values))}" if len(values) > 1 else "")
