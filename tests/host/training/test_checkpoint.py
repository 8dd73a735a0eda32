"""Checkpoints are whole or absent, and a file that was changed anywhere is refused with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from systolora.errors import UserError
from systolora.files import write_atomically
from systolora.training.checkpoint import (
    FOLDER,
    Checkpoint,
    checkpoint_bytes,
    list_checkpoints,
    load_checkpoint,
    parse_checkpoint,
    save_checkpoint,
)


def checkpoint(step: int, size: int = 2) -> Checkpoint:
    return Checkpoint(step, {"rate": 0.1 + 0.2, "name": "a"}, {"x": torch.full((size,), float(step))})


def test_the_newest_of_those_kept_is_loaded(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [2, 10]
    found = load_checkpoint(tmp_path)
    assert found is not None and found.step == 10 and found.tensors["x"].tolist() == [10, 10]
    assert found.facts == {"rate": 0.1 + 0.2, "name": "a"}


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None


def test_a_truncated_checkpoint_is_refused_with_what_to_do(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(2), keep=2)
    path = save_checkpoint(tmp_path, checkpoint(3), keep=2)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(
        UserError, match=r"step-0000003.safetensors: the checkpoint cannot be read .* delete it to go on from step 2"
    ):
        load_checkpoint(tmp_path)
    path.unlink()
    found = load_checkpoint(tmp_path)
    assert found is not None and found.step == 2


def test_every_truncation_and_every_added_byte_is_found() -> None:
    data = checkpoint_bytes(checkpoint(3))
    assert parse_checkpoint(data, 3).tensors["x"].tolist() == [3, 3]
    for length in range(len(data)):
        with pytest.raises(ValueError, match="damaged"):
            parse_checkpoint(data[:length], 3)
    with pytest.raises(ValueError, match="damaged"):
        parse_checkpoint(data + b"\0", 3)


def test_every_flipped_bit_is_found() -> None:
    data = checkpoint_bytes(checkpoint(3))
    for place in range(8 * len(data)):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << (place % 8)
        with pytest.raises(ValueError, match="damaged"):
            parse_checkpoint(bytes(changed), 3)


def test_a_renamed_checkpoint_is_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, checkpoint(3), keep=1)
    path.rename(path.with_name("step-0000007.safetensors"))
    with pytest.raises(UserError, match="it was renamed: it holds step 3.* delete it to go on from the start"):
        load_checkpoint(tmp_path)


def test_checkpoints_of_earlier_versions_are_named_and_never_unpickled(tmp_path: Path) -> None:
    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (marker,))

    (tmp_path / FOLDER).mkdir()
    torch.save({"x": Evil()}, tmp_path / FOLDER / "step-0000005.pt")
    with pytest.raises(UserError, match=r"step-0000005.pt: a checkpoint of an earlier version.*another --output"):
        load_checkpoint(tmp_path)
    assert not marker.exists()


def test_a_checkpoint_is_an_ordinary_safetensors_file(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, checkpoint(3), keep=1)
    with safe_open(str(path), framework="pt") as file:
        assert list(file.keys()) == ["x"] and '"step": 3' in file.metadata()["systolora_checkpoint"]


def test_one_that_cannot_be_written_leaves_those_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, checkpoint(3), keep=1)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [1, 2]
    assert {path.suffix for path in (tmp_path / FOLDER).iterdir()} == {".safetensors"}


def test_a_partial_file_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    write_atomically(target, b"old")

    def killed(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", killed)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(target, b"new content")
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
