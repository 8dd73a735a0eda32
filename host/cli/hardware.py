"""Commands for those who change the hardware: generate, csim, lint, boards, bitstream."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from systolora.errors import UserError
from systolora.hls.config import ArrayConfig, board_config, fitted_config
from systolora.options import LARGEST_SEED, check_rules, setting
from systolora.outputs import PROJECT_MAKER, claim_folder

from .options import CommandGroup, GroupedCommand, Json, make_console, options_from, print_table

_ARRAY = "Array"
_MEMORY: dict[str, Any] = {"group": "Array", "least": 0, "most": 2**31}
_MOST_OPERAND = 1 << 20


@dataclass(frozen=True)
class ArrayOptions:
    """The options that name an accelerator; what is not given comes from the board's preset, or is 64 x 64."""

    board: str = setting("", "preset: see systolora boards", group=_ARRAY)
    rows: int = setting(64, "rows of PEs", group=_ARRAY, least=4, most=256)
    cols: int = setting(64, "columns of PEs", group=_ARRAY, least=4, most=256)
    input_bytes: int = setting(
        ArrayConfig.input_bytes, "input memory, both halves; made whole words of the array if not given", **_MEMORY
    )
    weight_bytes: int = setting(ArrayConfig.weight_bytes, "weight memory, both halves; likewise", **_MEMORY)
    output_bytes: int = setting(ArrayConfig.output_bytes, "output memory, both halves; likewise", **_MEMORY)
    bus_bytes: int = setting(ArrayConfig.bus_bytes, "bytes of a device memory word: 4, 8, 16, 32 or 64", group=_ARRAY)
    clock_mhz: float = setting(ArrayConfig.clock_mhz, "clock of the array", group=_ARRAY, least=1, most=1000)
    port_mhz: float = setting(
        ArrayConfig.port_mhz,
        "clock of the processor's 16-byte memory ports behind the array's; 0: that of the array",
        group=_ARRAY,
        least=0,
        most=1000,
    )
    output_ports: int = setting(
        ArrayConfig.output_ports, "memory ports that results go through: 1, or 2", group=_ARRAY, least=1, most=2
    )
    quantize_lanes: int = setting(
        ArrayConfig.quantize_lanes,
        "columns a clock of QUANTIZE, a power of two; 0 takes the rule",
        group=_ARRAY,
        least=0,
        most=32,
    )
    epilogue_lanes: int = setting(
        ArrayConfig.epilogue_lanes, "columns a clock of the epilogue; likewise", group=_ARRAY, least=0, most=32
    )
    packed_dsp: bool = setting(ArrayConfig.packed_dsp, "two INT8 products in one DSP", group=_ARRAY)
    dataflows: str = setting(
        "ws,os",
        "what the hardware is built for; ws alone takes about half the LUTs",
        group=_ARRAY,
        choices=("ws,os", "ws"),
    )


def config_from(given: dict[str, Any]) -> ArrayConfig:
    """The accelerator that the given options of `ArrayOptions` name.

    Raises:
        UserError, ConfigError: for an unknown board, or sizes that cannot be built.
    """
    check_rules(ArrayOptions(**given))
    changes = {name: value for name, value in given.items() if name != "board"}
    if "dataflows" in changes:
        changes["dataflows"] = tuple(sorted(changes["dataflows"].split(",")))
    base = board_config(given["board"]) if given.get("board") else ArrayConfig()
    return fitted_config(base, changes)


def add_commands(app: typer.Typer) -> None:
    """Adds this module's commands to the command line."""
    for command in (generate, csim, lint, boards):
        app.command(cls=GroupedCommand)(command)
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
    claim_folder(out, PROJECT_MAKER)
    files = [*write_project(config, out), write_golden(config, out)]
    console = make_console(json)
    memories = " + ".join(f"{size:,}" for size in (config.input_bytes, config.weight_bytes, config.output_bytes))
    lines = [
        f"{config.rows} x {config.cols} array, fingerprint {config.fingerprint_text}: {len(files)} files in {out}",
        f"memories, input + weight + output: {memories} bytes",
        f"test bench without Python: make -C {out} csim",
        missing_scripts(config),
    ]
    for line in filter(None, lines):
        console.print(line, soft_wrap=True)
    if json:
        print(
            jsonlib.dumps(
                {"folder": str(out), "fingerprint": config.fingerprint_text, "files": [str(file) for file in files]}
            )
        )


@options_from(ArrayOptions)
def csim(
    *,
    m: Annotated[int, typer.Option(min=1, max=_MOST_OPERAND, help="Rows of A and C.")] = 77,
    n: Annotated[int, typer.Option(min=1, max=_MOST_OPERAND, help="Columns of B and C.")] = 320,
    k: Annotated[int, typer.Option(min=1, max=_MOST_OPERAND, help="Columns of A, rows of B.")] = 768,
    dataflow: Annotated[str, typer.Option(help="ws, os, or auto.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Of the operands.")] = 0,
    json: Json = False,
    **given: Any,
) -> None:
    """Compile the accelerator's C++ and run one GEMM on it; compare with the exact product and the predicted counters."""
    from .csim_trial import run_trial

    trial = run_trial(config_from(given), m, n, k, dataflow, seed)
    console = make_console(json)
    table = Table("counter", "C-simulation", "predicted", box=None)
    for name, value in asdict(trial.counters).items():
        table.add_row(name, f"{value:,}", f"{asdict(trial.predicted)[name]:,}")
    print_table(console, table)
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
    print_table(make_console(), table)
    print("Estimated use of the preset, before any tool has run; numbers with --json, formulas in hls/resources.py.")


bitstream = typer.Typer(
    help="List, verify, fetch and build bitstreams.", no_args_is_help=True, rich_markup_mode=None, cls=CommandGroup
)


@bitstream.command("list", cls=GroupedCommand)
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


@bitstream.command(cls=GroupedCommand)
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


@bitstream.command(cls=GroupedCommand)
def fetch(
    board: Board,
    source: Annotated[str, typer.Option(help="URL or folder that holds BOARD/manifest.json and its files.")],
    cache: Annotated[Path, typer.Option(help="Where it goes.")] = Path("~/.cache/systolora/bitstreams"),
) -> None:
    """Copy a board's bitstream from a URL or a folder, checked by its checksums."""
    from systolora.bitstreams.store import fetch as copy

    print(copy(board_config(board).board, source, cache.expanduser()))


@bitstream.command(cls=GroupedCommand)
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
