"""An output folder is locked, tried out before the work, and never costs a file that is not ours."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from systolora.errors import UserError
from systolora.training.adapter import ADAPTER_FILE, INTLORA_FILE
from systolora.training.checkpoint import FOLDER, Checkpoint, save_checkpoint
from systolora.training.folder import LOCK_FILE, LOG_FILE, RunFolder, rescue


def opened(path: Path, resume: bool = False) -> RunFolder:
    return RunFolder(path, resume, checkpoints=True)


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_second_run_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    first = opened(tmp_path)
    with pytest.raises(UserError, match=rf"another run is writing there \(process {os.getpid()}\); .*another --output"):
        opened(tmp_path)
    first.close()
    opened(tmp_path).close()
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_killed_run_leaves_no_lock(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        held = opened(tmp_path)
        os.write(writing, b"1")
        signal.pause()
        os._exit(held is None)
    os.close(writing)
    try:
        assert os.read(reading, 1) == b"1"
        with pytest.raises(UserError, match=f"process {child}"):
            opened(tmp_path)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
    assert (tmp_path / LOCK_FILE).exists()
    opened(tmp_path).close()


def _a_file(path: Path) -> Path:
    path.write_text("mine")
    return path


def _below_a_file(path: Path) -> Path:
    path.write_text("mine")
    return path / "run"


def _adapter_is_a_folder(path: Path) -> Path:
    (path / ADAPTER_FILE).mkdir(parents=True)
    return path


def _log_is_a_folder(path: Path) -> Path:
    (path / LOG_FILE).mkdir(parents=True)
    return path


def _checkpoints_is_a_file(path: Path) -> Path:
    path.mkdir()
    (path / FOLDER).write_text("mine")
    return path


def _not_writable(path: Path) -> Path:
    return Path("/proc/systolora-run")  # even root cannot make a folder there


def _foreign_adapter(path: Path) -> Path:
    path.mkdir()
    save_file({"x": torch.zeros(1)}, path / ADAPTER_FILE)
    return path


def _foreign_integers(path: Path) -> Path:
    path.mkdir()
    (path / INTLORA_FILE).write_bytes(b"mine")
    return path


def _foreign_log(path: Path) -> Path:
    path.mkdir()
    (path / LOG_FILE).write_text('{"event": "mine"}\n')
    return path


def _old_checkpoints(path: Path) -> Path:
    (path / FOLDER).mkdir(parents=True)
    (path / FOLDER / "step-0000005.pt").write_bytes(b"a pickle")
    return path


def _run_with_checkpoints(path: Path) -> Path:
    save_checkpoint(path, Checkpoint(7, {}, {}), keep=1)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_a_file, "cannot be written"),
        (_below_a_file, "cannot be written"),
        (_not_writable, "cannot be written"),
        (_checkpoints_is_a_file, "cannot be written"),
        (_adapter_is_a_folder, f"{ADAPTER_FILE} in it was not written by systolora"),
        (_log_is_a_folder, "is not the log of a run"),
        (_foreign_adapter, f"{ADAPTER_FILE} in it was not written by systolora"),
        (_foreign_integers, f"{INTLORA_FILE} in it was not written by systolora"),
        (_foreign_log, "is not the log of a run"),
        (_old_checkpoints, "a checkpoint of an earlier version"),
        (_run_with_checkpoints, "checkpoints of a run, up to step 7; go on with --resume, or give another --output"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_and_stays_as_it_was(
    tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    path = make(tmp_path / "out")
    before = listing(tmp_path)
    with pytest.raises(UserError, match=message):
        opened(path)
    assert listing(tmp_path) == before


def test_folders_that_were_made_for_nothing_are_taken_away(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    opened(tmp_path / "mine" / "a" / "b").close()
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


def test_partial_files_of_a_killed_run_go_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    ours = [f".{ADAPTER_FILE}.12.partial", f".{LOG_FILE}.3.partial", f"{FOLDER}/.step-0000004.safetensors.99.partial"]
    theirs = [".film.mkv.7.partial", "step.partial", f"{FOLDER}/.step-x.9.partial"]
    for name in (*ours, *theirs):
        (tmp_path / name).write_bytes(b"x")
    opened(tmp_path).close()
    assert set(listing(tmp_path)) == set(theirs)


def test_no_room_is_told_before_the_work(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    folder.check_space(1 << 20)
    with pytest.raises(UserError, match=r"cannot be written: .*; .* MiB are needed for checkpoints and adapter"):
        folder.check_space(1 << 60)
    folder.close()


def test_an_adapter_that_cannot_be_put_in_place_is_kept_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spare = tmp_path / "spare"
    spare.mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(spare))

    def write(folder: Path) -> Path:
        if folder == tmp_path:
            raise OSError(28, "No space left on device")
        (folder / "adapter").write_bytes(b"trained")
        return folder / "adapter"

    with pytest.raises(
        UserError, match=r"cannot be written there \(No space left on device\); it is in (.*)"
    ) as caught:
        rescue(write, tmp_path)
    kept = Path(str(caught.value).rpartition("it is in ")[2])
    assert kept.read_bytes() == b"trained" and spare in kept.parents
