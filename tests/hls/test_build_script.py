"""build.sh with a PATH on which only stand-ins of the tools exist."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from systolora.hls import board_config
from systolora.hls.scripts import render_scripts


def make_project(folder: Path) -> Path:
    (folder / "build.sh").write_text(render_scripts(board_config("kv260"))["build.sh"])
    return folder


def run_build(project: Path, step: str, tools: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """build.sh with a PATH on which only these tools exist; each prints its version or writes what it was called with."""
    folder = project / "fake_bin"
    folder.mkdir(exist_ok=True)
    for tool in ("bash", "dirname", "grep", "head", "tr", "env"):
        found = shutil.which(tool)
        assert found is not None
        if not (folder / tool).exists():
            (folder / tool).symlink_to(found)
    for tool, version in tools.items():
        text = f'#!/usr/bin/env bash\ncase "$*" in *version*) echo "{tool} v{version} (64-bit)" ;; '
        text += f'*) echo "{tool} $* steps=${{SYSTOLORA_STEPS:-}}" ;; esac\n'
        (folder / tool).write_text(text)
        (folder / tool).chmod(0o755)
    return subprocess.run(
        ["bash", str(project / "build.sh"), step], capture_output=True, text=True, env={"PATH": str(folder)}, timeout=60
    )


@pytest.mark.parametrize(
    ("tools", "step", "expected"),
    [
        ({"vitis_hls": "2022.2"}, "csim", "vitis_hls -f scripts/run_hls.tcl steps=csim"),
        (
            {"vitis-run": "2024.2", "vitis_hls": "2024.1"},
            "export",
            "vitis-run --mode hls --tcl scripts/run_hls.tcl steps=export",
        ),
        ({"vivado": "2024.1"}, "bitstream", "-source vivado/build.tcl"),
    ],
)
def test_build_picks_the_tool(tmp_path: Path, tools: dict[str, str], step: str, expected: str) -> None:
    done = run_build(make_project(tmp_path), step, tools)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


@pytest.mark.parametrize(
    ("tools", "step", "message"),
    [
        ({}, "csim", "neither vitis-run nor vitis_hls is on PATH"),
        ({}, "bitstream", "vivado is not on PATH"),
        ({"vitis_hls": "2020.2"}, "csim", "vitis_hls says version '20202'; 2022.1 or later is needed"),
        ({"vivado": "2021.2"}, "bitstream", "2022.1 or later is needed"),
        ({}, "synth", "give one of csim, csynth, cosim, export, bitstream, all"),
    ],
)
def test_build_says_what_is_missing(tmp_path: Path, tools: dict[str, str], step: str, message: str) -> None:
    done = run_build(make_project(tmp_path), step, tools)
    assert done.returncode == 1
    assert message in done.stderr
