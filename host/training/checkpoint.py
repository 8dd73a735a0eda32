"""Checkpoints of a training run: written whole or not at all, so that a kill at any moment loses no finished one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from systolora.errors import UserError
from systolora.files import write_atomically

FOLDER = "checkpoints"
_NAME = re.compile(r"step-(\d+)\.pt")


def list_checkpoints(output: Path) -> list[tuple[int, Path]]:
    """(step, file) of the finished checkpoints, oldest first."""
    folder = output / FOLDER
    found = ((match, path) for path in folder.glob("step-*.pt") if (match := _NAME.fullmatch(path.name)))
    return sorted((int(match[1]), path) for match, path in found)


def save_checkpoint(output: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Writes the state after `step` optimizer steps and removes all but the newest `keep`."""
    import io

    buffer = io.BytesIO()
    torch.save(state, buffer)
    path = output / FOLDER / f"step-{step:07d}.pt"
    write_atomically(path, buffer.getvalue())
    for _, old in list_checkpoints(output)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def load_checkpoint(output: Path) -> tuple[int, dict[str, Any]] | None:
    """(step, state) of the newest checkpoint, or None if there is none.

    Raises:
        UserError: if the newest one cannot be read.
    """
    found = list_checkpoints(output)
    if not found:
        return None
    step, path = found[-1]
    try:
        return step, torch.load(path, weights_only=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{path}: the checkpoint cannot be read ({reason}); delete it to go on from the one before"
        ) from None
