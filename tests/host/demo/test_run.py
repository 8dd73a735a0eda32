"""The demo command: its page, its figures, and the same adapter from the emulator and from the compiled hardware source."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.torch import load_file
from systolora.board.errors import BoardOpenError
from systolora.cli.app import app
from systolora.demo.run import MAKER, demo_prompts, recipe, run_demo
from systolora.demo.settings import DemoSettings
from systolora.errors import UserError
from systolora.outputs import claim_folder
from systolora.training.adapter import ADAPTER_FILE
from systolora.training.trainer import train
from typer.testing import CliRunner

KEYS = [
    "loss_int8",
    "loss_fp32",
    "loss_start",
    "concept_int8",
    "concept_fp32",
    "concept_base",
    "picture_error",
    "seconds",
]


@pytest.fixture(scope="module")
def short_demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    out = tmp_path_factory.mktemp("demo")
    result = CliRunner().invoke(app, ["demo", "--out", str(out), "--steps", "20", "--json"])
    assert result.exit_code == 0, result.output
    return out, json.loads(result.stdout.strip().splitlines()[-1])


def test_the_last_line_is_json_with_the_figures(short_demo: tuple[Path, dict[str, float]]) -> None:
    _, figures = short_demo
    assert list(figures) == KEYS
    assert figures["loss_int8"] == pytest.approx(figures["loss_fp32"], rel=0.05)
    assert all(0 <= figures[name] <= 1 for name in KEYS if name.startswith("concept"))
    assert figures["picture_error"] < 0.02


def test_the_page_and_what_it_shows_are_there(short_demo: tuple[Path, dict[str, float]]) -> None:
    out, _ = short_demo
    page = (out / "index.html").read_text()
    names = {part.split('"')[0] for part in page.split('src="')[1:]}
    assert len(names) > 30 and all((out / name).stat().st_size > 50 for name in names)
    assert (out / "adapter" / ADAPTER_FILE).exists() and (out / "grid.png").exists()
    assert "offloaded to emulator" in page


def test_csim_trains_the_same_adapter_bit_for_bit(short_demo: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    settings = recipe(DemoSettings(out=tmp_path, steps=20, backend="csim"), short_demo[0] / "pictures")
    result = train(settings)
    first, second = load_file(short_demo[0] / "adapter" / ADAPTER_FILE), load_file(result.adapter)
    assert first.keys() == second.keys()
    assert all(first[name].equal(second[name]) for name in first)
    assert "offloaded to csim" in result.offload_report


def test_prompts_ask_for_the_concept_in_all_colours() -> None:
    prompts = demo_prompts("robot")
    assert all("robot" in prompt for prompt in prompts)
    assert len({prompt.split()[2] for prompt in prompts}) == 8


@pytest.mark.parametrize(
    ("settings", "message"), [({"concept": "cat"}, "--concept 'cat': allowed are"), ({"steps": -1}, "--steps -1")]
)
def test_mistakes_get_one_line(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_demo(DemoSettings(out=tmp_path, **settings), Console(quiet=True))


def test_a_second_demo_takes_its_own_folder_over_and_removes_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw_nothing(pipeline: object, prompts: list[str]) -> np.ndarray:
        return np.zeros((len(prompts), 16, 16, 3), np.uint8)

    monkeypatch.setattr("systolora.demo.run.generate_pictures", draw_nothing)
    settings = DemoSettings(out=tmp_path / "out", steps=2)
    claim_folder(settings.out, MAKER)
    for name in ("notes.txt", "pictures/sprite_00000.png", "pictures/metadata.jsonl"):
        (settings.out / name).parent.mkdir(exist_ok=True)
        (settings.out / name).write_text("old")
    run_demo(settings, Console(quiet=True))
    assert (settings.out / "notes.txt").read_text() == "old"
    assert (settings.out / "index.html").is_file()
    assert len(list((settings.out / "pictures").iterdir())) == 112 + 1
    assert len((settings.out / "pictures" / "metadata.jsonl").read_text().splitlines()) == 112


def test_a_backend_that_is_not_here_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynq", None)
    with pytest.raises(BoardOpenError, match="pynq cannot be imported"):
        run_demo(DemoSettings(out=tmp_path / "out", backend="board"), Console(quiet=True))
    with pytest.raises(BoardOpenError, match="pynq cannot be imported"):
        run_demo(DemoSettings(out=tmp_path / "out", backend="board", emulated_board="kv260"), Console(quiet=True))
    assert not (tmp_path / "out").exists()


def test_pictures_of_the_page_keep_their_shape_on_a_phone(short_demo: tuple[Path, dict[str, float]]) -> None:
    page = (short_demo[0] / "index.html").read_text()
    assert re.search(r"\bimg \{[^}]*max-width: 100%;[^}]*height: auto;", page)
    assert re.search(r"\.pictures img \{[^}]*min-width: 64px;[^}]*aspect-ratio: 1;", page)


@pytest.mark.slow
@pytest.mark.parametrize("targets", ["attention", "kv", "all"])
def test_the_whole_demo_learns_the_concept(tmp_path: Path, targets: str) -> None:
    result = run_demo(DemoSettings(out=tmp_path, targets=targets), Console(quiet=True))
    assert abs(result.loss_int8 - result.loss_fp32) <= 0.05 * result.loss_fp32
    assert abs(result.concept_int8 - result.concept_fp32) <= 0.10
    assert result.concept_base <= 0.1
    assert min(result.concept_int8, result.concept_fp32) >= 0.7
