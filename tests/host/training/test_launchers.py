"""`systolora train` as torchrun and accelerate start it, word for word as docs/training.md has it: one adapter, the losses of one process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from systolora.assets import pipeline_folder
from systolora.training.adapter import ADAPTER_FILE
from systolora.training.checkpoint import list_checkpoints
from systolora.training.run_record import read_log, read_run

TORCHRUN = "torch.distributed.run --nproc-per-node 2 --master-port PORT"
ACCELERATE = "accelerate.commands.launch --multi_gpu --num_processes 2 --main_process_port PORT"
"""With a free port, for tests that run beside others."""


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def train(launcher: str, pictures: Path, output: Path) -> subprocess.CompletedProcess[str]:
    words = launcher.replace("PORT", free_port()).split()
    command = [sys.executable, *(["-m", *words] if words else []), "-m", "systolora", "train"]
    command += ["--model", str(pipeline_folder()), "--data", str(pictures), "--output", str(output), "--steps", "3"]
    command += ["--batch", "2", "--precision", "float32", "--learning-rate", "2e-3", "--threads", "1"]
    command += ["--checkpoint-every", "2", "--report-to", "none"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def alone(few_pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("alone") / "run"
    done = train("", few_pictures, output)
    assert done.returncode == 0, done.stderr
    return output


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_two_processes_make_one_adapter_with_the_losses_of_one(
    launcher: str, few_pictures: Path, tmp_path: Path, alone: Path
) -> None:
    output = tmp_path / "run"
    done = train(launcher, few_pictures, output)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("final loss") == 1 and done.stdout.count(ADAPTER_FILE) == 1, "one process talks"
    assert [step for step, _ in list_checkpoints(output)] == [2, 3]
    facts = read_run(output)
    assert facts is not None and facts["state"] == "finished"
    losses, expected = ([row["loss"] for row in read_log(folder)] for folder in (output, alone))
    print(json.dumps({"two processes": losses, "one": expected}))
    assert losses == pytest.approx(expected, rel=1e-5) and len(losses) == 3
    mine, theirs = load_file(output / ADAPTER_FILE), load_file(alone / ADAPTER_FILE)
    assert mine.keys() == theirs.keys()
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], rtol=1e-2, atol=1e-5)
    assert not list(output.rglob("*.tmp*"))
