"""Commands for those who change the hardware: generate, csim, lint, boards, bitstream."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from systolora.errors import UserError
from systolora.hls.config import ArrayConfig, board_config
from systolora.options import setting

from .options import Json, options_from


@dataclass(frozen=True)
class ArrayOptions:
    """The options that name an accelerator; what is not given comes from the board's preset, or is 64 x 64."""

    board: str = setting("", "preset: see systolora boards")
    rows: int = setting(64, "rows of PEs")
    cols: int = setting(64, "columns of PEs")
    input_bytes: int = setting(ArrayConfig.input_bytes, "input memory, both halves")
    weight_bytes: int = setting(ArrayConfig.weight_bytes, "weight memory, both halves")
    output_bytes: int = setting(ArrayConfig.output_bytes, "output memory, both halves")
    bus_bytes: int = setting(ArrayConfig.bus_bytes, "bytes of a device memory word")
    clock_mhz: float = setting(ArrayConfig.clock_mhz, "clock of the array")
    packed_dsp: bool = setting(ArrayConfig.packed_dsp, "two INT8 products in one DSP")


def config_from(given: dict[str, Any]) -> ArrayConfig:
    """The accelerator that the given options of `ArrayOptions` name.

    Raises:
        ConfigError: for an unknown board, or sizes that cannot be built.
    """
    changes = {name: value for name, value in given.items() if name != "board"}
    base = board_config(given["board"]) if given.get("board") else ArrayConfig()
    return base.with_changes(**changes)


def add_commands(app: typer.Typer) -> None:
    """Adds this module's commands to the command line."""
    for command in (generate, csim, lint, boards):
        app.command()(command)
    app.add_typer(bitstream, name="bitstream")


@options_from(ArrayOptions)
def generate(
    *,
    out: Annotated[Path, typer.Option(help="Folder of the project; made if needed.")],
    json: Json = False,
    **given: Any,
) -> None:
    """Write a complete Vitis HLS project: C++, test bench with golden data, scripts up to the bitstream."""
    from systolora.hls.budget import require_fit
    from systolora.hls.generate import write_project
    from systolora.hls.scripts import missing_scripts
    from systolora.sim.csim.golden import write_golden

    config = config_from(given)
    require_fit(config)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: it is a file; give a folder")
    files = [*write_project(config, out), write_golden(config, out)]
    console = Console(stderr=json)
    console.print(
        f"{config.rows} x {config.cols} array, fingerprint {config.fingerprint_text}: {len(files)} files in {out}"
    )
    console.print(f"test bench without Python: make -C {out} csim")
    if missing := missing_scripts(config):
        console.print(missing)
    if json:
        print(
            jsonlib.dumps(
                {"folder": str(out), "fingerprint": config.fingerprint_text, "files": [str(file) for file in files]}
            )
        )


@options_from(ArrayOptions)
def csim(
    *,
    m: Annotated[int, typer.Option(min=1, help="Rows of A and C.")] = 77,
    n: Annotated[int, typer.Option(min=1, help="Columns of B and C.")] = 320,
    k: Annotated[int, typer.Option(min=1, help="Columns of A, rows of B.")] = 768,
    dataflow: Annotated[str, typer.Option(help="ws, os, or auto.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of the operands.")] = 0,
    json: Json = False,
    **given: Any,
) -> None:
    """Compile the accelerator's C++ and run one GEMM on it; compare with the exact product and the predicted counters."""
    from .csim_trial import run_trial

    trial = run_trial(config_from(given), m, n, k, dataflow, seed)
    console = Console(stderr=json)
    table = Table("counter", "C-simulation", "predicted", box=None)
    for name, value in asdict(trial.counters).items():
        table.add_row(name, f"{value:,}", f"{asdict(trial.predicted)[name]:,}")
    console.print(table)
    console.print(
        f"{trial.mismatches} of {m * n} results differ from the exact product; {trial.seconds:.3f} s, {trial.dataflow}"
    )
    if json:
        print(jsonlib.dumps(trial.as_dict()))
    if trial.mismatches or trial.counters != trial.predicted:
        raise typer.Exit(1)


def lint(
    folder: Annotated[Path, typer.Argument(help="Folder with HLS C++ (a generated project, or any).")],
    json: Json = False,
) -> None:
    """Check HLS C++ for what Vitis does not synthesize or silently ignores (docs/lint.md lists the rules)."""
    from systolora.sim.lint.run import run_lint

    raise typer.Exit(run_lint(folder, json))


def boards(json: Json = False) -> None:
    """What fits where: each board's budget, the preset's estimate, the largest array."""
    from systolora.hls.budget import boards_table

    rows: list[dict[str, Any]] = boards_table()
    if json:
        print(jsonlib.dumps(rows))
        return
    table = Table("board", "part", "preset", "MHz", "DSP", "LUT", "FF", "BRAM", "URAM", "largest", box=None)
    for row in rows:
        preset, largest = row["preset"], row["largest"]
        use = [f"{preset['shares'][name]:.0%}" for name in ("dsp", "lut", "ff", "bram36", "uram")]
        size = f"{preset['rows']} x {preset['cols']}"
        table.add_row(
            row["name"], row["part"], size, f"{preset['clock_mhz']:.1f}", *use, f"{largest['rows']} x {largest['cols']}"
        )
    Console().print(table)
    print("Estimated use of the preset, before any tool has run; numbers with --json, formulas in hls/resources.py.")


bitstream = typer.Typer(help="List, verify, fetch and build bitstreams.", no_args_is_help=True)


@bitstream.command("list")
def list_bitstreams(json: Json = False) -> None:
    """The bitstreams that are here, and whether they are built or only emulated."""
    from systolora.bitstreams.store import list_folders

    manifests = list_folders()
    if json:
        print(jsonlib.dumps([{"board": m.board, "kind": m.kind, "fingerprint": m.fingerprint} for m in manifests]))
        return
    for manifest in manifests:
        what = "built" if manifest.kind == "built" else "emulated: register map and hand-off file only, no bitstream"
        print(f"{manifest.board:10s} {manifest.fingerprint}  {what}")


Board = Annotated[str, typer.Option(help="Preset of the board.")]


@bitstream.command()
def verify(
    board: Annotated[str, typer.Option(help="Preset of the board.")] = "",
    folder: Annotated[Path | None, typer.Option(help="Any folder with a manifest.json, instead.")] = None,
) -> None:
    """Check a board's files against their manifest."""
    from systolora.bitstreams.store import PACKAGE
    from systolora.bitstreams.store import verify as differences

    if not board and folder is None:
        raise UserError("bitstream verify: give --board or --folder")
    place = folder or PACKAGE / board_config(board).board
    found = differences(place)
    for line in found:
        print(line)
    print(f"{place}: {'as its manifest says' if not found else f'{len(found)} differences'}")
    raise typer.Exit(1 if found else 0)


@bitstream.command()
def fetch(
    board: Board,
    source: Annotated[str, typer.Option(help="URL or folder that holds BOARD/manifest.json and its files.")],
    cache: Annotated[Path, typer.Option(help="Where it goes.")] = Path("~/.cache/systolora/bitstreams"),
) -> None:
    """Copy a board's bitstream from a URL or a folder, checked by its checksums."""
    from systolora.bitstreams.store import fetch as copy

    print(copy(board_config(board).board, source, cache.expanduser()))


@bitstream.command()
def build(
    board: Board,
    out: Annotated[Path, typer.Option(help="Folder for the project.")] = Path("build"),
    results: Annotated[Path | None, typer.Option(help="What an earlier build left: check it and take it over.")] = None,
) -> None:
    """Build a board's bitstream with Vitis and Vivado, if they are installed, and record it."""
    from systolora.board.bitstream_build import build_bitstream

    manifest = build_bitstream(board_config(board), out / board, results)
    print(
        f"{manifest.board}: {manifest.kind}, fingerprint {manifest.fingerprint}, worst slack {manifest.worst_slack_ns} ns"
    )
