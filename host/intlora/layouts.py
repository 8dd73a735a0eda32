"""What has to stand in an IntLoRA file: every field of its header, and the type, shape and range of every tensor.

A checksum says that a file is as it was written, not that this program wrote it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .packing import packed_bytes
from .settings import IntLoraSettings

KINDS = ("adapter", "term", "merged")
STATE = "state_"
"""Before the names of what a rule's `state` gives."""

_DIGEST_LETTERS = 32
_LARGEST_SHIFT = 31
_LARGEST_SIDE = 2**31

Layers = dict[str, tuple[int, int, int]]
Kinds = dict[str, tuple[str, tuple[int, ...]]]
"""Ending of a tensor's name to (type, shape)."""


class MalformedError(ValueError):
    """Something in a file is not what it has to be; the text says what."""


def term_bits(settings: IntLoraSettings) -> int:
    """Bits of one code of the adaptation term: `bits` for MUL; for SHIFT a sign and a position."""
    return settings.bits if settings.method == "mul" else (settings.shift_span + 1).bit_length() + 1


def tensor_kinds(kind: str, settings: IntLoraSettings, layer: tuple[int, int, int], rank: int) -> Kinds:
    """The tensors of one layer (out, in, bits) of a file of that kind; rank counts for adapters alone."""
    out, inner, bits = layer
    per_row: Kinds = {"scale": ("float32", (out,))}
    if kind == "adapter":
        found: Kinds = {"down": ("int8", (rank, inner)), "up": ("int8", (out, rank)), "scales": ("float32", (2,))}
        if settings.refresh_every:
            offset = "zero" if settings.method == "mul" else "top"
            state = {**per_row, offset: ("int32", (out,)), "narrowing": ("int32", (out,))}
            found.update({f"{STATE}{name}": each for name, each in state.items()})
        return found
    packed = ("uint8", (packed_bytes(out * inner, bits),))
    if kind == "merged":
        return {"weight": packed, **per_row}
    zeros = ("frozen_zero", "term_zero") if settings.method == "mul" else ("frozen_zero",)
    return {
        "term": packed,
        "frozen": ("uint8", (packed_bytes(out * inner, settings.bits),)),
        **dict.fromkeys(zeros, ("int32", (out,))),
        **per_row,
        "narrowing": ("uint8", (out,)),
    }


def checked_text(header: Mapping[str, Any], name: str) -> str:
    """A digest in a header."""
    return _digest(header.get(name), name)


def checked_number(header: Mapping[str, Any], name: str) -> float:
    """A finite number in a header."""
    value = header.get(name)
    _require(isinstance(value, (int, float)) and not isinstance(value, bool), f"{name} is no number")
    try:
        number = float(value)  # type: ignore[arg-type]
    except OverflowError:
        number = math.inf
    _require(math.isfinite(number), f"{name} is not finite")
    return number


def checked_copies(header: Mapping[str, Any]) -> dict[str, str]:
    """The fingerprints of copies; a file without them has none."""
    copies = header.get("copies", {})
    _require(isinstance(copies, dict), "copies are no names and fingerprints")
    return {str(kind): _digest(value, f"copies, {kind}") for kind, value in copies.items()}


def checked_layers(header: Mapping[str, Any], kind: str, settings: IntLoraSettings) -> Layers:
    """Name to (out, in, bits), as a header's list has them."""
    rows = header.get("layers")
    _require(isinstance(rows, list) and rows, "it has no list of layers")
    found: Layers = {}
    for row in rows:  # type: ignore[union-attr]
        _require(isinstance(row, list) and len(row) == 4 and isinstance(row[0], str), "a layer is no name and sizes")
        name, *sizes = row
        _require(name not in found, f"layer {name!r} is there twice")
        _require(all(_is_whole(size) and 0 < size < _LARGEST_SIDE for size in sizes), f"layer {name!r}: sizes {sizes}")
        out, inner, bits = sizes
        allowed = {"adapter": (8, 8), "term": (term_bits(settings),) * 2, "merged": (2, 32)}[kind]
        _require(allowed[0] <= bits <= allowed[1], f"layer {name!r}: {bits} bits")
        found[name] = out, inner, bits
    return found


def unbundled(
    kind: str, settings: IntLoraSettings, layers: Layers, layout: Any, bundles: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """The tensors of each layer out of the file's flat ones, where the header's layout is that of its kind and all values are in range.

    Raises:
        MalformedError: if anything differs.
    """
    _require(isinstance(layout, dict), "its layout is no mapping")
    wanted = _wanted(kind, settings, layers, layout)
    stated = {ending: [each[0][0], [list(shape) for _, shape in each]] for ending, each in wanted.items()}
    _require(layout == stated, "its layout is not that of its kind, settings and layers")
    kinds = {each[0][0] for each in wanted.values()}
    _require(set(bundles) == kinds, f"it has tensors {sorted(bundles)}, expected {sorted(kinds)}")
    for name, array in bundles.items():
        size = sum(math.prod(shape) for each in wanted.values() for type_, shape in each if type_ == name)
        _require(array.dtype.name == name and array.shape == (size,), f"tensor {name!r} is not [{size}] {name}")
    found: dict[str, NDArray[Any]] = {}
    start = dict.fromkeys(bundles, 0)
    for ending in sorted(wanted):
        for layer, (type_, shape) in zip(layers, wanted[ending], strict=True):
            size = math.prod(shape)
            found[f"{layer}.{ending}"] = bundles[type_][start[type_] : start[type_] + size].reshape(shape)
            start[type_] += size
            _in_range(layer, ending, found[f"{layer}.{ending}"])
    return found


def _wanted(
    kind: str, settings: IntLoraSettings, layers: Layers, layout: dict[str, Any]
) -> dict[str, list[tuple[str, tuple[int, ...]]]]:
    """Ending to each layer's (type, shape). The ranks of an adapter are what its layout says, if that is a number."""
    ranks = [1] * len(layers)
    if kind == "adapter":
        try:
            ranks = [shape[0] for shape in layout["down"][1]]
        except (KeyError, IndexError, TypeError):
            raise MalformedError("its layout gives no ranks") from None
        good = len(ranks) == len(layers) and all(_is_whole(rank) and 0 < rank < _LARGEST_SIDE for rank in ranks)
        _require(good, "its layout gives no ranks")
    each = [tensor_kinds(kind, settings, shape, rank) for shape, rank in zip(layers.values(), ranks, strict=True)]
    return {ending: [kinds[ending] for kinds in each] for ending in each[0]}


def _in_range(layer: str, ending: str, array: NDArray[Any]) -> None:
    """Scales are finite and not negative, shifts fit an int32."""
    if array.dtype == np.float32:
        good = bool(np.isfinite(array).all() and (array >= 0).all())
    elif ending in ("narrowing", f"{STATE}narrowing"):
        good = bool(((array >= 0) & (array <= _LARGEST_SHIFT)).all())
    else:
        good = True
    _require(good, f"layer {layer!r}: {ending} is out of range")


def _digest(value: Any, name: str) -> str:
    good = isinstance(value, str) and len(value) == _DIGEST_LETTERS and set(value) <= set("0123456789abcdef")
    _require(good, f"{name} is no digest")
    return str(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _require(good: Any, reason: str) -> None:
    if not good:
        raise MalformedError(reason)
