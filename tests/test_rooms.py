"""The rule of the rooms: hls <- sim <- host, and heavy packages only where they belong."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("hls", "sim", "host", "bitstreams")
FILES = [path for room in ROOMS for path in sorted((ROOT / room).glob("*.py"))]
ALLOWED = {
    "hls": {"systolora.hls"},
    "sim": {"systolora.hls", "systolora.sim"},
    "bitstreams": {"systolora.bitstreams"},
    "host": {"systolora", "systolora.hls", "systolora.sim", "systolora.bitstreams"},
}
PACKAGES = {
    "hls": {"jinja2"},
    "sim": {"numpy", "torch", "clang", "jinja2"},
    "bitstreams": set(),
}


def imported(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.append(node.module or "")
        elif isinstance(node, ast.ImportFrom):
            names.append("." * node.level + (node.module or ""))
    return names


def room_of(name: str) -> str:
    parts = name.split(".")
    return ".".join(parts[:2]) if len(parts) > 1 and parts[1] in ("hls", "sim", "bitstreams") else "systolora"


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_file_imports_only_what_its_room_may(path: Path) -> None:
    room = path.parent.name
    for name in imported(path):
        top = name.split(".")[0]
        assert not name.startswith(".."), f"{path}: {name} leaves the room"
        assert top not in ROOMS, f"{path}: import systolora.{top}, not {top}: a bare import makes a second copy"
        assert top != "torchvision", f"{path}: torchvision is not a dependency"
        if top == "systolora":
            assert room_of(name) in ALLOWED[room], f"{path}: {room}/ must not import {name}"
        elif top and room in PACKAGES and top not in sys.stdlib_module_names:
            assert top in PACKAGES[room], f"{path}: {room}/ must not import {name}"


def test_pynq_is_imported_by_the_board_alone() -> None:
    users = {path.name for path in FILES if any(name.split(".")[0] == "pynq" for name in imported(path))}
    assert all(name.startswith(("board", "emulated_")) for name in users), users


@pytest.mark.parametrize(
    "module", ["systolora", "systolora.hls", "systolora.sim.functional.device", "systolora.cli.app"]
)
def test_importing_the_small_rooms_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_rooms_are_flat_and_files_are_short() -> None:
    for room in ROOMS:
        nested = [path for path in (ROOT / room).glob("*/*.py") if "__pycache__" not in str(path)]
        assert not nested, nested
    long = {str(path): lines for path in FILES if (lines := len(path.read_text().splitlines())) > 350}
    assert not long, long
