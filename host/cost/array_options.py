"""An option of `simulate` for every field of `ArrayConfig`, read off the dataclass: a new field is a new option by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from systolora.errors import UserError
from systolora.hls.boards import board_of
from systolora.hls.config import ArrayConfig, board_config, fitted_config
from systolora.options import option_name, setting

GROUP = "Array and memory"
"""Heading of the help."""

_LABELS = ("board", "part")
"""What names a configuration and changes nothing that is modelled; `--board` is an option of its own."""

_BESIDE_THE_ARRAY = ("clock_mhz", "port_mhz", "dram_gbps")
"""What may differ on a board whose array is still that of its preset."""

_PORTS = ("bus_bytes", "port_mhz", "clock_mhz")
"""What a board's memory ports may not be able to carry."""

_HELP = {
    "rows": "rows of the array",
    "cols": "columns of the array",
    "input_bytes": "bytes of the input memory, both halves",
    "weight_bytes": "bytes of the weight memory, both halves",
    "output_bytes": "bytes of the output memory, both halves",
    "bus_bytes": "width of each memory port in bytes",
    "clock_mhz": "clock of the array",
    "port_mhz": "clock of the memory ports of 16 bytes behind those of the array, if it is not the array's",
    "output_ports": "memory ports that results go through, 1 or 2",
    "packed_dsp": "two products in one DSP",
    "dram_gbps": "bandwidth of device memory in GB/s",
    "max_instructions": "longest program",
}
_MOST = {"rows": 256, "cols": 256, "bus_bytes": 64, "clock_mhz": 1000, "port_mhz": 1000, "dram_gbps": 1_000_000}
_LARGEST = 2**31

_Class = TypeVar("_Class", bound=type)


def array_names() -> tuple[str, ...]:
    """The fields of `ArrayConfig` that are options."""
    return tuple(item.name for item in fields(ArrayConfig) if item.name not in _LABELS)


def with_array_options(cls: _Class) -> _Class:
    """Class decorator, below `dataclass`: a setting for each of `array_names` that the class does not declare itself.

    What is not given (0, or empty) is the board's, or `ArrayConfig`'s own default.
    """
    for item in fields(ArrayConfig):
        if item.name in _LABELS or item.name in cls.__annotations__:
            continue
        cls.__annotations__[item.name] = "str" if _as_text(item.default) else type(item.default).__name__
        setattr(cls, item.name, array_setting(item.name))
    return cls


def array_setting(name: str) -> Any:
    """The setting of one field of `ArrayConfig`."""
    default = getattr(ArrayConfig, name)
    what = _HELP.get(name, f"{name} of the array's configuration")
    if isinstance(default, bool):
        return setting(
            "", f"{what}; empty means the board's, or {_shown(default)}", group=GROUP, choices=("", "on", "off")
        )
    if _as_text(default):
        return setting("", f"{what}; empty means the board's, or {_shown(default)}", group=GROUP)
    text = f"{what}; 0 means the board's, or {_shown(default)}"
    return setting(type(default)(0), text, group=GROUP, least=0, most=_MOST.get(name, _LARGEST))


def array_config(settings: Any) -> ArrayConfig:
    """The array: the board's preset or the default, with what was given changed, and memories made whole words of it.

    Raises:
        ConfigError: for an unknown board, values that are not allowed, or ports that are wider than the board's.
        UserError: for text that is no value of its field.
    """
    base = board_config(settings.board) if settings.board else ArrayConfig()
    given = {name: getattr(settings, name) for name in array_names() if getattr(settings, name)}
    values = {name: _value(name, value) for name, value in given.items()}
    changed = {name: value for name, value in values.items() if not _same(value, getattr(base, name))}
    if ports := {name: changed[name] for name in _PORTS if name in changed}:
        board_of(base.with_changes(**ports))  # which says whether the board's ports carry that
    return fitted_config(base, _without_preset(changed))


def _same(value: object, other: object) -> bool:
    """Whether two values of a field say the same; the order of names means nothing."""
    return value == other or isinstance(value, (tuple, frozenset)) and set(value) == set(other)  # type: ignore[call-overload]


def _without_preset(changed: Mapping[str, object]) -> dict[str, object]:
    """The changes, and no name of a board any more if they make it another array."""
    other = changed.keys() - set(_BESIDE_THE_ARRAY)
    return {**changed, **(dict.fromkeys(_LABELS, "") if other else {})}


def _as_text(default: object) -> bool:
    """Whether an option gives the field as text: names and lists of names, and what is on or off."""
    return isinstance(default, (bool, str, tuple, frozenset))


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, (tuple, frozenset)):
        return "+".join(str(part) for part in default)
    return f"{default:g}" if isinstance(default, float) else str(default) or "empty"


def _value(name: str, given: Any) -> object:
    """A given value as `ArrayConfig` takes it; lists of names are written with `+` between them, so that sweeps can list lists."""
    default = getattr(ArrayConfig, name)
    if isinstance(default, bool):
        return given == "on"
    if isinstance(default, (tuple, frozenset)):
        parts = [part for part in given.replace(",", "+").split("+") if part]
        if default and not parts:
            raise UserError(f"{option_name(name)} {given!r}: give names with + between them, such as {_shown(default)}")
        return type(default)(parts)
    return given
