"""Latents and text embeddings on disk, by what they were made from, so that a second run need not encode them again.

An entry's name is a SHA-256 of everything that its contents depend on; an entry that is damaged is made anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from systolora.errors import UserError
from systolora.files import write_atomically
from systolora.outputs import try_writing
from torch import Tensor

from .sealed import read_header, read_tensors, seal

_MARK = "systolora_cache"
_VERSION = 1
"""Of what the entries hold; another one makes other names."""


class EncodingCache:
    """A folder of entries; any number of runs and processes may use it at once.

    Args:
        folder: made if it is not there.

    Attributes:
        notes: what the user should know, a line each. hits, made: entries that were there, and that were not.

    Raises:
        UserError: if the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: list[str] = []
        self.hits = self.made = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            try_writing(folder)
        except OSError as error:
            raise UserError(f"--cache-dir {folder}: it cannot be written: {error.strerror or error}") from None

    def holds(self, **facts: Any) -> bool:
        """Whether there is an entry made from these facts, whatever its state."""
        return self._path(_name(facts)).is_file()

    def get(self, make: Callable[[], Mapping[str, Tensor]], **facts: Any) -> dict[str, Tensor]:
        """The entry made from these facts, or what `make` gives, which is kept.

        Args:
            facts: what JSON can hold, that the entry depends on.
        """
        name = _name(facts)
        found = self._read(name)
        if found is not None:
            self.hits += 1
            return found
        made = {key: tensor.detach().contiguous() for key, tensor in make().items()}
        self.made += 1
        try:
            write_atomically(self._path(name), seal(_MARK, {"name": name}, made))
        except OSError as error:
            # The run does not need it; one line is enough.
            line = f"--cache-dir {self.folder}: it cannot be written ({error.strerror or error}): what is encoded is not kept"
            self.notes += [line] if line not in self.notes else []
        return made

    def _read(self, name: str) -> dict[str, Tensor] | None:
        path = self._path(name)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self.notes.append(
                f"{path}: the cached encoding cannot be read ({error.strerror or error}); it is made anew"
            )
            return None
        try:
            if read_header(_MARK, data).get("name") != name:
                raise ValueError("it was renamed")
            return read_tensors(data)
        except ValueError as error:
            self.notes.append(f"{path}: the cached encoding cannot be used ({error}); it is made anew")
            return None

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / f"{name}.safetensors"


def model_digest(*models: Any) -> str:
    """SHA-256 of the configurations and weights of models, whatever files they were loaded from."""
    digest = hashlib.sha256()
    for model in models:
        digest.update(json.dumps(_own_config(model.config), sort_keys=True, default=str).encode())
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(f"\0{name} {tensor.dtype} {list(tensor.shape)}\0".encode())
            digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def _own_config(config: Any) -> dict[str, Any]:
    """Without what diffusers and transformers note of where a model came from and which version wrote it."""
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return {
        name: value for name, value in values.items() if not name.startswith("_") and name != "transformers_version"
    }


def _name(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([_VERSION, facts], sort_keys=True).encode()).hexdigest()
