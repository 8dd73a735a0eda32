"""One ``#pragma HLS`` line against the grammar: names, options, words and kinds of value (rules PRG01 to PRG06)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .pragmas import FORMS, INTERFACE_MODES, REPLACED, Kind, Option, Pragma, pragma_text, split_options
from .tree import Problem

Fault = tuple[str, str]  # rule id, what was found


def read_pragma(place: Problem, source: str) -> tuple[Pragma | None, list[Fault]]:
    """Parse the pragma at ``place`` in the text ``source``.

    Returns the pragma, or None where its name is not one of the grammar, and what is wrong with it.
    """
    text = pragma_text(source, place.line)
    words = text.lstrip("# \t").split(None, 2)
    if not text.startswith("#") or words[:1] != ["pragma"]:
        return None, [("PRG01", f"a pragma made by a macro or _Pragma in '{text[:40]}' cannot be checked")]
    if len(words) < 2 or words[1] != "HLS":
        return None, [("PRG01", f"'#pragma {' '.join(words[1:2])}' is known to no compiler here")]
    parts = list(split_options(words[2] if len(words) > 2 else ""))
    if not parts:
        return None, [("PRG02", "'#pragma HLS' without a name")]
    name = parts[0][0].lower()
    if name in REPLACED:
        return None, [("PRG03", f"{name.upper()} is deprecated, replaced by {REPLACED[name]}")]
    if name not in FORMS:
        return None, [("PRG02", f"no HLS pragma is called '{parts[0][0]}'")]
    faults: list[Fault] = []
    options: dict[str, str] = {}
    allowed = _allowed_options(name, parts[1:], faults)
    for key, value in parts[1:]:
        faults += _read_option(name, allowed, key, value, options)
    for key, option in allowed.items():
        if option.required and key not in options:
            faults.append(("PRG06", f"{name.upper()} needs {key}="))
    return Pragma(name, options, place.file, place.line, place.offset), faults


def _allowed_options(name: str, parts: list[tuple[str, str | None]], faults: list[Fault]) -> Mapping[str, Option]:
    """The options this pragma takes; those of INTERFACE depend on its mode."""
    allowed = dict(FORMS[name].options)
    if name != "interface":
        return allowed
    modes = [value.lower() for key, value in parts if key.lower() == "mode" and value]
    modes += [key.lower() for key, value in parts if value is None and key.lower() in INTERFACE_MODES]
    if len(modes) != 1 or modes[0] not in INTERFACE_MODES:
        found = ", ".join(modes) or "none"
        faults.append(("PRG06", f"INTERFACE needs one mode= of {', '.join(INTERFACE_MODES)}; found {found}"))
    for mode in modes:
        allowed.update(INTERFACE_MODES.get(mode, {}))
    return allowed


def _read_option(
    pragma: str, allowed: Mapping[str, Option], key: str, value: str | None, options: dict[str, str]
) -> Iterator[Fault]:
    """Add one option to ``options``; yield what is wrong with it."""
    name = key.lower()
    title = f"{pragma.upper()} {key}"
    words = FORMS[pragma].words
    if pragma == "interface":
        words = dict.fromkeys(INTERFACE_MODES, "mode")
    if value is None and name in words:
        name, value = words[name], name
    if f"{pragma} {name}" in REPLACED:
        yield "PRG03", f"{title} is deprecated, replaced by {REPLACED[f'{pragma} {name}']}"
        return
    option = allowed.get(name)
    if option is None:
        yield "PRG04", f"{pragma.upper()} takes no option '{key}', only {', '.join(sorted(allowed)) or 'none'}"
        return
    if name in options:
        yield "PRG10", f"{title} is given twice"
    options[name] = value or ""
    if option.kind is Kind.FLAG and value is not None:
        yield "PRG05", f"{title} takes no value, found '{value}'"
    elif option.kind is not Kind.FLAG and not value:
        yield "PRG05", f"{title} needs {option.kind.value}"
    elif option.choices and options[name].lower() not in option.choices:
        yield "PRG05", f"{title}={value} is none of {', '.join(option.choices)}"
