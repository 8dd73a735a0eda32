"""A YAML file of settings, such as a training run's: one mapping of names to single values, each name once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from systolora.errors import UserError

_LARGEST_FILE = 1 << 20
"""Bytes that are read at most: a settings file has a few hundred."""


def load_settings_file(path: Path, option: str = "--config") -> dict[str, Any]:
    """The settings in a YAML file, by name, with `_` for `-`; `option` is what named the file, for messages.

    Raises:
        UserError: for a file that cannot be read, is no mapping of names to single values, or gives a name twice.
    """
    import yaml

    text = _read(path, option)
    try:
        return dict(_pairs(path, option, text))
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{option} {path}: cannot be read as YAML: {' '.join(str(error).split())}") from None


def _read(path: Path, option: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
        if len(data) > _LARGEST_FILE:
            raise UserError(f"{option} {path}: larger than {_LARGEST_FILE >> 20} MiB; it is no file of settings")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{option} {path}: cannot be read as YAML: it is not UTF-8 (byte {error.start + 1})") from None
    except OSError as error:
        raise UserError(f"{option} {path}: cannot be read as YAML: {error.strerror or error}") from None


def _pairs(path: Path, option: str, text: str) -> list[tuple[str, Any]]:
    """Names and values. Nesting is refused by the flat stream of events, before anything recurses."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            depth += 1
            if depth > 1:
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise UserError(f"{option} {path}, line {line}: a list or a mapping; expected 'name: value'")
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            depth -= 1
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return []
        if not isinstance(root, yaml.MappingNode):
            kind = type(loader.construct_document(root)).__name__
            raise UserError(f"{option} {path}: expected lines of 'name: value', found {kind}")
        lines: dict[str, int] = {}
        pairs = []
        for key, value in root.value:
            name, line = str(key.value).replace("-", "_"), key.start_mark.line + 1
            if name in lines:
                raise UserError(
                    f"{option} {path}, line {line}: {name} is given a second time, after line {lines[name]}"
                )
            if not isinstance(value, yaml.ScalarNode):
                raise UserError(f"{option} {path}, line {line}: {name}: expected a single value")
            lines[name] = line
            pairs.append((name, loader.construct_object(value)))
        return pairs
    finally:
        loader.dispose()
