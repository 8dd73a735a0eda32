"""Checkpoints of a training run: safetensors with a JSON header, sealed by a checksum, written whole or not at all.

A kill at any moment loses no finished checkpoint, and a file that is damaged anywhere is refused. Nothing is unpickled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from systolora.errors import UserError
from systolora.files import write_atomically
from torch import Tensor

from .sealed import read_header, read_tensors, seal

FOLDER = "checkpoints"
VERSION = 2
"""Of the format. Version 1 was a pickle, with the ending .pt."""

_KEY = "systolora_checkpoint"
_NAME = re.compile(r"step-(\d{1,12})\.safetensors")
_OLD_NAME = re.compile(r"step-\d+\.pt")


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after some optimizer steps.

    Attributes:
        step: how many. facts: what JSON can hold; floats keep their bits. tensors: by name.
    """

    step: int
    facts: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def list_checkpoints(output: Path) -> list[tuple[int, Path]]:
    """(step, file) of the finished checkpoints, oldest first."""
    folder = output / FOLDER
    found = ((match, path) for path in folder.glob("step-*.safetensors") if (match := _NAME.fullmatch(path.name)))
    return sorted((int(match[1]), path) for match, path in found)


def old_checkpoints(output: Path) -> list[Path]:
    """Checkpoints that an earlier version wrote as pickles."""
    return sorted(path for path in (output / FOLDER).glob("step-*.pt") if _OLD_NAME.fullmatch(path.name))


def checkpoint_bytes(checkpoint: Checkpoint) -> bytes:
    """The contents of a checkpoint's file."""
    header = {"version": VERSION, "step": checkpoint.step, "facts": checkpoint.facts}
    return seal(_KEY, header, checkpoint.tensors)


def save_checkpoint(output: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Writes a checkpoint and then removes all but the newest `keep`.

    Raises:
        OSError: if it cannot be written; those that are there stay.
    """
    path = output / FOLDER / f"step-{checkpoint.step:07d}.safetensors"
    write_atomically(path, checkpoint_bytes(checkpoint))
    for _, old in list_checkpoints(output)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def load_checkpoint(output: Path) -> Checkpoint | None:
    """The newest checkpoint, or None if there is none.

    Raises:
        UserError: if the newest one is damaged or cannot be read, or only those of an earlier version are there.
    """
    found = list_checkpoints(output)
    if not found:
        refuse_old(output)
        return None
    step, path = found[-1]
    before = f"step {found[-2][0]}" if len(found) > 1 else "the start"
    try:
        return parse_checkpoint(path.read_bytes(), step)
    except OSError as error:
        raise UserError(f"{path}: the checkpoint cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise UserError(f"{path}: the checkpoint cannot be read ({error}); delete it to go on from {before}") from None


def refuse_old(output: Path) -> None:
    """Raises UserError if checkpoints of an earlier version lie there."""
    old = old_checkpoints(output)
    if old:
        raise UserError(
            f"{old[-1]}: a checkpoint of an earlier version, a pickle, which is not read any more; give another --output, or delete it"
        )


def parse_checkpoint(data: bytes, step: int) -> Checkpoint:
    """What `checkpoint_bytes` made.

    Args:
        step: that the file's name says.

    Raises:
        ValueError: for anything else; a single changed bit is found.
    """
    header = read_header(_KEY, data)
    version = header.get("version")
    if version != VERSION:
        raise ValueError(f"it has version {version} of the format, this program reads version {VERSION}")
    try:
        checkpoint = Checkpoint(int(header["step"]), dict(header["facts"]), read_tensors(data))
    except (ValueError, KeyError, TypeError):
        raise ValueError("it does not hold what a checkpoint holds") from None
    if checkpoint.step != step:
        raise ValueError(f"it was renamed: it holds step {checkpoint.step}")
    return checkpoint
