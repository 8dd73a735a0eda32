"""A hundred interrupts at random instants of the command: each ends in one line and a checkpoint, and no bit is lost.

Minutes long. A process that has imported everything and loaded the model forks the command, so that most instants lie in its steps.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from systolora.assets import pipeline_folder
from systolora.training.adapter import ADAPTER_FILE
from systolora.training.checkpoint import list_checkpoints
from systolora.training.run_record import read_log

INTERRUPTS = int(os.environ.get("SYSTOLORA_INTERRUPTS", "100"))
STEPS = 60
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

FORKING = """
import json, os, sys
os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}
import diffusers, peft, transformers
from systolora.cli.app import main
import systolora.training.trainer as trainer, systolora.training.progress, systolora.offloading.model
parts = trainer.load_model(sys.argv[1])
trainer.load_model = lambda *_: parts
print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        said = os.open(order["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.argv = ["systolora", *order["arguments"]]
        main()
        sys.stdout.flush()
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass
class Ended:
    """A command that has ended: its exit code, what it said, and how long it took, in seconds."""

    code: int
    said: str
    seconds: float


class Command:
    """Runs the command in forks of one process."""

    def __init__(self, folder: Path, data: Path, steps: int = STEPS, every: int = 7) -> None:
        self.said = folder / "said.txt"
        self.common = ["train", "--model", str(pipeline_folder()), "--data", str(data), "--steps", str(steps)]
        self.common += ["--batch", "2", "--rounding", "stochastic", "--learning-rate", "2e-3", "--threads", "1"]
        self.common += ["--schedule", "cosine", "--random-flip", "--checkpoint-every", str(every)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", FORKING, str(pipeline_folder())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def run(self, output: Path, signum: int = 0, delay: float = 0.0) -> Ended:
        """Runs to the end, or sends a signal after `delay` seconds."""
        assert self.process.stdin is not None
        arguments = [*self.common, "--output", str(output), "--resume"]
        self.said.write_text("")  # a signal may come before the command has a place for what it says
        began = time.monotonic()
        self.process.stdin.write(json.dumps({"arguments": arguments, "said": str(self.said)}) + "\n")
        self.process.stdin.flush()
        child = int(self._line())
        if signum:
            time.sleep(delay)
            with contextlib.suppress(ProcessLookupError):  # it has ended already
                os.kill(child, signum)
        return Ended(int(self._line()), self.said.read_text(), time.monotonic() - began)

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def adapter_of(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / ADAPTER_FILE)


def check_interrupted(ended: Ended, signum: int, output: Path, before: int) -> str:
    """Holds what an interrupted command said against what it left; returns where the signal came."""
    assert ended.code == 128 + signum, ended
    lines = [line for line in ended.said.splitlines() if line.startswith("systolora:")]
    assert len(lines) == 1 and "Traceback" not in ended.said and "Exception ignored" not in ended.said, ended
    found = list_checkpoints(output)
    newest = found[-1][0] if found else 0
    if match := re.fullmatch(
        rf"systolora: stopped by SIG\w+ after step (\d+) of {STEPS}; go on with --resume", lines[0]
    ):
        assert newest == int(match[1]) >= max(1, before), (ended, newest)
        assert len(read_log(output)) - newest in (0, 1), "at most one step is lost"
        return "between steps"
    assert newest == before, (ended, newest)
    assert "before the first step" in lines[0], ended
    return "before the first step"


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_hundred_interrupts_at_random_instants_lose_no_bit(few_pictures: Path, tmp_path: Path) -> None:
    command, chance = Command(tmp_path, few_pictures), random.Random(2024)
    counted: dict[str, int] = {}
    chains = resumes = 0
    try:
        assert command.run(tmp_path / "whole").code == 0  # fills caches
        span = min(command.run(tmp_path / f"timed-{i}").seconds for i in range(2))
        print(f"one run: {span:.1f} s", flush=True)
        whole = adapter_of(tmp_path / "whole")
        while sum(counted.get(place, 0) for place in ("between steps", "before the first step")) < INTERRUPTS:
            output, chains = tmp_path / f"chain-{chains}", chains + 1
            while not (output / ADAPTER_FILE).exists():
                found = list_checkpoints(output)
                before = found[-1][0] if found else 0
                signum = chance.choice(SIGNALS)
                ended = command.run(output, signum, chance.uniform(0, 0.8 * span))
                if (output / ADAPTER_FILE).exists():
                    place = "after the end"
                elif ended.code in (-signum, 130) and ended.said in ("", "systolora: stopped\n"):
                    place = "before the command had read its options"
                else:
                    place = check_interrupted(ended, signum, output, before)
                    resumes += 1
                counted[place] = counted.get(place, 0) + 1
            mine = adapter_of(output)
            print(f"chain {chains}: {counted}", flush=True)
            assert mine.keys() == whole.keys() and all(torch.equal(mine[name], whole[name]) for name in whole)
    finally:
        command.close()
    print(
        f"{counted}, {resumes} resumes in {chains} chains, all with the uninterrupted run's bits; one run {span:.1f} s"
    )
