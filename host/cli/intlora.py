"""Commands for integer adapters: merge, export, inspect, experiment."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from systolora.errors import UserError

from .options import CommandGroup, GroupedCommand, Json, make_console

Form = Annotated[
    str,
    typer.Option(help="term: for a merge in integers alone; diffusers: a pipeline with the merged weights."),
]

ModelConfig = Annotated[
    str,
    typer.Option(
        help="For a .safetensors file: pipeline folder with its configurations and tokenizers.", show_default=False
    ),
]


def add_commands(app: typer.Typer) -> None:
    """Adds this module's commands to the command line."""
    for command in (merge, export, inspect):
        app.command(cls=GroupedCommand)(command)
    app.add_typer(experiment, name="experiment")


def merge(
    adapter: Annotated[Path, typer.Argument(help="intlora_adapter.safetensors, or a term file of `export`.")],
    out: Annotated[Path, typer.Option(help="File of the merged integers.")],
    model: Annotated[
        str, typer.Option(help="Model that it was trained on, as for train; not for a term file.", show_default=False)
    ] = "",
    model_config: ModelConfig = "",
    json: Json = False,
) -> None:
    """Merge an IntLoRA adapter into integer weights: a term file by integer multiply or shift alone, an adapter with its model."""
    from systolora.intlora.export import merge_file

    report = merge_file(adapter, out, model or None, model_config)
    make_console(json).print(str(report), soft_wrap=True)
    if json:
        print(jsonlib.dumps(asdict(report)))


def export(
    file: Annotated[Path, typer.Argument(help="IntLoRA adapter or merged file.")],
    out: Annotated[Path, typer.Option(help="File (term) or new folder (diffusers).")],
    model: Annotated[str, typer.Option(help="Model that it was trained on, as for train.")],
    form: Form = "diffusers",
    model_config: ModelConfig = "",
) -> None:
    """Write an IntLoRA adapter in another form."""
    from systolora.intlora.export import export_file

    print(export_file(file, out, model, form, model_config))


def inspect(
    file: Annotated[Path, typer.Argument(help="A safetensors file: adapter, IntLoRA file, or any.")],
    json: Json = False,
) -> None:
    """Say what a file holds, and check it where it carries a checksum."""
    from .inspect_file import inspect_file

    found = inspect_file(file)
    console = make_console(json)
    console.print(found.kind)
    for name, value in found.facts.items():
        console.print(f"  {name}: {value}", soft_wrap=True)
    # Lines, not a table: at 80 columns a table cuts the ends of names, in which layers differ.
    width = max((len(name) for name, _ in found.layers), default=0)
    for name, text in found.layers:
        console.print(f"{name:{width}s}  {text}", soft_wrap=True)
    if json:
        print(jsonlib.dumps(found.as_dict()))


experiment = typer.Typer(
    help="Repeat an experiment and write its table.", no_args_is_help=True, rich_markup_mode=None, cls=CommandGroup
)


@experiment.callback()
def _experiments() -> None:
    """Repeat an experiment and write its table."""


@experiment.command(cls=GroupedCommand)
def intlora(
    out: Annotated[Path, typer.Option(help="Folder of cached results; a second call goes on from there.")] = Path(
        "intlora-out"
    ),
    seeds: Annotated[
        int, typer.Option(min=1, max=1000, help="How many seeds; the side tables take three at most.")
    ] = 6,
    steps: Annotated[int, typer.Option(min=1, max=1_000_000, help="Steps of each training.")] = 200,
    quick: Annotated[
        bool, typer.Option(help="One seed, four steps, 4 bits: seconds; the figures mean nothing.")
    ] = False,
    cached: Annotated[bool, typer.Option(help="Train nothing: tables of what is in the folder.")] = False,
    workers: Annotated[
        int, typer.Option(min=1, max=256, help="Processes that train at once, one CPU thread each.")
    ] = 1,
    page: Annotated[Path | None, typer.Option(help="Markdown page between whose markers the tables are put.")] = None,
) -> None:
    """IntLoRA beside LoRA, QLoRA and quantization-aware LoRA, W8A8 and W4A8, on the demo model."""
    from systolora.experiments.intlora import ExperimentSettings, run_experiment
    from systolora.experiments.table import update_page

    if page is not None and not page.is_file():
        raise UserError(f"--page {page}: there is no such file")
    console = make_console()
    settings = ExperimentSettings(out, seeds, steps, quick, cached, workers)
    table = run_experiment(settings, lambda line: console.print(line, soft_wrap=True, markup=False, highlight=False))
    if page is not None:
        update_page(page, table.read_text(encoding="utf-8"))
    print(page or table)
