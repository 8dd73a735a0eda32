"""Commands for LoRA adapters of any tool: convert."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .options import GroupedCommand, Json, make_console


def add_commands(app: typer.Typer) -> None:
    """Adds this module's commands to the command line."""
    app.command(cls=GroupedCommand)(convert)


def convert(
    adapter: Annotated[
        Path, typer.Argument(help="A LoRA as diffusers, peft or kohya's tools save it: file or folder.")
    ],
    to: Annotated[str, typer.Option(help="Whose names it gets: kohya (also ComfyUI, A1111), diffusers, peft.")],
    out: Annotated[Path, typer.Option(help="File to write; for peft a folder.")],
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.", show_default=False)] = False,
    json: Json = False,
) -> None:
    """Write a LoRA adapter under the names of another tool, with the same values and alpha."""
    from systolora.adapters.convert import convert_adapter

    done = convert_adapter(adapter, to, out, force)
    make_console(json).print(str(done), soft_wrap=True)
    if json:
        print(jsonlib.dumps(asdict(done)))
