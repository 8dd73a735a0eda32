"""The same script under torchrun and accelerate: two processes, gloo, each with a device of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import SCRIPTS

LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--nproc-per-node", "2"],
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"],
}


def start(folder: Path, launcher: list[str], *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", *launcher, *command]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_train_the_same_with_their_layers_offloaded(tmp_path: Path, launcher: str) -> None:
    script = str(SCRIPTS / "train_lora.py")
    plain = start(tmp_path, LAUNCHERS[launcher], script, "--output_dir", "plain")
    ours = start(
        tmp_path, LAUNCHERS[launcher], "-m", "systolora", "launch", "--report", "r.json", script, "--output_dir", "ours"
    )
    assert plain.returncode == 0 and ours.returncode == 0, ours.stderr
    losses = [json.loads((tmp_path / name / "losses.json").read_text()) for name in ("plain", "ours")]
    assert losses[1] == pytest.approx(losses[0], rel=0.02) and losses[1] != losses[0]
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["processes"] == 2 and len(report["models"][0]["adapted"]) == 32
    assert not report["models"][0]["fallbacks"] and report["models"][0]["mac_share"] > 0.1
    assert ours.stderr.count("32 adapted and 0 frozen layers go to emulator") == 1
    assert ours.stderr.count("these are the counts of the first of 2 processes") == 1


@pytest.mark.slow
def test_a_script_that_fails_in_one_process_fails_the_run(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import os\nif os.environ['RANK'] == '1':\n    raise ValueError('in the second')\n"
    )
    ended = start(tmp_path, LAUNCHERS["torchrun"], "-m", "systolora", "launch", "script.py")
    assert ended.returncode == 1 and "ValueError: in the second" in ended.stderr
