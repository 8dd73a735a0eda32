"""The wheel holds all that a user needs, and works far from the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .architecture import ORDER, ROOT

SHIPPED = ("hls", "sim", "host", "bitstreams", "notebooks")

PROGRAM = """
import pathlib, sys, systolora
from systolora.assets import judge_file, pipeline_folder
from systolora.bitstreams.store import list_folders
from systolora.hls import ArrayConfig
from systolora.hls.generate import render_project
import systolora.sim.functional.native
assert pathlib.Path(systolora.__file__).is_relative_to(sys.argv[1]), systolora.__file__
assert judge_file().is_file() and (pipeline_folder() / "unet").is_dir()
assert len(render_project(ArrayConfig())) > 20
assert {m.board for m in list_folders()} >= {"kv260", "zcu104"}
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for room in SHIPPED:
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", source / "dist", source], check=True)
    (wheel,) = (source / "dist").glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", target, wheel], check=True)
    return target


def run(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_data_and_templates_are_in_the_wheel(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "-c", PROGRAM, str(installed))
    assert done.returncode == 0, done.stderr


def test_every_package_can_be_imported_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    names = [package.module for package in ORDER]
    code = f"import importlib, sys\nfor name in {names!r}:\n    assert importlib.import_module(name).__file__.startswith(sys.argv[1]), name"
    done = run(installed, tmp_path, "-c", code, str(installed))
    assert done.returncode == 0, done.stderr


def test_the_installed_command_generates_a_project_that_runs(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "-m", "systolora", "generate", "--rows", "4", "--cols", "4", "--out", "project")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "project" / "Makefile").is_file() and (tmp_path / "project" / "tb" / "golden.hpp").is_file()


def test_only_the_rooms_are_installed(installed: Path) -> None:
    top = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info") and path.name != "bin"}
    assert top == {"systolora"}
