"""What a run keeps in its output folder on the way: the log, and checkpoints that say what it was begun with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from systolora.errors import UserError
from systolora.files import write_atomically
from torch import Tensor

from .adapter import public_settings
from .checkpoint import Checkpoint, list_checkpoints, load_checkpoint, save_checkpoint
from .fingerprints import data_fingerprint
from .folder import RunFolder
from .origin import Origin
from .run_record import LOG_FILE, digest_of, read_run, versions
from .settings import TrainSettings
from .sources import find_data

_LOSSES = "losses"
_PROCESSES = "processes"


class Records:
    """The records of one run. Only the process that opened the folder writes; all may read."""

    def __init__(self, settings: TrainSettings) -> None:
        self.settings = settings
        self.output = Path(settings.output)
        self._folder: RunFolder | None = None

    @property
    def is_open(self) -> bool:
        """Whether this process holds the folder."""
        return self._folder is not None

    @cached_property
    def origin(self) -> Origin:
        """Of this run, read when it is first asked for."""
        return Origin.of(self.settings)

    def fingerprint(self) -> str:
        """SHA-256 of the data: pictures and captions by name."""
        if self.settings.checkpoints:
            return digest_of(self.origin.contents["data"])
        folder = Path(self.settings.data)
        return digest_of(data_fingerprint(folder, find_data(folder, self.settings)[0]))

    def changes(self) -> list[str]:
        """What is not as it was when the run was last started, though a run may go on with it; a line each for settings and versions."""
        before = read_run(self.output) or {}
        ours = {
            name: value for name, value in public_settings(self.settings).items() if name not in ("resume", "model")
        }
        pairs = (("settings", ours), ("versions", versions()))
        lines = []
        for what, found in pairs:
            old = before.get(what) or {}
            changed = [
                f"{name} {old[name]!r} to {value!r}" for name, value in found.items() if old.get(name, value) != value
            ]
            lines += [f"{what} that changed since the run was last started: {', '.join(changed)}"] if changed else []
        return lines

    def open_folder(self) -> None:
        """Makes, locks and tries out the folder.

        Raises:
            UserError: if it cannot be used.
        """
        self._folder = RunFolder(self.output, self.settings.resume, self.settings.checkpoints)

    def begin(self, step: int, size: int) -> None:
        """Before the first step of this process: room is there, and the log ends with step `step`.

        Args:
            size: bytes of the adapter.

        Raises:
            UserError: if the folder has no room.
        """
        assert self._folder is not None
        if self.settings.checkpoints:
            _ = self.origin  # of the files as they are now, not at the first checkpoint
            size += 2 * (3 * size + 8 * self.settings.steps)
        self._folder.check_space(size)
        path = self.output / LOG_FILE
        if path.exists():
            rows = path.read_bytes().splitlines(keepends=True)[:step]
            write_atomically(path, b"".join(row for row in rows if row.endswith(b"\n")))

    def log(self, row: Mapping[str, Any]) -> None:
        """Appends a row to the log.

        Raises:
            OSError: if it cannot be written.
        """
        with (self.output / LOG_FILE).open("a") as file:
            file.write(json.dumps(row) + "\n")

    def checkpoint(self, step: int, losses: list[float], state: Mapping[str, Tensor], world: int) -> None:
        """Writes a checkpoint and removes those that are too many.

        Args:
            world: number of processes that train.

        Raises:
            OSError: if it cannot be written; those that are there stay.
        """
        tensors = {**state, _LOSSES: torch.tensor(losses, dtype=torch.float64)}
        facts = {**self.origin.facts(), _PROCESSES: world}
        save_checkpoint(self.output, Checkpoint(step, facts, tensors), self.settings.keep_checkpoints)

    def newest(self) -> tuple[list[float], dict[str, Tensor], int] | None:
        """(loss of every step, state, number of processes) of the newest checkpoint, or None.

        Raises:
            UserError: if it cannot be read, or is of another run or beyond this one's steps.
        """
        found = load_checkpoint(self.output)
        if found is None:
            return None
        if found.step > self.settings.steps:
            raise UserError(f"--resume: the checkpoint is at step {found.step}, beyond --steps {self.settings.steps}")
        facts = dict(found.facts)
        world = facts.pop(_PROCESSES, 1)  # of before it was kept: unknown, and one most likely
        if not isinstance(world, int):
            raise UserError("--resume: the checkpoint's header is not that of a training run; delete it")
        self.origin.check(facts)
        state = dict(found.tensors)
        losses = state.pop(_LOSSES, torch.empty(0))
        if losses.shape != (found.step,) or losses.dtype != torch.float64:
            raise UserError("--resume: the checkpoint lacks the losses of its steps; delete it")
        return losses.tolist(), state, world

    def last(self) -> str:
        """Which checkpoint is the newest, in words."""
        found = list_checkpoints(self.output)
        return f"the last checkpoint is of step {found[-1][0]}" if found else "there is no checkpoint"

    def close(self) -> None:
        """Gives the folder free; a second call does nothing."""
        if self._folder:
            self._folder.close()
            self._folder = None
