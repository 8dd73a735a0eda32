"""kill -9 at random instants of the command: no file that cannot be read, and every run that goes on ends with the uninterrupted run's bits."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from systolora.training.adapter import ADAPTER_FILE
from systolora.training.checkpoint import list_checkpoints, parse_checkpoint
from systolora.training.run_record import read_log, read_run, summarize

from .test_random_interrupts import Command, adapter_of

KILLS = 20


def check_files(output: Path) -> None:
    """Every file of a run is whole, at whatever instant it was killed."""
    for step, path in list_checkpoints(output):
        parse_checkpoint(path.read_bytes(), step)
    for path in output.rglob("*.safetensors"):
        load_file(path)
    if (output / "run.json").exists():
        facts = read_run(output)
        assert facts is not None and facts["state"] in ("running", "finished", "interrupted")
        assert summarize(output) is not None
    if (output / "run.html").exists():
        assert (output / "run.html").read_text().rstrip().endswith("</html>")
    steps = [row["step"] for row in read_log(output)]
    assert steps == list(range(1, len(steps) + 1))


def killed_until(command: Command, folder: Path, chance: random.Random, kills: int, span: float) -> dict[str, Any]:
    """Kills runs, each until it has ended, until so many kills met a living one; returns where they came."""
    whole, counted = adapter_of(folder / "whole"), {"before the first checkpoint": 0, "later": 0}
    chains = 0
    while sum(counted.values()) < kills:
        output, chains = folder / f"killed-{chains}", chains + 1
        while not (output / ADAPTER_FILE).exists():
            before = [step for step, _ in list_checkpoints(output)]
            last = sum(counted.values()) >= kills
            ended = command.run(output, 0 if last else signal.SIGKILL, chance.uniform(0, 0.9 * span))
            assert ended.code in (0, -signal.SIGKILL), ended
            check_files(output)
            after = [step for step, _ in list_checkpoints(output)]
            assert not before or after[-1] >= before[-1], "no finished checkpoint is lost"
            if ended.code:
                counted["later" if after else "before the first checkpoint"] += 1
            else:  # it may have become faster, and a signal after the end tells nothing
                span = min(span, ended.seconds)
        mine = adapter_of(output)
        assert mine.keys() == whole.keys() and all(torch.equal(mine[name], whole[name]) for name in whole)
        log = read_log(output)
        assert [row["loss"] for row in log] == [row["loss"] for row in read_log(folder / "whole")]
    return {**counted, "runs": chains}


def run_kills(pictures: Path, folder: Path, kills: int, seed: int, steps: int, every: int) -> None:
    command = Command(folder, pictures, steps, every)
    try:
        assert command.run(folder / "whole").code == 0  # fills caches
        span = command.run(folder / "timed").seconds
        counted = killed_until(command, folder, random.Random(seed), kills, span)
    finally:
        command.close()
    print(json.dumps({**counted, "one run, s": round(span, 1), "steps": steps}))


def test_two_kills_lose_no_bit(few_pictures: Path, tmp_path: Path) -> None:
    run_kills(few_pictures, tmp_path, 2, 7, steps=6, every=1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_kills_at_random_instants_lose_no_bit(few_pictures: Path, tmp_path: Path) -> None:
    run_kills(few_pictures, tmp_path, KILLS, 2025, steps=20, every=3)
