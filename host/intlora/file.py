"""The files of IntLoRA: safetensors with packed integers and float32 scales, sealed by a checksum, written whole or not at all.

Three kinds: `adapter` (the low-rank factors in INT8), `term` (frozen integers and adaptation term, for a merge in integers alone)
and `merged` (the integer weights). The header's one entry `systolora_intlora` is JSON; its checksum covers itself and all tensors.
All arrays of one type lie in one tensor, in the order of the layers, so that a header does not outgrow small layers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from systolora.errors import UserError
from systolora.files import write_atomically

from .settings import IntLoraSettings

HEADER_KEY = "systolora_intlora"
KINDS = ("adapter", "term", "merged")
VERSION = 1


@dataclass(frozen=True)
class IntLoraFile:
    """What a file holds.

    Attributes:
        kind: one of `KINDS`. settings: of the integers. fingerprint: of the frozen weights that it belongs to.
        scaling: alpha / rank. merged: digest of the merged weights.
        layers: name to (out, in, bits of the packed integers).
        tensors: name to array; only scales are float32.
    """

    kind: str
    settings: IntLoraSettings
    fingerprint: str
    scaling: float
    merged: str
    layers: Mapping[str, tuple[int, int, int]]
    tensors: Mapping[str, NDArray[Any]]

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
    }
    header["checksum"] = _checksum(header, bundles)
    write_atomically(path, save(bundles, metadata={HEADER_KEY: _canonical(header)}))
    return path


def read_file(path: Path, kinds: tuple[str, ...] = KINDS) -> IntLoraFile:
    """Reads and checks a file.

    Raises:
        UserError: one line, if it is missing, truncated, changed, or of another kind.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            bundles = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, UnicodeDecodeError, MemoryError) as error:
        raise UserError(f"{path}: the file is damaged or truncated ({_short(error)}); copy it again") from None
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
    except (json.JSONDecodeError, KeyError, AttributeError, TypeError):
        raise damaged from None
    if set(metadata) != {HEADER_KEY} or stated != _checksum(header, bundles):
        raise damaged
    if header["version"] != VERSION:
        raise UserError(f"{path}: version {header['version']} of the format; this program reads version {VERSION}")
    if header["kind"] not in kinds:
        raise UserError(f"{path}: it holds a {header['kind']!r}, expected {' or '.join(kinds)}")
    layers = {name: (int(out), int(width), int(bits)) for name, out, width, bits in header["layers"]}
    return IntLoraFile(
        kind=header["kind"],
        settings=IntLoraSettings.from_dict(header["settings"]),
        fingerprint=header["fingerprint"],
        scaling=float(header["scaling"]),
        merged=header["merged"],
        layers=layers,
        tensors=_unbundle(bundles, header["layout"], layers),
    )


def require_fingerprint(path: Path, content: IntLoraFile, found: str) -> None:
    """Raises UserError if a file belongs to other frozen weights than those with this fingerprint."""
    if content.fingerprint != found:
        raise UserError(
            f"{path}: made for a model with fingerprint {content.fingerprint}, but this model has {found}; give the --model "
            "that it was trained on"
        )


def fingerprint_of(weights: Mapping[str, NDArray[np.float32]]) -> str:
    """A hash of frozen weights, by name, shape and float32 bits; 32 hexadecimal digits."""
    state = hashlib.blake2b(digest_size=16)
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name], "<f4")
        state.update(f"{name} {array.shape};".encode())
        state.update(array.tobytes())
    return state.hexdigest()


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


def _unbundle(
    bundles: Mapping[str, NDArray[Any]], layout: Mapping[str, Any], layers: Mapping[str, Any]
) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {}
    start = dict.fromkeys(bundles, 0)
    for ending, (kind, shapes) in sorted(layout.items()):
        for layer, shape in zip(layers, shapes, strict=True):
            size = int(np.prod(shape, dtype=np.int64))
            found[f"{layer}.{ending}"] = bundles[kind][start[kind] : start[kind] + size].reshape(shape)
            start[kind] += size
    return found


def _checksum(header: dict[str, Any], tensors: Mapping[str, NDArray[Any]]) -> str:
    state = hashlib.blake2b(_canonical(header).encode(), digest_size=32)
    for name in sorted(tensors):
        array = tensors[name]
        state.update(f"{name} {array.dtype.str} {array.shape};".encode())
        state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()


def _canonical(header: dict[str, Any]) -> str:
    return json.dumps(header, sort_keys=True, separators=(",", ":"))


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__
