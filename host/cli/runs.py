"""`systolora runs`: the runs of a folder and what became of them."""

from __future__ import annotations

import json as jsonlib
import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from systolora.errors import UserError
from systolora.training.run_record import RunSummary, find_runs

from .options import GroupedCommand, Json, make_console
from .tables import Sheet, print_sheet

_COLUMNS = ("run<", "outcome<", "step", "of", "loss", "started<")


def add_commands(app: typer.Typer) -> None:
    """Adds the command to the application."""

    @app.command(cls=GroupedCommand)
    def runs(
        folder: Annotated[Path, typer.Argument(help="Folder with runs in it, at any depth.")] = Path("."),
        json: Json = False,
    ) -> None:
        """List the training runs of a folder with their outcome: running, finished, interrupted, failed or killed."""
        list_runs(folder, json)


def list_runs(folder: Path, json: bool) -> None:
    """Prints a table of the runs, by the time that they started, and below it why runs ended early.

    Raises:
        UserError: for a folder that is not there.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; give one with runs of systolora train in it")
    found = find_runs(folder)
    console = make_console(json)
    if not found:
        console.print(f"{folder}: no runs of systolora train in it", soft_wrap=True)
    else:
        _print(console, folder, found)
    if json:
        print(jsonlib.dumps([_plain(summary) for summary in found]))


def _print(console: Console, folder: Path, found: list[RunSummary]) -> None:
    rows = [
        (
            str(summary.folder.relative_to(folder)),
            summary.outcome,
            f"{summary.step:,}",
            f"{summary.steps:,}",
            "-" if math.isnan(summary.loss) else f"{summary.loss:.4f}",
            summary.started,
        )
        for summary in found
    ]
    print_sheet(console, Sheet("", _COLUMNS, rows))
    for summary in found:
        if summary.message:
            console.print(f"{summary.folder.relative_to(folder)}: {summary.message}", soft_wrap=True)


def _plain(summary: RunSummary) -> dict[str, object]:
    loss = None if math.isnan(summary.loss) else summary.loss
    return {**asdict(summary), "folder": str(summary.folder), "loss": loss}
