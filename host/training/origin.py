"""What a run was begun with, as its checkpoints tell it, and whether a continuation has the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from systolora.errors import UserError

from .captions import find_pictures
from .fingerprints import check_same, data_fingerprint, model_fingerprint
from .settings import RESUME_FREE, TrainSettings

_BEFORE = {"transfer_type": "float32"}
"""What checkpoints were trained with that are older than a setting, where that is not today's default."""

_BY_CONTENTS = {"model": "--model", "data": "--data"}


@dataclass(frozen=True)
class Origin:
    """Settings that must stay, and the contents of model and data folder.

    Attributes:
        settings: without folders and what may change. contents: fingerprints of `model` and `data`.
    """

    settings: Mapping[str, Any]
    contents: Mapping[str, Mapping[str, str]]

    @classmethod
    def of(cls, settings: TrainSettings) -> Origin:
        """Reads all files of the model folder that training uses, and all pictures.

        Raises:
            UserError: for pictures that cannot be used.
        """
        model, data = Path(settings.model), Path(settings.data)
        return cls(
            _kept(settings),
            {"model": model_fingerprint(model), "data": data_fingerprint(data, find_pictures(data, settings.prompt))},
        )

    def facts(self) -> dict[str, Any]:
        """For a checkpoint's header."""
        return {"settings": dict(self.settings), **{name: dict(files) for name, files in self.contents.items()}}

    def check(self, saved: Mapping[str, Any]) -> None:
        """Holds the run against the facts of a checkpoint.

        Raises:
            UserError: naming the first difference.
        """
        if set(saved) != set(self.facts()) or not all(isinstance(value, dict) for value in saved.values()):
            raise UserError("--resume: the checkpoint's header is not that of a training run; delete it")
        # A setting that the checkpoint's version did not have had the effect of the default, or of what was done then.
        theirs = _kept(TrainSettings()) | _BEFORE | saved["settings"]
        for name in theirs:
            if name == "transfer_type" and self.settings["precision"] == "float32":
                continue  # nothing crosses
            if name not in self.settings:
                raise UserError(
                    f"--resume: the checkpoint has a setting {name[:60]!r}, which this version does not know"
                )
            if theirs[name] != self.settings[name]:
                raise UserError(
                    f"--resume: --{name.replace('_', '-')} is {self.settings[name]!r} but the checkpoint has {theirs[name]!r}; "
                    "give the same settings, or another --output"
                )
        for name, option in _BY_CONTENTS.items():
            check_same(option, saved[name], self.contents[name])


def _kept(settings: TrainSettings) -> dict[str, Any]:
    free = RESUME_FREE | set(_BY_CONTENTS)
    return {name: value for name, value in settings.as_dict().items() if name not in free}
