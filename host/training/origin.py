"""What a run was begun with, as its checkpoints tell it, and whether a continuation has the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from systolora.errors import UserError
from systolora.models.sources import local_path

from .fingerprints import check_same, data_fingerprint, model_fingerprint
from .prior import class_folder, class_pictures
from .settings import RESUME_FREE, TrainSettings
from .sources import find_data
from .start_adapter import adapter_fingerprint

_BEFORE = {"transfer_type": "float32"}
"""What checkpoints were trained with that are older than a setting, where that is not today's default."""

_BY_CONTENTS = {"model": "--model", "data": "--data", "init_from": "--init-from"}
_FOLDERS = frozenset({"model_config", "class_data"})
"""Compared with those: what the model's configurations and the pictures of the class are."""

_CACHED = "cache_dir"
"""Where the cache is may change, whether there is one may not: with it, pictures are encoded one by one, which rounds otherwise."""


@dataclass(frozen=True)
class Origin:
    """Settings that must stay, and the contents of model and data folder.

    Attributes:
        settings: without folders and what may change. contents: fingerprints of `model`, `data` and, of a run that began with
            an adapter, `init_from`.
    """

    settings: Mapping[str, Any]
    contents: Mapping[str, Mapping[str, str]]

    @classmethod
    def of(cls, settings: TrainSettings) -> Origin:
        """Reads all files of the model folder that training uses, and all pictures.

        Raises:
            UserError: for pictures that cannot be used.
        """
        model, data = local_path(settings.model, settings.variant), Path(settings.data)
        config = local_path(settings.model_config) if settings.model_config else None
        pictures = data_fingerprint(data, find_data(data, settings)[0])
        if settings.class_prompt:
            folder = class_folder(settings)
            theirs = data_fingerprint(folder, class_pictures(folder, settings))
            pictures |= {f"class/{name}": digest for name, digest in theirs.items()}
        contents = {"model": model_fingerprint(model, config), "data": pictures}
        if settings.init_from:
            contents["init_from"] = adapter_fingerprint(Path(settings.init_from))
        return cls(_kept(settings), contents)

    def facts(self) -> dict[str, Any]:
        """For a checkpoint's header."""
        return {"settings": dict(self.settings), **{name: dict(files) for name, files in self.contents.items()}}

    def check(self, saved: Mapping[str, Any]) -> None:
        """Holds the run against the facts of a checkpoint.

        Raises:
            UserError: naming the first difference.
        """
        if ("init_from" in saved) != ("init_from" in self.contents):
            began = "began" if "init_from" in saved else "did not begin"
            raise UserError(
                f"--resume: the checkpoint's run {began} with an adapter (--init-from); give the same, or another --output"
            )
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
            check_same(option, saved.get(name, {}), self.contents.get(name, {}))


def _kept(settings: TrainSettings) -> dict[str, Any]:
    free = RESUME_FREE | set(_BY_CONTENTS) | _FOLDERS
    kept = {name: value for name, value in settings.as_dict().items() if name not in free}
    return kept | {_CACHED: bool(settings.cache_dir)}
