"""`systolora runs`: one row a run, with its outcome; and what `train` forecasts for the page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from systolora.assets import pipeline_folder
from systolora.cli.app import app
from systolora.cli.forecast import forecast
from systolora.training.run_record import write_run
from systolora.training.settings import TrainSettings
from typer.testing import CliRunner


def make_run(folder: Path, state: str, rows: int, message: str = "") -> None:
    facts = {"state": state, "message": message, "started": f"2026-01-0{rows + 1}", "settings": {"steps": 9}}
    write_run(folder, facts)
    lines = [json.dumps({"step": number + 1, "loss": 0.5 / (number + 1)}) + "\n" for number in range(rows)]
    (folder / "log.jsonl").write_text("".join(lines) + '{"step": 99, "lo')


def test_runs_are_listed_with_their_outcome(tmp_path: Path) -> None:
    make_run(tmp_path / "b", "finished", 2)
    make_run(tmp_path / "a", "failed", 1, "the loss of step 2 is nan")
    make_run(tmp_path / "deep" / "c", "running", 0)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.json").write_text("[]")
    result = CliRunner().invoke(app, ["runs", str(tmp_path)], env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    assert lines[1:4] == [
        ["deep/c", "killed", "0", "9", "-", "2026-01-01"],
        ["a", "failed", "1", "9", "0.5000", "2026-01-02"],
        ["b", "finished", "2", "9", "0.2500", "2026-01-03"],
    ]
    assert "a: the loss of step 2 is nan" in result.output
    found = json.loads(CliRunner().invoke(app, ["runs", str(tmp_path), "--json"]).stdout.splitlines()[-1])
    assert [run["outcome"] for run in found] == ["killed", "failed", "finished"] and found[0]["loss"] is None


def test_a_folder_without_runs_and_one_that_is_missing(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["runs", str(tmp_path)])
    assert result.exit_code == 0 and "no runs of systolora train" in result.output
    with pytest.raises(Exception, match="there is no such folder"):
        CliRunner().invoke(app, ["runs", str(tmp_path / "none")], catch_exceptions=False, standalone_mode=False)


def test_the_forecast_is_the_cost_model_of_the_runs_step() -> None:
    settings = TrainSettings(model=str(pipeline_folder()), data="d", output="o", accumulation=2, steps=10)
    figures = dict(forecast(settings, 16))
    once = dict(forecast(TrainSettings(model=str(pipeline_folder()), data="d", output="o"), 16))
    name = "a step on the accelerator"
    assert float(figures[name].split()[0]) == pytest.approx(2 * float(once[name].split()[0]), rel=1e-3)
    assert figures["array"] == "64 x 64, 200 MHz" and figures["all 10 steps"].endswith(" s")
    hours = dict(forecast(TrainSettings(model=str(pipeline_folder()), data="d", output="o", steps=10**6), 16))
    assert hours["all 1000000 steps"].endswith(" h")
    wide = dict(forecast(replace(settings, transfer_type="float32"), 16))
    assert float(wide[name].split()[0]) > float(figures[name].split()[0])
    assert forecast(TrainSettings(model="m", data="d", output="o", precision="float32"), 16) == []
    (failed,) = forecast(TrainSettings(model="nowhere", data="d", output="o"), 16)
    assert failed[0] == "not predicted" and "nowhere" in failed[1]
