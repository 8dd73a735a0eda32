"""How what is missing is installed: from a clone, because no package of this name is published."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from systolora.libraries import install_advice

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("extra", ["train", "board", "lint"])
def test_a_clone_is_installed_from_its_own_folder_with_its_own_pins(extra: str) -> None:
    words = shlex.split(install_advice(extra))
    assert words[:3] == ["pip", "install", "-c"] and words[4] == "-e"
    assert Path(words[3]).parent == ROOT and Path(words[3]).is_file()
    assert words[5] == f"{ROOT}[{extra}]"
    assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text()


def test_a_folder_with_blanks_is_quoted(tmp_path: Path) -> None:
    clone = tmp_path / "my clone"
    clone.mkdir()
    for name in ("pyproject.toml", "constraints.txt"):
        (clone / name).touch()
    assert shlex.split(install_advice("train", clone))[-1] == f"{clone}[train]"


def test_away_from_a_clone_one_is_asked_for(tmp_path: Path) -> None:
    assert install_advice("train", tmp_path) == "pip install -c constraints.txt -e '.[train]' (in a clone of systolora)"


def test_no_text_names_a_package_that_is_not_published() -> None:
    for folder in ("host", "sim", "hls", "docs", "bitstreams", "notebooks"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".md", ".ipynb", ".html"):
                assert "install 'systolora[" not in path.read_text(encoding="utf-8"), path
