"""Help: every default and every choice is visible at 80 columns, nothing is cut, and any terminal can show it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
from systolora.cli.app import app
from systolora.cli.hardware import ArrayOptions
from systolora.cost.settings import SimulateSettings
from systolora.demo.settings import CONCEPTS, DemoSettings
from systolora.options import option_name, rule_of
from systolora.training.settings import TrainSettings
from typer.main import get_command

from .conftest import Run

SETTINGS = {"train": TrainSettings, "simulate": SimulateSettings, "demo": DemoSettings, "generate": ArrayOptions}


def _commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    command = command or get_command(app)
    yield path
    for name, below in getattr(command, "commands", {}).items():
        yield from _commands(below, (*path, name))


def _entries(text: str) -> dict[str, str]:
    """Of each option the words of its entry, on one line."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if match := re.match(r"  (--[a-z-]+)(.*)", line):
            name, line = match[1], match[2]
            found[name] = ""
        elif not line.startswith("     "):
            name = ""
        if name:
            found[name] = " ".join(f"{found[name]} {line}".split())
    return found


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("path", list(_commands()), ids=" ".join)
def test_help_of_every_command_is_plain_ascii_within_80_columns(run: Run, path: tuple[str, ...]) -> None:
    ended = run(*path, "--help")
    assert ended.code == 0 and ended.err == "" and "Usage: systolora" in ended.out
    assert ended.out.isascii() and "\x1b" not in ended.out
    assert all(len(line) <= 80 for line in ended.out.splitlines())
    assert "..." not in ended.out.replace("[ARGS]...", ""), "nothing is cut"


@pytest.mark.parametrize("command", SETTINGS)
def test_each_option_shows_its_default_and_its_choices_under_a_heading(run: Run, command: str) -> None:
    text = run(command, "--help").out
    entries = _entries(text)
    for field in fields(SETTINGS[command]):
        entry, rule = entries[option_name(field.name)], rule_of(field)
        assert re.search(r"\[(default: [^;\]]+|required)[;\]]", entry), entry
        if isinstance(field.default, (int, float)) and not isinstance(field.default, bool):
            assert f"default: {field.default:g}" in entry or f"default: {field.default}" in entry
        for choice in filter(None, rule.choices):
            assert re.search(rf"(?<![\w-]){re.escape(choice)}(?![\w-])", entry), f"{choice} in {entry}"
        assert not rule.group or f"\n{rule.group}:\n" in text


def test_the_default_of_options_that_stand_alone_is_shown_too(run: Run) -> None:
    assert "[default: 320; above 0]" in _entries(run("csim", "--help").out)["--n"]
    assert "[default: diffusers]" in _entries(run("export", "--help").out)["--form"]
    assert "[required]" in _entries(run("generate", "--help").out)["--out"]


def test_the_version_is_that_of_the_package(run: Run) -> None:
    from importlib.metadata import version

    assert run("--version").out == f"systolora {version('systolora')}\n"


def test_no_command_prints_the_help(run: Run) -> None:
    ended = run()
    assert ended.code == 2 and "Commands:" in ended.out + ended.err


def test_names_of_concepts_are_those_that_can_be_drawn() -> None:
    from systolora.demo.sprites import CONCEPTS as drawn

    assert drawn == CONCEPTS


def test_help_on_a_terminal_that_knows_only_ascii() -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "systolora", "boards"]
    for arguments in (["--help"], []):
        ended = subprocess.run([*command, *arguments], capture_output=True, env=environment, check=False)
        assert ended.returncode == 0 and ended.stderr == b"" and ended.stdout.isascii()


@pytest.mark.parametrize("path", [path for path in _commands() if path], ids=" ".join)
def test_options_that_stand_alone_speak_as_the_others(run: Run, path: tuple[str, ...]) -> None:
    """What an option takes is named in one way, bounds are words, and what is no switch says its default."""
    text = run(*path, "--help").out
    assert not re.search(r"<[a-z ]+>|<=|INTEGER|FLOAT", text)
    for name, entry in _entries(text).items():
        if re.match(rf"{name} (TEXT|PATH|NUMBER|NAME)", entry):
            assert re.search(r"\[(default: [^;\]]+|required)[;\]]", entry), entry


def test_a_default_is_not_torn_apart(run: Run) -> None:
    for command in ("train", "simulate", "csim", "demo"):
        text = run(command, "--help").out
        torn = [line for line in text.splitlines() if line.count("[") > line.count("]")]
        assert not torn, torn
