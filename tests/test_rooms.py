"""The rule of the rooms: packages in one order, no circles, heavy libraries only where they belong."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .architecture import ORDER, ROOT, TOP_LEVEL, Package, circles, picture, place, sources, violations

MODULES = sources()
CODE_PAGE = ROOT / "docs" / "code.md"
BEGIN, END = (
    "<!-- packages: made from tests/architecture.py by pytest tests/test_rooms.py --update-golden -->",
    "<!-- end -->",
)


def inner_modules(package: Package) -> list[str]:
    return [path.stem for path in (ROOT / package.folder).glob("*.py")]


def test_every_import_goes_down_the_order() -> None:
    assert not violations(MODULES)


def test_no_modules_import_each_other() -> None:
    assert not circles(MODULES)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("systolora.hls.config", "from systolora.sim.functional import reference"),
        ("systolora.sim.functional.reference", "import systolora.sim.cost.dram"),
        ("systolora.sim.lint.run", "from systolora.sim.rtl.net import Net"),
        ("systolora.bitstreams.store", "from systolora.board.design import find_design"),
        ("systolora.device", "from systolora.training.settings import TrainSettings"),
        ("systolora.programs.compiler", "def late():\n    from systolora.offloading.session import Session"),
        ("systolora.board.queue", "from ..emulated_board.kernel import Kernel"),
        ("systolora.intlora.rules", "if TYPE_CHECKING:\n    from systolora.training.settings import TrainSettings"),
        ("systolora.demo.run", "from systolora.cli.train import run_training"),
        ("systolora.cost.simulation", "from systolora import cli"),
        ("systolora.programs.new", "import pynq"),
        ("systolora.hls.config", "import numpy"),
        ("systolora.board.queue", "from host.errors import UserError"),
        ("systolora.training.pictures", "import torchvision"),
        ("systolora.garage.car", "import json"),
    ],
)
def test_a_wrong_import_is_found(module: str, line: str) -> None:
    assert len(violations({**MODULES, module: line})) >= 1


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("systolora.sim.cost.dram", "from systolora.hls.config import ArrayConfig"),
        ("systolora.board.queue", "from .lane import Lane\nimport pynq"),
        ("systolora.cli.app", "from systolora.training import trainer"),
        ("systolora.__main__", "from systolora.cli.app import main"),
        ("systolora.programs.compiler", "from systolora.errors import UserError"),
    ],
)
def test_a_right_import_is_not(module: str, line: str) -> None:
    assert not violations({**MODULES, module: line})


def test_a_circle_is_found_also_through_functions_and_types() -> None:
    ring = {
        "systolora.demo.one": "from .two import a",
        "systolora.demo.two": "def late():\n    from systolora.demo import three",
        "systolora.demo.three": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .one import b",
        "systolora.demo.four": "from .one import b",
    }
    assert circles(ring) == [["systolora.demo.one", "systolora.demo.three", "systolora.demo.two"]]


def test_every_module_has_a_place_and_no_package_is_empty() -> None:
    assert all(place(module) is not None for module in MODULES)
    assert all(inner_modules(package) for package in ORDER)


def test_top_levels_hold_only_what_everybody_needs() -> None:
    for room, allowed in TOP_LEVEL.items():
        assert {path.stem for path in (ROOT / room).glob("*.py")} == allowed


def test_no_module_repeats_the_name_of_its_package() -> None:
    for package in ORDER:
        if "/" not in package.folder:
            continue
        name = Path(package.folder).name
        repeated = [stem for stem in inner_modules(package) if stem == name or stem.startswith(f"{name}_")]
        assert not repeated, (package.folder, repeated)


def test_each_package_says_what_it_promises() -> None:
    for package in ORDER:
        text = (ROOT / package.folder / "__init__.py").read_text(encoding="utf-8")
        assert ast.get_docstring(ast.parse(text)), package.folder


def test_setuptools_lists_every_package() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")  # by hand: Python 3.10 has no tomllib
    listed = re.findall(r'"(systolora[\w.]*)"', text.partition("\npackages = [")[2].partition("\n]")[0])
    assert set(listed) == {package.module for package in ORDER} | {"systolora.sim", "systolora.notebooks"}


def test_files_are_short() -> None:
    long = {name: lines for name, text in MODULES.items() if (lines := len(text.splitlines())) > 350}
    assert not long, long


def test_files_of_tests_are_short() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")}
    assert len(texts) > 100
    long = {str(path): lines for path, text in texts.items() if (lines := len(text.splitlines())) > 450}
    assert not long, long


@pytest.mark.parametrize(
    "module", ["systolora", "systolora.hls", "systolora.sim.functional.device", "systolora.cli.app"]
)
def test_importing_the_small_rooms_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_public_names_survive_the_import_of_every_package() -> None:
    """A package of the name of a public function would take its place."""
    code = "import systolora, systolora.offloading.model, systolora.device; assert callable(systolora.offload), systolora.offload"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_code_page_shows_these_packages(update_golden: bool) -> None:
    before, _, rest = CODE_PAGE.read_text(encoding="utf-8").partition(BEGIN)
    shown, _, after = rest.partition(END)
    if update_golden:
        CODE_PAGE.write_text(f"{before}{BEGIN}\n\n{picture()}\n\n{END}{after}", encoding="utf-8")
        return
    assert shown.strip() == picture(), (
        "docs/code.md is not what tests/architecture.py declares: pytest tests/test_rooms.py --update-golden"
    )


def test_the_straight_line_names_what_exists() -> None:
    """Each function of the page's table stands in one of the files of its row."""
    rows = re.findall(
        r"^\| \d+[abc]? \|(.*)\|(.*)\|(.*)\|$", CODE_PAGE.read_text(encoding="utf-8").partition(END)[2], re.MULTILINE
    )
    assert len(rows) > 15
    for _, functions, files in rows:
        texts = [path.read_text(encoding="utf-8") for path in named_files(files)]
        for name in re.findall(r"`([\w.]+)`", functions):
            wanted = [re.compile(rf"\b(def|class|void|ErrorCode)\s+{part}\b") for part in name.split(".")]
            assert any(all(pattern.search(text) for pattern in wanted) for text in texts), (name, files)


def named_files(cell: str) -> list[Path]:
    """The files of a table's cell; one without a folder lies beside the one before it."""
    found: list[Path] = []
    for name in re.findall(r"`([\w./]+)`", cell):
        found.append(ROOT / name if "/" in name else found[-1].parent / name)
        assert found[-1].is_file(), name
    return found
