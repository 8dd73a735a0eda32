"""Tables that fit the terminal: where one is too wide it goes on below, in blocks that begin with the same columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

_GAP = 1
_LEAST = 24
"""A name is folded to no fewer columns of the terminal than these; fewer than these beside the keys are no room."""


@dataclass(frozen=True)
class Sheet:
    """A table as text.

    Attributes:
        title: above it. columns: names; a name that ends in `<` is a column of words and stands left.
        rows: one text a column. keys: how many of the first columns say what a row is; each block begins with them.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    keys: int = 1


def print_sheet(console: Console, sheet: Sheet) -> None:
    """Prints a table in as many blocks as the width needs. No cell is cut; long names are folded."""
    if sheet.title:
        console.print(sheet.title)
    widths = [
        max([cell_len(name.rstrip("<")), *(cell_len(row[index]) for row in sheet.rows)])
        for index, name in enumerate(sheet.columns)
    ]
    keys = list(range(sheet.keys))
    _fold_keys(widths, sheet.keys, console.width)
    room = max(console.width - sum(widths[key] + _GAP for key in keys), _LEAST)
    for number, block in enumerate(_blocks(widths, sheet.keys, room)):
        if number:
            console.print()
        console.print(_table(sheet, [*keys, *block], widths))


def _fold_keys(widths: list[int], keys: int, width: int) -> None:
    """Where the whole table is too wide and a key is long, the longest is narrowed, down to `_LEAST`, before columns go below."""
    longest = max(range(keys), key=widths.__getitem__)
    excess = sum(widths) + _GAP * (len(widths) - 1) - width
    if excess > 0 and widths[longest] > _LEAST:
        widths[longest] = max(_LEAST, widths[longest] - excess)


def _blocks(widths: Sequence[int], keys: int, room: int) -> list[list[int]]:
    """The columns behind the keys, in blocks that are as wide as the room."""
    blocks: list[list[int]] = [[]]
    used = 0
    for index in range(keys, len(widths)):
        need = widths[index] + (_GAP if blocks[-1] else 0)
        if blocks[-1] and used + need > room:
            blocks.append([])
            used, need = 0, widths[index]
        blocks[-1].append(index)
        used += need
    return blocks


def _table(sheet: Sheet, columns: Sequence[int], widths: Sequence[int]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), width=None)
    for index in columns:
        name = sheet.columns[index]
        words = name.endswith("<")
        # Where the keys leave too little room they are folded, never a figure.
        table.add_column(
            name.rstrip("<"),
            justify="left" if words else "right",
            overflow="fold",
            max_width=widths[index],
            no_wrap=index >= sheet.keys and not words,
        )
    for row in sheet.rows:
        table.add_row(*(row[index] for index in columns))
    return table
