"""Training on the emulated board gives the adapter that the emulator gives, bit for bit: by the command, with faults, in processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from systolora.emulated_board.faults import Faults
from systolora.emulated_board.hardware import BoardOptions
from systolora.hls.config import ArrayConfig, board_config

for package in ("torch", "diffusers", "peft", "accelerate"):
    pytest.importorskip(package, reason=f"training needs {package}; the environment of pynq 4 has it")

STEPS = 3


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from systolora.demo.run import demo_pictures
    from systolora.demo.sprites import write_image_folder

    return write_image_folder(tmp_path_factory.mktemp("data") / "pictures", demo_pictures("heart", 0))


def settings_for(pictures: Path, output: Path, **changes: Any) -> Any:
    from systolora.assets import pipeline_folder
    from systolora.training.settings import TrainSettings

    base = TrainSettings(
        model=str(pipeline_folder()),
        data=str(pictures),
        output=str(output),
        steps=STEPS,
        batch=2,
        learning_rate=2e-3,
        rounding="stochastic",
        checkpoint_every=0,
        threads=1,
    )
    return replace(base, **changes)


def bits_of(adapter: Path) -> dict[str, bytes]:
    """The bits of every tensor of an adapter's file; its metadata tells the backend, and so differs."""
    from safetensors.numpy import load_file

    return {name: tensor.tobytes() for name, tensor in load_file(adapter).items()}


@pytest.fixture(scope="module")
def emulator_adapter(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    from systolora.training.trainer import train

    return bits_of(train(settings_for(pictures, tmp_path_factory.mktemp("emulator"))).adapter)


def test_the_command_gives_the_emulators_adapter(
    pictures: Path, tmp_path: Path, emulator_adapter: dict[str, bytes]
) -> None:
    settings = settings_for(pictures, tmp_path)
    options = ("model", "data", "output", "steps", "batch", "learning_rate", "rounding", "checkpoint_every", "threads")
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "systolora",
        "train",
        "--backend",
        "board",
        "--emulated-board",
        "kv260",
    ]
    for name in options:
        command += [f"--{name.replace('_', '-')}", str(getattr(settings, name))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert bits_of(tmp_path / "pytorch_lora_weights.safetensors") == emulator_adapter


def train_on(device: Any, settings: Any, on_step: Callable[[Any], None] | None = None) -> dict[str, bytes]:
    from systolora.training.trainer import Trainer

    trainer = Trainer(settings, device=device)
    try:
        return bits_of(trainer.run(on_step).adapter)
    finally:
        trainer.close()


@pytest.mark.parametrize("executor", ["emulator", "csim"])
def test_faults_on_the_way_do_not_change_a_bit(
    pictures: Path, tmp_path: Path, emulator_adapter: dict[str, bytes], open_board: Callable[..., Any], executor: str
) -> None:
    faults = Faults()
    config = ArrayConfig(rows=16, cols=16)
    device = open_board(config, BoardOptions(executor=executor), faults, program=2.0, interrupt_check=0.02)

    def disturb(report: Any) -> None:
        if report.step == 1:
            faults.hang, faults.lost_interrupt, faults.stale_done = 1, 1, 2
        if report.step == 2:
            faults.hang, faults.ignore_soft_reset = 1, 5

    settings = settings_for(pictures, tmp_path, backend="board")
    with pytest.warns(UserWarning, match="loading the bitstream again"):
        adapter = train_on(device, settings, disturb)
    assert adapter == emulator_adapter
    assert device.retries == 2 and faults.stale_done == 0
    assert len(device.session.device.board.loads) == 2


def test_frozen_weights_stay_on_the_board(pictures: Path, tmp_path: Path, open_board: Callable[..., Any]) -> None:
    device = open_board(board_config("kv260"))
    traffic = device.session.device.board.memory.traffic
    flushed: list[int] = []

    def count(report: Any) -> None:
        flushed.append(traffic.flushed_bytes)

    train_on(device, settings_for(pictures, tmp_path, backend="board", rounding="nearest"), count)
    later = flushed[2] - flushed[1]
    assert later < 0.8 * flushed[0], "the first step also quantizes and uploads the frozen weights"


WORKER = """
import json, sys, warnings
warnings.simplefilter("ignore")
from systolora.emulated_board.opening import open_emulated_board
from systolora.training.settings import TrainSettings
from systolora.training.trainer import Trainer
settings = TrainSettings(**json.loads(sys.argv[1]))
with open_emulated_board("kv260") as device:
    before = device.counters
    trainer = Trainer(settings, device=device)
    trainer.run()
    trainer.close()
    busy = device.counters.busy_cycles - before.busy_cycles
    with open(f"{settings.output}/busy_{trainer.processes.rank}", "w") as file:
        file.write(str(busy))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_processes(world: int, settings: Any) -> None:
    base = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    text = json.dumps(settings.as_dict())
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, text],
            env={**base, "WORLD_SIZE": str(world), "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    errors = [process.communicate(timeout=600)[1] for process in started]
    assert [process.returncode for process in started] == [0] * world, errors


def losses(folder: Path) -> list[float]:
    from systolora.training.trainer import LOG_FILE

    return [json.loads(line)["loss"] for line in (folder / LOG_FILE).read_text().splitlines()]


def test_two_boards_in_two_processes_give_the_adapter_of_one(pictures: Path, tmp_path: Path) -> None:
    """The global batch of four in two halves. Each row of x and of the gradients has its own scale, so a half is quantized as it
    would be in the whole, except where a scale belongs to a column; the mean of the gradients is rounded in another order."""
    import torch
    from safetensors.torch import load_file

    single, double = tmp_path / "single", tmp_path / "double"
    for folder in (single, double):
        folder.mkdir()
    settings = settings_for(pictures, single, batch=4, rounding="nearest", backend="board")
    run_processes(1, settings)
    run_processes(2, replace(settings, output=str(double)))
    one, two = (load_file(folder / "pytorch_lora_weights.safetensors") for folder in (single, double))
    assert one.keys() == two.keys()
    distance = sum(float(torch.sum((one[name] - two[name]) ** 2)) for name in one) ** 0.5
    moved = sum(float(torch.sum(one[name] ** 2)) for name in one if "lora_B" in name or "lora.up" in name) ** 0.5
    print("relative difference of the adapters:", distance / moved)
    assert distance < 0.1 * moved
    for mine, theirs in zip(losses(single), losses(double), strict=True):
        assert mine == pytest.approx(theirs, rel=0.02)
    busy = [int((double / f"busy_{rank}").read_text()) for rank in range(2)]
    alone = int((single / "busy_0").read_text())
    assert all(0.4 * alone < each < 0.75 * alone for each in busy), (busy, alone)
