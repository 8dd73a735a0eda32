"""A board on the network: pynq's own RemoteDevice, over gRPC to an emulated board."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from systolora.bitstreams.manifest import FileEntry, load_manifest, render_manifest
from systolora.bitstreams.store import PACKAGE, digest
from systolora.emulated_board.hardware import BoardOptions, EmulatedBoard, write_design
from systolora.emulated_board.kernel import KernelOptions
from systolora.hls.boards import pl_clock
from systolora.hls.config import board_config
from systolora.sim.functional.device import OutOfDeviceMemory, Program
from systolora.sim.functional.randoms import random_gemm, random_quantize
from systolora.sim.functional.trials import Trial, gemm_trial, join, quantize_trial

pytest.importorskip("pynq.pl_server.remote_device", reason="pynq 3.0 has no PYNQ.remote; 3.1 and later have")
ULTRA = board_config("ultra96v2")


def built_folder(folder: Path, edit: Callable[[str], str] = str) -> Path:
    """A folder as a real build leaves it, in all but what is in the bitstream."""
    write_design(folder, ULTRA, edit)
    shutil.copy(PACKAGE / "ultra96v2" / "registers.json", folder)
    emulated = load_manifest(PACKAGE / "ultra96v2")
    files = tuple(
        FileEntry(path.name, digest(path), path.stat().st_size) for path in sorted(folder.iterdir()) if path.is_file()
    )
    manifest = replace(
        emulated,
        kind="built",
        built=emulated.estimated,
        worst_slack_ns=0.1,
        tools={"vitis_hls": "2024.1", "vivado": "2024.1"},
        files=files,
        clock_mhz=pl_clock(ULTRA).mhz,
    )
    (folder / "manifest.json").write_text(render_manifest(manifest))
    return folder


@pytest.fixture
def server() -> Iterator[Any]:
    from systolora.emulated_board.remote import serve

    running = serve(EmulatedBoard(ULTRA, BoardOptions(cma_mb=16)))
    yield running
    running.stop()


@pytest.fixture
def remote(server: Any, tmp_path: Path) -> Iterator[Any]:
    from systolora.board.opening import open_board

    with open_board(bitstream=built_folder(tmp_path), remote=server.address) as device:
        yield device


def make_trial(device: Any, seed: int) -> Trial:
    rng = np.random.default_rng(seed)
    parts = [quantize_trial(device, rng, random_quantize(rng, 9, 33))]
    parts += [gemm_trial(device, rng, random_gemm(device.config, rng, 20, 30, 40)) for _ in range(2)]
    return join(parts)


def test_a_remote_board_computes_the_reference_bits_by_polling(remote: Any, server: Any) -> None:
    assert remote.name == "board ULTRA96V2" and remote.session.polls
    for seed in range(3):
        trial = make_trial(remote, seed)
        remote.run(trial.program)
        assert trial.mismatch() == ""
    assert len(server.board.loads) == 1 and server.board.loads[0].startswith("systolora_")


def test_few_registers_are_written_for_a_program(remote: Any, server: Any) -> None:
    trial = make_trial(remote, 0)
    for _ in range(2):
        remote.run(trial.program)
    writes: list[int] = []
    original = server.board.bus.write32
    server.board.bus.write32 = lambda address, value: (writes.append(address & 0xFFFF), original(address, value))
    remote.run(trial.program)
    assert len(writes) <= 4, "the lane's two addresses, the sequence number, the start"


def test_memory_exhausted_on_the_far_end_is_noticed(remote: Any) -> None:
    with pytest.raises(OutOfDeviceMemory, match=r"20.0 MiB asked for; \d+.\d MiB of the 16.0 MiB pool"):
        remote.allocate(20 << 20)
    trial = make_trial(remote, 1)
    remote.run(trial.program)
    assert trial.mismatch() == ""


def test_a_connection_that_breaks_is_a_lost_board(tmp_path: Path) -> None:
    from systolora.board.errors import BoardLost
    from systolora.board.opening import open_board
    from systolora.emulated_board.remote import serve

    options = BoardOptions(cma_mb=16, kernel=KernelOptions(latency=0.5))
    server = serve(EmulatedBoard(ULTRA, options))
    device = open_board(bitstream=built_folder(tmp_path), remote=server.address)
    trials = [make_trial(device, seed) for seed in range(2)]
    futures = [device.submit(trial.program) for trial in trials]
    server.stop()
    began = time.monotonic()
    for future in futures:
        with pytest.raises(BoardLost, match=r"board ULTRA96V2: the board is lost: the connection failed .*--resume"):
            future.result(20)
    with pytest.raises(BoardLost):
        device.submit(Program(trials[0].program.code, (), ()))
    device.close()
    assert time.monotonic() - began < 20


def test_a_far_end_that_never_answers_meets_a_deadline(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import grpc
    from systolora.board.remote import connect

    device = connect(server.address, deadline=0.3)
    monkeypatch.setattr(server.board.bus, "read32", lambda address: time.sleep(1.0) or 0)
    registers = device.mmap(0xFF5E_0000, 4)
    with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
        registers.read(0)


def test_nobody_there(tmp_path: Path) -> None:
    from systolora.board.errors import BoardOpenError
    from systolora.board.opening import open_board

    with pytest.raises(
        BoardOpenError, match=r"^board, connection: no PYNQ.remote server answers at 127.0.0.1:1 .*7967"
    ):
        open_board(bitstream=built_folder(tmp_path), remote="127.0.0.1:1")


def test_another_design_under_the_same_name_is_sent(server: Any, tmp_path: Path) -> None:
    """pynq would take the first one again: the board has a file of that name, and the bitstream has the same bytes."""
    from systolora.board.opening import open_board

    for index in range(2):
        folder = built_folder(tmp_path / str(index), edit=lambda text, index=index: text + "\n" * index)
        open_board(bitstream=folder, remote=server.address).close()
    assert len(set(server.board.loads)) == 2


def test_pynqs_own_self_test_of_a_remote_board(server: Any, tmp_path: Path) -> None:
    """`python -m pynq.remote.selftest`, which pynq 4.0 brings; what fails there would be a fault of the emulated server."""
    pytest.importorskip("pynq.remote.selftest", reason="pynq 4.0 brings it")
    folder = built_folder(tmp_path)
    host, _, port = server.address.partition(":")
    command = [sys.executable, "-W", "ignore", "-m", "pynq.remote.selftest", "--ip", host, "--port", port]
    done = subprocess.run(
        [*command, "--bitstream", str(folder / "systolora.bit")], capture_output=True, text=True, timeout=120
    )
    print(done.stdout[-3000:], done.stderr[-2000:])
    assert done.returncode == 0
