"""The real entry point, in this process, and a place with the user's things that nothing may touch."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from systolora.assets import pipeline_folder
from systolora.cli.app import main


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `systolora ARGUMENTS` through the function that the installed command calls."""

    def call(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["systolora", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        seen = capsys.readouterr()
        return Ended(int(ended.value.code or 0), seen.out, seen.err)

    return call


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with files of the user's; `file` is one, `foreign` and `foreign/pictures` are folders with some."""
    for name in ("file", "foreign/Makefile", "foreign/README.md", "foreign/pictures/a.png", "foreign/index.html"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"mine: {name}")
    for name in ("empty", "data", "manifest", "model"):
        (tmp_path / name).mkdir()
    (tmp_path / "data" / "a.txt").write_text("a caption without its picture")
    (tmp_path / "manifest" / "manifest.json").write_bytes(b'{"board": "\xff"}')
    (tmp_path / "model" / "config.json").write_bytes(b"\xff{")
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 64)
    (tmp_path / "pipeline").symlink_to(pipeline_folder())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def snapshot(folder: Path) -> dict[str, str]:
    """Every path below a folder, links not followed, with a hash of what it holds."""
    found = {}
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found
