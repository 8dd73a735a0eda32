"""The command line: `systolora COMMAND`. Each command only reads its options and prints; the work is done elsewhere."""

from __future__ import annotations

import json as jsonlib
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from systolora.cost.settings import SimulateSettings
from systolora.demo.settings import DemoSettings
from systolora.errors import UserError, describe_error, printable
from systolora.launching.launch import Launch, prepare_launch
from systolora.launching.settings import LaunchSettings, launch_settings
from systolora.libraries import install_advice
from systolora.training.settings import TrainSettings, read_settings

from .adapters import add_commands as add_adapter_commands
from .bench import add_commands as add_bench_commands
from .hardware import add_commands as add_hardware_commands
from .intlora import add_commands as add_intlora_commands
from .options import CommandGroup, GroupedCommand, Json, make_console, options_from
from .runs import add_commands as add_runs_commands

# Plain help: Rich's takes "[default: 4]" for markup, cuts long names at 80 columns, and draws frames that not every terminal has.
app = typer.Typer(
    name="systolora",
    help="INT8 LoRA training of diffusion models on an FPGA systolic array, or bit for bit in software.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    cls=CommandGroup,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"systolora {version('systolora')}")
        raise typer.Exit


@app.callback()
def _everywhere(
    context: typer.Context,
    show_version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and end.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """INT8 LoRA training of diffusion models on an FPGA systolic array, or bit for bit in software."""
    if context.invoked_subcommand != "launch":  # whose script decides for itself
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")


@app.command(cls=GroupedCommand)
@options_from(TrainSettings)
def train(
    *,
    config: Annotated[Path | None, typer.Option(help="YAML file with the same names; options given here win.")] = None,
    json: Json = False,
    **given: Any,
) -> None:
    """Fine-tune a text-to-image pipeline (SD, SDXL, PixArt, SD 3, Flux) with LoRA; GEMMs of the adapted layers run in INT8 on the device."""
    settings = read_settings(config, given)
    from .train import run_training

    run_training(settings, json)


@app.command(cls=GroupedCommand, context_settings={"allow_interspersed_args": False})
@options_from(LaunchSettings)
def launch(
    *,
    script: Annotated[
        str, typer.Argument(metavar="SCRIPT", help="Python script to run, or with -m the name of a module.")
    ],
    args: Annotated[
        list[str] | None, typer.Argument(metavar="ARGS", help="Its arguments, passed on as they are.")
    ] = None,
    module: Annotated[
        bool, typer.Option("-m", "--module", help="SCRIPT is a module's name, as for python -m.", show_default=False)
    ] = False,
    **given: Any,
) -> Launch:
    """Run a training script, unchanged, with the layers that its optimizer trains on the device; options stand before SCRIPT."""
    return prepare_launch(launch_settings(given), script, args or (), module)


@app.command(cls=GroupedCommand)
@options_from(DemoSettings)
def demo(*, json: Json = False, **given: Any) -> None:
    """Teach the built-in demo model a new concept twice, in INT8 and in float32, and compare. No network, no hardware."""
    from systolora.demo.run import run_demo

    result = run_demo(DemoSettings(**given), make_console(json))
    if json:
        print(jsonlib.dumps(result.as_dict()))


@app.command(cls=GroupedCommand)
def doctor(json: Json = False) -> None:
    """Say what is installed, which devices can be opened, what is missing and how to get it."""
    from .doctor import diagnose, print_findings

    findings = diagnose()
    print_findings(findings, make_console(json))
    if json:
        print(jsonlib.dumps([finding.as_dict() for finding in findings]))
    if any(finding.needed and not finding.good for finding in findings):
        raise typer.Exit(1)


@app.command(cls=GroupedCommand)
@options_from(SimulateSettings)
def simulate(
    *,
    sweep: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE,VALUE", help="Values of a setting; several options: every combination."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Processes of a sweep.")] = 1,
    json: Json = False,
    **given: Any,
) -> None:
    """Cycles, stalls, traffic and energy of one training step or a list of GEMMs, for each dataflow and for the best of each GEMM."""
    settings = SimulateSettings(**given)
    if sweep:
        from .sweep import run_sweeps

        run_sweeps(settings, sweep, jobs, json)
        return
    if jobs != 1:
        raise UserError("--jobs goes with --sweep: one simulation is one process")
    from .simulate import run_simulation

    run_simulation(settings, json)


add_adapter_commands(app)
add_bench_commands(app)
add_hardware_commands(app)
add_intlora_commands(app)
add_runs_commands(app)


def main() -> None:
    """Entry point: a mistake of the user or the machine ends in one line on standard error and exit code 2, Ctrl-C in 130.

    With SYSTOLORA_TRACEBACK=1 in the environment the traceback comes too.
    """
    strict = [(stream, stream.errors) for stream in (sys.stdout, sys.stderr) if hasattr(stream, "reconfigure")]
    for stream, _ in strict:
        stream.reconfigure(errors="backslashreplace")  # a path or a sign that this terminal cannot show
    try:
        code = app(standalone_mode=False, prog_name="systolora")
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(_complain("stopped", 130))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
        sys.exit(1)
    except ModuleNotFoundError as error:
        sys.exit(_complain(f"the Python package {error.name!r} is not installed: {install_advice('train')}"))
    except Exception as error:
        sys.exit(_ended_by(error))
    if isinstance(code, Launch):  # out here, so that the script's errors, signals and exit codes stay its own
        for stream, errors in strict:
            stream.reconfigure(errors=errors)
        code.run()
        return
    sys.exit(code if isinstance(code, int) else 0)


def _ended_by(error: Exception) -> int:
    """Prints the line of an error and gives the exit code.

    Raises:
        Exception: the error itself, if it is a fault of the program.
    """
    if type(error).__name__ == "Abort":  # older typers' Ctrl-C
        return _complain("stopped", 130)
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()  # type: ignore[attr-defined]
        return 2
    if hasattr(error, "format_message"):  # what typer refuses; newer ones carry a click of their own
        place = getattr(error.ctx, "command_path", "systolora") if hasattr(error, "ctx") else "systolora"
        return _complain(f"{error.format_message()} ({place} --help lists what there is)")
    text = describe_error(error)
    if text is None or os.environ.get("SYSTOLORA_TRACEBACK") == "1":
        raise error
    return _complain(text)


def _complain(text: str, code: int = 2) -> int:
    print(f"systolora: {printable(text)}", file=sys.stderr)
    return code
