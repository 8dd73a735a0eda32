"""The files of IntLoRA: safetensors with packed integers and float32 scales, sealed by a checksum, written whole or not at all.

Three kinds: `adapter` (the low-rank factors in INT8), `term` (frozen integers and adaptation term, for a merge in integers alone)
and `merged` (the integer weights). The header's one entry `systolora_intlora` is JSON; its checksum covers itself and all tensors.
All arrays of one type lie in one tensor, in the order of the layers, so that a header does not outgrow small layers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from systolora.errors import UserError
from systolora.files import write_atomically

from .layouts import KINDS, MalformedError, checked_copies, checked_layers, checked_number, checked_text, unbundled
from .settings import IntLoraSettings

HEADER_KEY = "systolora_intlora"
VERSION = 1


@dataclass(frozen=True)
class IntLoraFile:
    """What a file holds.

    Attributes:
        kind: one of `KINDS`. settings: of the integers. fingerprint: of the frozen weights that it belongs to.
        scaling: alpha / rank. merged: digest of the merged weights.
        layers: name to (out, in, bits of the packed integers).
        tensors: name to array; only scales are float32.
        copies: fingerprints of the same weights in other types, by type.
    """

    kind: str
    settings: IntLoraSettings
    fingerprint: str
    scaling: float
    merged: str
    layers: Mapping[str, tuple[int, int, int]]
    tensors: Mapping[str, NDArray[Any]]
    copies: Mapping[str, str] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """How many integers are stored."""
        return sum(array.size for array in self.integers().values())

    def integers(self) -> dict[str, NDArray[Any]]:
        """The tensors that are not scales."""
        return {name: array for name, array in self.tensors.items() if array.dtype != np.float32}


def write_file(path: Path, content: IntLoraFile) -> Path:
    """Writes a file in one step."""
    tensors = {name: np.ascontiguousarray(array) for name, array in content.tensors.items()}
    bundles, layout = _bundle(tensors, content.layers)
    header: dict[str, Any] = {
        "version": VERSION,
        "kind": content.kind,
        "settings": content.settings.as_dict(),
        "fingerprint": content.fingerprint,
        "scaling": content.scaling,
        "merged": content.merged,
        "layers": [[name, *shape] for name, shape in content.layers.items()],
        "layout": layout,
        "copies": dict(content.copies),
    }
    header["checksum"] = _checksum(header, bundles)
    write_atomically(path, save(bundles, metadata={HEADER_KEY: _canonical(header)}))
    return path


def read_file(path: Path, kinds: tuple[str, ...] = KINDS) -> IntLoraFile:
    """Reads and checks a file.

    Raises:
        UserError: one line, if it is missing, truncated, changed, of another kind, or holds what no file of this program does.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            bundles = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, UnicodeDecodeError, MemoryError) as error:
        raise UserError(
            f"{path}: the file is damaged or truncated ({_short(str(error)) or type(error).__name__}); copy it again"
        ) from None
    if HEADER_KEY not in metadata:
        raise UserError(f"{path}: it is no IntLoRA file (no {HEADER_KEY!r} in its header)")
    return _parse(path, metadata, bundles, kinds)


def _parse(
    path: Path, metadata: dict[str, str], bundles: dict[str, NDArray[Any]], kinds: tuple[str, ...]
) -> IntLoraFile:
    damaged = UserError(f"{path}: the file is damaged (its checksum does not match); copy it again")
    try:
        header = json.loads(metadata[HEADER_KEY])
        stated = header.pop("checksum")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise damaged from None
    if set(metadata) != {HEADER_KEY} or stated != _checksum(header, bundles):
        raise damaged
    version = header.get("version")
    if version != VERSION:
        raise UserError(f"{path}: version {_short(repr(version))} of the format; this program reads version {VERSION}")
    if header.get("kind") not in KINDS:
        raise UserError(f"{path}: it holds a {_short(repr(header.get('kind')))}; this program knows {', '.join(KINDS)}")
    if header["kind"] not in kinds:
        raise UserError(f"{path}: it holds a {header['kind']!r}, expected {' or '.join(kinds)}")
    try:
        return _content(header, bundles)
    except (MalformedError, UserError) as error:
        raise UserError(f"{path}: it is no file that this program wrote ({_short(str(error), 200)})") from None


def _content(header: dict[str, Any], bundles: dict[str, NDArray[Any]]) -> IntLoraFile:
    settings = IntLoraSettings.from_dict(header.get("settings"))
    layers = checked_layers(header, header["kind"], settings)
    return IntLoraFile(
        kind=header["kind"],
        settings=settings,
        fingerprint=checked_text(header, "fingerprint"),
        scaling=checked_number(header, "scaling"),
        merged=checked_text(header, "merged"),
        layers=layers,
        tensors=unbundled(header["kind"], settings, layers, header.get("layout"), bundles),
        copies=checked_copies(header),
    )


def _bundle(
    tensors: Mapping[str, NDArray[Any]], layers: Mapping[str, Any]
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """One flat array per type, and where the parts are: {ending: [type, shape for each layer]}."""
    first = next(iter(layers))
    endings = sorted(name.removeprefix(f"{first}.") for name in tensors if name.startswith(f"{first}."))
    layout: dict[str, Any] = {}
    parts: dict[str, list[NDArray[Any]]] = {}
    for ending in endings:
        arrays = [tensors[f"{layer}.{ending}"] for layer in layers]
        kind = arrays[0].dtype.name
        layout[ending] = [kind, [list(array.shape) for array in arrays]]
        parts.setdefault(kind, []).extend(array.reshape(-1) for array in arrays)
    return {kind: np.concatenate(some) for kind, some in parts.items()}, layout


def _checksum(header: dict[str, Any], tensors: Mapping[str, NDArray[Any]]) -> str:
    state = hashlib.blake2b(_canonical(header).encode(), digest_size=32)
    for name in sorted(tensors):
        array = tensors[name]
        state.update(f"{name} {array.dtype.str} {array.shape};".encode())
        state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()


def _canonical(header: dict[str, Any]) -> str:
    return json.dumps(header, sort_keys=True, separators=(",", ":"))


def _short(text: str, length: int = 100) -> str:
    return " ".join(text.split())[:length]
