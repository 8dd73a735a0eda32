"""Two processes of one run: one of them talks, a signal ends both with one checkpoint, a mistake is told once, the end of one is the other's."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from systolora.assets import pipeline_folder
from systolora.training.checkpoint import list_checkpoints
from systolora.training.parallel import Processes
from systolora.training.settings import TrainSettings
from systolora.training.trainer import Trainer

WORLD = 2

# Forked after the imports, which take longer than all the rest.
LAUNCHER = """
import json, os, sys, time
os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}
import diffusers, peft, transformers
from systolora.cli.app import main
import systolora.training.progress, systolora.models.pipeline
folder, port, wait_for, struck, world, arguments = json.loads(sys.argv[1])
children = []
for rank in range(world):
    child = os.fork()
    if child == 0:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        said = os.open(f"{folder}/said-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.argv = ["systolora", *arguments]
        main()
        os._exit(0)
    children.append(child)
if wait_for:
    while wait_for not in open(f"{folder}/said-0").read() if os.path.exists(f"{folder}/said-0") else True:
        if os.waitpid(children[0], os.WNOHANG)[0]:
            sys.exit("it ended too early: " + open(f"{folder}/said-0").read())
        time.sleep(0.05)
    for rank, signum in struck:
        os.kill(children[rank], signum)
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]))
"""


@dataclass(frozen=True)
class Both:
    """Exit codes of the processes, and what each said."""

    codes: list[int]
    said: list[str]


def launch(
    folder: Path, arguments: list[str], wait_for: str = "", struck: Sequence[tuple[int, signal.Signals]] = ()
) -> Both:
    """Runs both; when the first has said something, sends signals to (rank, which)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    order = json.dumps([str(folder), port, wait_for, list(struck), WORLD, arguments])
    done = subprocess.run([sys.executable, "-c", LAUNCHER, order], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    codes = json.loads(done.stdout.splitlines()[-1])
    return Both(codes, [(folder / f"said-{rank}").read_text() for rank in range(WORLD)])


@pytest.fixture
def arguments(few_pictures: Path, tmp_path: Path) -> list[str]:
    common = [
        "train",
        "--model",
        str(pipeline_folder()),
        "--data",
        str(few_pictures),
        "--output",
        str(tmp_path / "run"),
    ]
    return [*common, "--precision", "float32", "--batch", "2", "--threads", "1"]


def test_a_signal_ends_both_with_one_checkpoint_and_one_line(arguments: list[str], tmp_path: Path) -> None:
    struck = [(rank, signum) for signum in (signal.SIGINT, signal.SIGTERM) for rank in range(WORLD)]  # torchrun's echo
    both = launch(tmp_path, [*arguments, "--steps", "100000"], "training: 1 of 100000 steps", struck)
    assert both.codes == [130, 130]
    lines = [line for line in both.said[0].splitlines() if line.startswith("systolora:")]
    ((step, _),) = list_checkpoints(tmp_path / "run")
    assert lines == [f"systolora: stopped by SIGINT after step {step} of 100000; go on with --resume"]
    assert both.said[1] == ""


@pytest.mark.parametrize("killed", range(WORLD))
def test_a_process_that_is_killed_ends_the_other_with_one_line(
    arguments: list[str], tmp_path: Path, killed: int
) -> None:
    more = ["--steps", "100000", "--checkpoint-every", "1"]
    both = launch(tmp_path, [*arguments, *more], "training: 1 of 100000 steps", [(killed, signal.SIGKILL)])
    other = 1 - killed
    assert both.codes[killed] == -signal.SIGKILL and both.codes[other] == 2
    lines = [line for line in both.said[other].splitlines() if line.startswith("systolora:")]
    assert len(lines) == 1 and "another process of the run ended: see what it says" in lines[0]
    assert "Traceback" not in both.said[other] and list_checkpoints(tmp_path / "run")


def test_each_process_and_micro_batch_rounds_with_numbers_of_its_own(
    small: TrainSettings, make_trainer: Callable[[TrainSettings], Trainer]
) -> None:
    assert Processes(0, 2).own_seed(7) == Processes().own_seed(7) == 7
    assert len({Processes(rank, 9).own_seed(2**32 - 1) for rank in range(9)}) == 9
    trainer = make_trainer(replace(small, precision="int8", rounding="stochastic", accumulation=2, checkpoint_every=0))
    loss, seen = trainer.objective.loss, []
    trainer.objective.loss = lambda unet, batch: (seen.append(trainer.handle.step), loss(unet, batch))[1]  # type: ignore[method-assign]
    for step in range(2):
        trainer.step(step)
    trainer.close()
    assert seen == [0, 1, 2, 3]


def test_a_mistake_is_told_once(arguments: list[str], tmp_path: Path) -> None:
    both = launch(tmp_path, [*arguments, "--steps", "1", "--data", str(tmp_path / "nowhere")])
    assert both.codes == [2, 2]
    told = [line for said in both.said for line in said.splitlines() if line.startswith("systolora:")]
    assert len(told) == 1 and "nowhere: there is no such folder" in told[0]
    assert both.said[1] == "" and not (tmp_path / "run").exists()


def test_pictures_of_the_class_that_cannot_be_made_end_both_with_one_line(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    more = [
        "--class-prompt",
        "a star",
        "--class-data",
        str(tmp_path / "file"),
        "--class-images",
        "2",
        "--class-steps",
        "1",
    ]
    both = launch(tmp_path, [*arguments, "--steps", "2", *more])
    assert both.codes == [2, 2]
    lines = [line for line in both.said[0].splitlines() if line.startswith("systolora:")]
    assert len(lines) == 1 and "--class-data" in lines[0] and "it cannot be written" in lines[0]
    assert both.said[1] == ""
