"""What a result depends on: version and commit, the command, the resolved settings, and every constant of the models.

The constants are read off the modules and dataclasses themselves, so one that is added or changed shows by itself.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pkgutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from enum import Enum
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from platform import python_version
from types import ModuleType
from typing import Any

import systolora.sim.cost
from systolora.hls.config import ArrayConfig

from .energy_table import energy_table
from .host_time import read_rates
from .settings import SimulateSettings, command_line, settings_in_effect

_LIBRARIES = ("numpy", "torch", "diffusers")
"""What a traced model and the arithmetic of the model come from."""

_NOT_PLAIN = object()


def provenance(settings: SimulateSettings, command: str = "") -> dict[str, Any]:
    """What a simulation's result depends on, for JSON.

    Args:
        command: that made the result; the one of the settings if it is empty.
    """
    machine = settings.machine()
    return {
        "version": version("systolora"),
        "commit": source_commit(),
        "python": python_version(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "command": command or command_line(settings),
        "settings": settings_in_effect(settings),
        "array": {**asdict(machine.config), **_derived(machine.config), "kind": machine.kind.value},
        "dram": asdict(machine.dram),
        "energy": asdict(energy_table(settings.technology, settings.energy)),
        "host": asdict(read_rates(settings.host)),
        "constants": constants(),
    }


def _derived(config: ArrayConfig) -> dict[str, Any]:
    """What follows from a configuration's fields: each of its properties."""
    members = [name for name, member in vars(ArrayConfig).items() if isinstance(member, property)]
    return {name: getattr(config, name) for name in members}


def source_commit() -> str | None:
    """The commit that runs, with a + where files of it are changed; None if that cannot be told (no git, a released wheel)."""
    root = Path(__file__).resolve().parents[2]
    if (root / ".git").exists() and (root / "pyproject.toml").exists():
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
        return None if commit is None else commit + ("+" if changed else "")
    try:
        source = json.loads(distribution("systolora").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return None
    found = source.get("vcs_info", {}).get("commit_id")
    return str(found) if found else None


def constants() -> dict[str, Any]:
    """Name with its module -> value, of every number in capitals that a model of time, memory or energy assigns or imports."""
    found = {}
    for item in pkgutil.iter_modules(systolora.sim.cost.__path__):
        module = importlib.import_module(f"{systolora.sim.cost.__name__}.{item.name}")
        for place, name in _constant_names(module):
            value = _plain(getattr(module, name))
            if value is not _NOT_PLAIN:
                found[f"{place.removeprefix('systolora.')}.{name}"] = value
    return found


def _constant_names(module: ModuleType) -> Iterator[tuple[str, str]]:
    """(module, name) of what a module's own text assigns, or imports from beyond its package."""
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
            yield from ((module.__name__, name) for name in names if name.isupper())
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((node.module, alias.name) for alias in node.names if alias.name.isupper())


def _plain(value: Any) -> Any:
    """A number, or numbers in tables and lists, as JSON has them; else `_NOT_PLAIN`, such as for presets and texts."""
    if isinstance(value, (int, float)) and not isinstance(value, Enum):
        return value
    if isinstance(value, dict):
        parts = {_key(key): _plain(part) for key, part in value.items()}
        return parts if value and _NOT_PLAIN not in parts.values() else _NOT_PLAIN
    if isinstance(value, (list, tuple)):
        items = [_plain(part) for part in value]
        return items if value and _NOT_PLAIN not in items else _NOT_PLAIN
    return _NOT_PLAIN


def _key(key: Any) -> str:
    return key.name.lower() if isinstance(key, Enum) else str(key)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(root), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
