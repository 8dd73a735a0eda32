"""What a command waits for before it works: torch only where something is computed with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from systolora.cli import doctor

BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise AssertionError("this command loads torch")

sys.meta_path.insert(0, Block())
from systolora.cli.app import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    "words",
    [
        ["simulate", "--gemms", "list.csv", "--csv", "out.csv", "--html", "out.html", "--trace", "out.json"],
        ["simulate", "--gemms", "list.csv", "--compat", "scalesim", "--dataflow", "ws"],
        ["simulate", "--gemms", "list.csv", "--sweep", "rows=8,16"],
        ["generate", "--rows", "8", "--cols", "8", "--out", "project"],
        ["boards"],
    ],
)
def test_a_command_that_computes_nothing_in_torch_does_not_load_it(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("m,n,k\n64,64,64\n77,320,768\n", encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-c", BLOCKED, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout


def test_the_block_of_these_tests_holds(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", BLOCKED, "simulate", "--workload", "sd15"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert "this command loads torch" in run.stderr


def test_doctor_finds_a_torch_that_is_installed_and_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def importing(name: str) -> ModuleType:
        if name == "torch":
            raise OSError("libgomp.so.1: cannot open shared object file")
        return ModuleType(name)

    monkeypatch.setattr(doctor.importlib, "import_module", importing)
    (found,) = doctor._traps()
    assert (found.name, found.good, found.needed) == ("torch", False, True)
    assert "libgomp.so.1" in found.seen and "pip install" in found.remedy
