"""`systolora bench`: the emulator's integer core and a training step next to torch, and the processor's part of a step."""

from __future__ import annotations

import json as jsonlib
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from .options import CommandGroup, GroupedCommand, Json, make_console, print_table

if TYPE_CHECKING:
    from systolora.bench.step import WayResult

bench = typer.Typer(
    help="Measure speed and memory on this machine.", no_args_is_help=True, rich_markup_mode=None, cls=CommandGroup
)

_MOST_BYTES = 1 << 33


def add_commands(app: typer.Typer) -> None:
    """Adds this module's commands to the command line."""
    app.add_typer(bench, name="bench")


@bench.command(cls=GroupedCommand)
def emulator(
    model: Annotated[str, typer.Option(help="Model whose step's GEMMs are measured.")] = "sd15",
    resolution: Annotated[int, typer.Option(min=0, max=16_384, help="Pixels; 0 is the model's own.")] = 0,
    shape: Annotated[list[str] | None, typer.Option(help="Measure these instead: MxNxK; may be repeated.")] = None,
    repeats: Annotated[int, typer.Option(min=1, max=10_000, help="Rounds, in which all take turns.")] = 5,
    threads: Annotated[int, typer.Option(min=0, max=4096, help="CPU threads; 0 leaves it to torch.")] = 0,
    json: Json = False,
) -> None:
    """Integer products of a training step on the emulator's core, next to torch's INT8, bfloat16 and float32."""
    import torch
    from systolora.bench.emulator import bench_emulator

    if threads:
        torch.set_num_threads(threads)
    result = bench_emulator(_shapes(model, resolution, shape or []), repeats)
    table = Table(title=f"10^9 operations a second, {result.threads} threads; peak {result.peak_gops:,.0f}")
    names = list(result.rows[0].gops)
    titles = ("ours" if name == "emulator" else name.replace(" ", "\n") for name in names)
    for title in ("m x n x k", "count", *titles, "ours :\nint8", "spread"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in result.rows:
        figures = [f"{row.gops[name]:,.0f}" for name in names]
        table.add_row(
            f"{row.m} x {row.n} x {row.k}",
            str(row.count),
            *figures,
            f"{row.ratio:.2f}",
            f"{row.spread['emulator']:.0%}",
        )
    console = make_console(json)
    print_table(console, table)
    console.print(f"share of the peak at 4096 x 1280 x 1280: {100 * result.share_of_peak:.0f} %")
    console.print(f"slowest next to torch int8: {result.worst_ratio:.2f} of its speed")
    console.print(f"quantize, multiply, dequantize at 4096 x 320 x 320: {result.layer_ratio:.2f} x bfloat16's time")
    if json:
        found = asdict(result)
        found["worst_ratio_to_best_peer"] = found.pop("worst_ratio")
        print(jsonlib.dumps(found))


@bench.command(cls=GroupedCommand)
def step(
    model: Annotated[str, typer.Option(help="Model: sd15, sd21.")] = "sd15",
    resolution: Annotated[int, typer.Option(min=0, max=16_384, help="Pixels; 0 is the model's own.")] = 0,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Pictures.")] = 1,
    rank: Annotated[int, typer.Option(min=1, max=8192, help="Of the adapter on cross-attention key and value.")] = 4,
    repeats: Annotated[int, typer.Option(min=1, max=10_000, help="Steps that count, after one that does not.")] = 3,
    threads: Annotated[
        int, typer.Option(min=0, max=4096, help="CPU threads of each process; 0 leaves it to torch.")
    ] = 0,
    ways: Annotated[str, typer.Option(help="Which to run: int8, bf16, fp32, torchao.")] = "int8,bf16,fp32,torchao",
    checkpointing: Annotated[bool, typer.Option(help="Gradient checkpointing, in all of them.")] = False,
    attention_products: Annotated[bool, typer.Option(help="INT8: also q k^T and p v on the device.")] = False,
    profile: Annotated[bool, typer.Option(help="Also say where a step's time goes.")] = False,
    json: Json = False,
) -> None:
    """One LoRA training step with everything frozen in INT8 on the emulator, next to torch and peft in bfloat16 and float32."""
    from systolora.bench.step import StepSettings, bench_step, summary

    settings = StepSettings(
        model, resolution, batch, rank, repeats, threads, checkpointing, attention_products, profile
    )
    results = bench_step(settings, tuple(way.strip() for way in ways.split(",")))
    table = Table(title=f"one training step of {model}, random weights")
    for title in ("", "seconds, median", "least", "most", "processor seconds", "peak memory, MB"):
        table.add_column(title, justify="right")
    figures = summary(results)
    for way, result in results.items():
        spread = (result.median_seconds, min(result.seconds), max(result.seconds), figures[f"{way}_cpu_seconds"])
        table.add_row(way, *(f"{value:.2f}" for value in spread), f"{result.peak_bytes / 1e6:,.0f}")
    console = make_console(json)
    print_table(console, table)
    for name, value in figures.items():
        if "ratio" in name:
            console.print(f"INT8, {name.replace('_', ' ')}: {value:.2f}")
    if profile:
        print_table(console, _share_table(results))
    if json:
        print(jsonlib.dumps(figures))


@bench.command(cls=GroupedCommand)
def host(
    out: Annotated[str, typer.Option(help="Write the figures to this file, for simulate --host.")] = "",
    elements: Annotated[
        int, typer.Option(min=1024, max=1 << 30, help="Of the tensors; they should not fit the caches.")
    ] = 1 << 22,
    repeats: Annotated[int, typer.Option(min=1, max=10_000, help="Of each operator; the median counts.")] = 5,
    threads: Annotated[int, typer.Option(min=0, max=4096, help="CPU threads; 0 leaves it to torch.")] = 0,
    json: Json = False,
) -> None:
    """What this machine's processor takes for its part of a step: operators, float32 products, copying. Run it on the board."""
    import torch
    from systolora.bench.host import bench_host
    from systolora.cost.host_time import RATES_MARK
    from systolora.outputs import check_file, write_output

    if out:
        check_file(Path(out), "--out", RATES_MARK)
    if threads:
        torch.set_num_threads(threads)
    rates = bench_host(elements, repeats)
    table = Table(title=f"{rates.name}: {rates.gmacs:.1f} GMAC/s in float32, {rates.gbps:.1f} GB/s copied")
    table.add_column("operator")
    table.add_column("ns an element", justify="right")
    for name, ns in rates.ns.items():
        table.add_row(name.replace("_", " "), f"{ns:.2f}")
    console = make_console(json)
    print_table(console, table)
    if out:
        write_output(Path(out), rates.as_json().encode(), "--out", RATES_MARK)
        console.print(f"written: {out}", soft_wrap=True)
    if json:
        print(jsonlib.dumps({**vars(rates), "ns": dict(rates.ns)}))


def _share_table(results: Mapping[str, WayResult]) -> Table:
    table = Table("of a step's time", *results, title="where the time goes")
    for group in dict.fromkeys(group for result in results.values() for group in result.shares):
        table.add_row(group, *(f"{result.shares.get(group, 0.0):.1%}" for result in results.values()))
    return table


def _shapes(model: str, resolution: int, given: list[str]) -> dict[tuple[int, int, int], int]:
    """(m, n, k) of the step's GEMMs with their counts."""
    from systolora.cost.tracing import trace_workload
    from systolora.cost.workloads import StepOptions
    from systolora.errors import UserError

    shapes: dict[tuple[int, int, int], int] = {}
    for text in given:
        parts = text.lower().split("x")
        if len(parts) != 3 or not all(re.fullmatch("[0-9]{1,9}", part) and int(part) for part in parts):
            raise UserError(f"--shape {text!r}: expected MxNxK, such as 4096x1280x1280")
        m, n, k = map(int, parts)
        if m * k + k * n + 4 * m * n > _MOST_BYTES:
            raise UserError(f"--shape {text}: its matrices are larger than {_MOST_BYTES >> 30} GiB")
        shapes[m, n, k] = 1
    if shapes:
        return shapes
    options = StepOptions(targets="all", adapt="kv", attention_products=True, resolution=resolution)
    for distinct in trace_workload(model, options).gemms:
        op = distinct.gemm.op
        shapes[op.m, op.n, op.k] = shapes.get((op.m, op.n, op.k), 0) + distinct.count
    return shapes
