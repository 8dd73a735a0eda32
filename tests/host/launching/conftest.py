"""Launches in this process, which has torch loaded already; what a launch leaves in place for the script is put back."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from systolora.launching.launch import prepare_launch
from systolora.launching.settings import LaunchSettings, launch_settings

SCRIPTS = Path(__file__).parent / "scripts"


@dataclass(frozen=True)
class Ended:
    """How a launch ended: exit code, what it printed, the report."""

    code: int
    out: str
    err: str
    report: dict[str, Any]


Launcher = Callable[..., Ended]


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Launcher:
    """Runs a file of `scripts`, or a text, with the offload, or without for `plain`."""

    def call(script: str, *arguments: str, plain: bool = False, **given: Any) -> Ended:
        path = SCRIPTS / script
        if "\n" in script:
            path = tmp_path / "script.py"
            path.write_text(script)
        monkeypatch.setattr(sys, "argv", list(sys.argv))
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)
        monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
        settings: LaunchSettings = launch_settings({"report": str(tmp_path / "report.json"), **given})
        made = prepare_launch(settings, str(path), arguments, as_module=False)
        code = 0
        capsys.readouterr()
        try:
            made.script.run() if plain else made.run()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        seen = capsys.readouterr()
        report = {} if plain else json.loads((tmp_path / "report.json").read_text())
        return Ended(code, seen.out, seen.err, report)

    return call
