"""Checkpoints are whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from systolora.errors import UserError
from systolora.files import write_atomically
from systolora.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint


def test_the_newest_of_those_kept_is_loaded(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        save_checkpoint(tmp_path, step, {"x": torch.full((2,), float(step))}, keep=2)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [2, 10]
    step, state = load_checkpoint(tmp_path)  # type: ignore[misc]
    assert step == 10 and state["x"].tolist() == [10, 10]


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None


def test_a_truncated_checkpoint_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 3, {"x": torch.zeros(100)}, keep=1)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="step-0000003.pt: the checkpoint cannot be read .* delete it"):
        load_checkpoint(tmp_path)


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
