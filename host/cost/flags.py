"""The flags of an instruction as words, such as `transpose_b bias result=bfloat16`: what CSV lists have in one column.

The words are the fields of `Gemm` and `Quantize` themselves, so a new field of an instruction is a new word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from difflib import get_close_matches
from enum import IntEnum
from typing import Any

from systolora.hls.isa import Gemm, Quantize

_SIZES = ("m", "n", "k", "tile_m", "tile_n", "tile_k")
_CHOSEN = ("dataflow", "loop_order", "reuse_a")
"""What the model chooses, or what only holds between neighbours of a program."""

_WITHOUT_COST = ("alpha", "tag", "rounding", "seed", "index_base", "index_stride")


def flag_fields(kind: type[Gemm] | type[Quantize]) -> dict[str, Field[Any]]:
    """The fields of an instruction that are words, by name."""
    left_out = {*_SIZES, *_CHOSEN, *_WITHOUT_COST}
    return {
        item.name: item
        for item in fields(kind)
        if item.name not in left_out and not item.name.endswith(("_address", "_stride")) and item.default is not MISSING
    }


def write_flags(op: Gemm | Quantize, usual: Mapping[str, Any]) -> str:
    """The words of an instruction; fields that are as `usual`, or else as the instruction's default, have none."""
    words = []
    for name, item in flag_fields(type(op)).items():
        value = getattr(op, name)
        if value != usual.get(name, item.default):
            words.append(_word(name, value))
    return " ".join(words)


def _word(name: str, value: Any) -> str:
    if isinstance(value, IntEnum):
        return f"{name}={value.name.lower()}"
    return (name if value else f"{name}=no") if isinstance(value, bool) else f"{name}={value}"


def read_flags(kind: type[Gemm] | type[Quantize], text: str) -> dict[str, Any]:
    """Field -> value of some words.

    Raises:
        ValueError: for a word or a value that there is not; the text lists those that exist.
    """
    known = flag_fields(kind)
    found: dict[str, Any] = {}
    for word in text.split():
        name, has_value, value = word.lower().partition("=")
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"flag {name!r}: there are {', '.join(known)}{hint}")
        if name in found:
            raise ValueError(f"flag {name} is given twice")
        found[name] = _value(name, known[name].default, value if has_value else None)
    return found


def _value(name: str, default: Any, text: str | None) -> Any:
    if isinstance(default, bool):
        if text not in (None, "yes", "no"):
            raise ValueError(f"flag {name}={text}: expected {name}, or {name}=no")
        return text != "no"
    if isinstance(default, IntEnum):
        names = {member.name.lower(): member for member in type(default)}
        if text not in names:
            raise ValueError(f"flag {name}={text or ''}: allowed are {', '.join(names)}")
        return names[text]
    if not (text or "").isdecimal() or len(text or "") > 10:
        raise ValueError(f"flag {name}={text or ''}: expected a whole number")
    return int(text or "")
