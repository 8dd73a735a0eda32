"""Settings dataclasses: what a field may be is declared once, and command line, YAML files and help all read it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any, TypeVar

from systolora.errors import UserError

_Settings = TypeVar("_Settings")
MOST_STEPS = 10**9
"""Of anything that a run counts in steps."""

LARGEST_SEED = 2**32 - 1
"""What every random generator below takes."""

_LARGEST_TEXT = 60
_LARGEST_BITS = 1024
"""No whole number of a setting is longer; Python would not even print one of a million digits."""


@dataclass(frozen=True)
class Rule:
    """What a setting may be.

    Attributes:
        help: what it does. group: heading in the help. choices: the allowed names, if it is one.
        least, above, most: bounds of a number, none where None; NaN and infinity are never allowed.
        needed: what to give, for a setting that must be given.
    """

    help: str
    group: str = ""
    choices: tuple[str, ...] = ()
    least: float | None = None
    above: float | None = None
    most: float | None = None
    needed: str = ""


def setting(default: Any, help_text: str, **rule: Any) -> Any:
    """A dataclass field with a `Rule`; `cli.options.options_from` makes an option of it."""
    return field(default=default, metadata={"rule": Rule(help_text, **rule)})


def rule_of(item: Field[Any]) -> Rule:
    """The rule of a field that `setting` made."""
    rule: Rule = item.metadata["rule"]
    return rule


def fields_in_order(settings: type) -> list[Field[Any]]:
    """The fields of a settings dataclass, its own before those of the classes that it is made from."""
    own = vars(settings).get("__annotations__") or settings.__annotations__
    return sorted(fields(settings), key=lambda item: item.name not in own)


def option_name(name: str) -> str:
    """The option of a setting: two dashes, and dashes for underscores."""
    return "--" + name.replace("_", "-")


def check_rules(settings: Any) -> None:
    """Holds every field of a settings dataclass against its rule.

    Raises:
        UserError: naming the first setting that is not allowed, and what is.
    """
    rules = {item.name: rule_of(item) for item in fields(settings)}
    for name, rule in rules.items():
        if rule.needed and not getattr(settings, name):
            raise UserError(f"{option_name(name)} is missing: give {rule.needed}, on the command line or in --config")
    for name, rule in rules.items():
        value = getattr(settings, name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            fault = _number_fault(rule, value)
            if fault:
                raise UserError(f"{option_name(name)} {_shown(value)}: {fault}")
        if rule.choices and value not in rule.choices:
            allowed = ", ".join(choice for choice in rule.choices if choice)
            raise UserError(f"{option_name(name)} {_shown(value)}: allowed are {allowed}")


def _number_fault(rule: Rule, value: float) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "it must be a finite number"
    low = rule.least is not None and value < rule.least
    high = rule.most is not None and value > rule.most
    if (low or high) and (rule.least, rule.most) == (0, 1):
        return "it is a share, from 0 to 1"
    if rule.above is not None and value <= rule.above:
        return f"it must be larger than {rule.above:g}"
    if low:
        return "it must not be negative" if rule.least == 0 else f"it must be at least {rule.least:g}"
    return f"it must be at most {rule.most}" if high else ""


def merge_settings(base: _Settings, changes: Mapping[str, Any], origin: str) -> _Settings:
    """`base` with the given settings changed; values are converted to the setting's type.

    Raises:
        UserError: for an unknown name or a value of the wrong type; `origin` says where it stood.
    """
    known = {item.name: type(getattr(base, item.name)) for item in fields_in_order(type(base))}
    converted: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"{origin}: there is no setting {_shown(name)}; there are {', '.join(known)}{hint}")
        converted[name] = _convert(name, value, known[name], origin)
    return replace(base, **converted)  # type: ignore[type-var]


def _convert(name: str, value: Any, kind: type, origin: str) -> Any:
    """A value in the setting's type. `yes` and `true` are no numbers, and what YAML takes for one is no text: it would lose zeros."""
    expected = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(kind, kind.__name__)
    try:
        if kind is str:
            if value is None:
                return ""
            if not isinstance(value, str):
                expected += ": put it in quotes"
                raise ValueError
            return value
        if isinstance(value, bool) is not (kind is bool):
            raise ValueError
        if kind is int and (isinstance(value, float) and int(value) != value):
            raise ValueError
        result = kind(value)
        if isinstance(result, int) and result.bit_length() > _LARGEST_BITS:
            raise OverflowError
        return result
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{origin}: {name} = {_shown(value)}: expected {expected}") from None


def _shown(value: Any) -> str:
    """A value for a message: as Python writes it where it is text, cut where it is long."""
    if isinstance(value, int) and value.bit_length() > _LARGEST_BITS:
        return f"(a number of {value.bit_length()} bits)"
    text = repr(value) if not isinstance(value, (int, float)) or isinstance(value, bool) else str(value)
    return text if len(text) <= _LARGEST_TEXT else f"{text[:_LARGEST_TEXT]}..."
