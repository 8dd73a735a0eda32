"""The command line: `systolora COMMAND`. Each command only reads its options and prints; the work is done elsewhere."""

from __future__ import annotations

import json as jsonlib
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from systolora.cost.settings import SimulateSettings
from systolora.libraries import install_advice
from systolora.training.settings import TrainSettings, check_settings, load_settings_file, merge_settings

from .bench import add_commands as add_bench_commands
from .hardware import add_commands as add_hardware_commands
from .intlora import add_commands as add_intlora_commands
from .options import Json, options_from

app = typer.Typer(
    name="systolora",
    help="INT8 LoRA training of diffusion models on an FPGA systolic array, or bit for bit in software.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
@options_from(TrainSettings)
def train(
    *,
    config: Annotated[Path | None, typer.Option(help="YAML file with the same names; options given here win.")] = None,
    json: Json = False,
    **given: Any,
) -> None:
    """Fine-tune a Stable Diffusion pipeline with LoRA; GEMMs of the adapted layers run in INT8 on the device."""
    settings = TrainSettings()
    if config:
        settings = merge_settings(settings, load_settings_file(config), f"--config {config}")
    settings = check_settings(merge_settings(settings, given, "command line"))
    from .train import run_training

    run_training(settings, json)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the adapter, pictures and page.")] = Path("demo-out"),
    steps: Annotated[int, typer.Option(help="Training steps of each of the two runs.")] = 0,
    backend: Annotated[str, typer.Option(help="Device of the INT8 run: emulator, csim, board.")] = "emulator",
    seed: Annotated[int, typer.Option(help="Seed of both runs.")] = 0,
    targets: Annotated[
        str, typer.Option(help="Layers that run on the device: kv, attention, linear, all.")
    ] = "attention",
    json: Json = False,
) -> None:
    """Teach the built-in demo model a new concept twice, in INT8 and in float32, and compare. No network, no hardware."""
    from systolora.demo.run import DemoSettings, run_demo

    result = run_demo(
        DemoSettings(out=out, steps=steps, backend=backend, seed=seed, targets=targets), Console(stderr=json)
    )
    if json:
        print(jsonlib.dumps(result.as_dict()))


@app.command()
def doctor(json: Json = False) -> None:
    """Say what is installed, which devices can be opened, what is missing and how to get it."""
    from .doctor import diagnose, print_findings

    findings = diagnose()
    print_findings(findings, Console(stderr=json))
    if json:
        print(jsonlib.dumps([finding.as_dict() for finding in findings]))
    if any(finding.needed and not finding.good for finding in findings):
        raise typer.Exit(1)


@app.command()
@options_from(SimulateSettings)
def simulate(*, json: Json = False, **given: Any) -> None:
    """Cycles, stalls, traffic and energy of one training step, for each dataflow and for the best of each GEMM."""
    from .simulate import run_simulation

    run_simulation(SimulateSettings(**given), json)


add_bench_commands(app)
add_hardware_commands(app)
add_intlora_commands(app)


def main() -> None:
    """Entry point: the project's own errors end in one line on standard error and exit code 2, Ctrl-C in 130."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    try:
        app(standalone_mode=True)
    except KeyboardInterrupt:
        sys.exit(_complain("stopped", 130))
    except ModuleNotFoundError as error:
        sys.exit(_complain(f"the Python package {error.name!r} is not installed: {install_advice('train')}"))
    except Exception as error:
        if not type(error).__module__.startswith("systolora."):
            raise
        sys.exit(_complain(str(error)))


def _complain(text: str, code: int = 2) -> int:
    print(f"systolora: {text}", file=sys.stderr)
    return code
