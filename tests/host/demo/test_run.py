"""The demo command: its page, its figures, and the same adapter from the emulator and from the compiled hardware source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console
from safetensors.torch import load_file
from systolora.cli.app import app
from systolora.demo.run import DemoSettings, demo_prompts, recipe, run_demo
from systolora.errors import UserError
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


@pytest.mark.slow
@pytest.mark.parametrize("targets", ["attention", "kv", "all"])
def test_the_whole_demo_learns_the_concept(tmp_path: Path, targets: str) -> None:
    result = run_demo(DemoSettings(out=tmp_path, targets=targets), Console(quiet=True))
    assert abs(result.loss_int8 - result.loss_fp32) <= 0.05 * result.loss_fp32
    assert abs(result.concept_int8 - result.concept_fp32) <= 0.10
    assert result.concept_base <= 0.1
    assert min(result.concept_int8, result.concept_fp32) >= 0.7
