"""Tensors and facts in one safetensors file with a checksum over all of it, so that damage anywhere is found. Nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

_SEAL = "sha256:"
_UNSEALED = _SEAL + "0" * 64
_CHECKSUM = "checksum"


def seal(key: str, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """The contents of a file.

    Args:
        key: entry of the file's metadata that holds the header: it says what the file is. header: what JSON can hold; floats keep their
            bits.
    """
    facts = {**header, _CHECKSUM: _UNSEALED}
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = save(own, metadata={key: json.dumps(facts, sort_keys=True)})
    return data.replace(_UNSEALED.encode(), _checksum(data).encode(), 1)


def read_header(key: str, data: bytes) -> dict[str, Any]:
    """The header of what `seal` made.

    Raises:
        ValueError: for anything else; a single changed bit is found.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][key])
        checksum = header.pop(_CHECKSUM)
        if not isinstance(checksum, str) or data.count(checksum.encode()) != 1:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError, OverflowError):
        raise ValueError("it is damaged or truncated") from None
    if checksum != _checksum(data.replace(checksum.encode(), _UNSEALED.encode(), 1)):
        raise ValueError("it is damaged: its checksum does not match")
    found: dict[str, Any] = header
    return found


def read_tensors(data: bytes) -> dict[str, Tensor]:
    """The tensors of what `seal` made.

    Raises:
        ValueError: if it holds none.
    """
    try:
        found: dict[str, Tensor] = load(data)
    except SafetensorError:
        raise ValueError("it holds no tensors") from None
    return found


def _checksum(unsealed: bytes) -> str:
    """The checksum of a file whose place for it holds zeros."""
    return _SEAL + hashlib.sha256(unsealed).hexdigest()
