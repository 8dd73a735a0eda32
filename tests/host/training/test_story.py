"""What a run leaves for people: run.json, settings, page, pictures, adapters on the way; none of it changes what is trained."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from systolora.errors import UserError
from systolora.training.adapter import ADAPTER_FILE
from systolora.training.checkpoint import list_checkpoints
from systolora.training.interrupts import Stopped
from systolora.training.run_page import PageFacts, render_page, smoothed
from systolora.training.run_record import find_runs, read_log, read_run, summarize
from systolora.training.settings import TrainSettings, read_settings
from systolora.training.trainer import Trainer
from systolora.training.validation import is_due, prompts_of

MakeTrainer = Callable[[TrainSettings], Trainer]
EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "train.yaml"


def run(trainer: Trainer, on_step: Callable[[Any], Any] | None = None) -> Path:
    try:
        trainer.run(on_step)
    finally:
        trainer.close()
    return trainer.output


@pytest.fixture
def shown(small: TrainSettings) -> TrainSettings:
    return replace(
        small,
        report_to="none",
        validation_prompt="a red heart | a blue <b>circle</b>",
        validation_every=2,
        validation_denoising=2,
        adapter_every=3,
    )


def test_a_run_that_is_seen_trains_the_bits_of_one_that_is_not(
    shown: TrainSettings, small: TrainSettings, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    output = run(make_trainer(replace(shown, precision="int8", rounding="stochastic")))
    plain = replace(small, report_to="none", output=str(tmp_path / "plain"), precision="int8", rounding="stochastic")
    first, second = load_file(output / ADAPTER_FILE), load_file(run(make_trainer(plain)) / ADAPTER_FILE)
    assert all(torch.equal(first[name], second[name]) for name in second)

    assert sorted(path.name for path in (output / "validation").iterdir()) == [
        f"step-000000{step}" for step in (0, 2, 4)
    ]
    before, after = (output / "validation" / f"step-000000{step}" / "0.png" for step in (0, 4))
    with Image.open(before) as picture:
        assert picture.size == (16, 16)
    assert load_file(output / "adapters" / "step-0000003" / ADAPTER_FILE).keys() == first.keys()

    facts = read_run(output)
    assert facts is not None and facts["state"] == "finished" and facts["data"]["pictures"] == 4
    assert facts["versions"]["torch"] == torch.__version__ and len(facts["data"]["fingerprint"]) == 64
    again = read_settings(output / "settings.yaml", {"model": shown.model, "data": shown.data, "output": shown.output})
    assert again == replace(shown, precision="int8", rounding="stochastic")

    page = (output / "run.html").read_text()
    assert page.count("data:image/png;base64,") == 6 and "step 4" in page
    assert "a blue &lt;b&gt;circle" in page and "<b>circle" not in page
    assert not re.search(r'(src|href)="(?!data:)', page) and "http" not in page.replace("http://www.w3.org", "")
    row = read_log(output)[-1]
    assert 0 < row["device_seconds"] < row["seconds"]
    assert f"{row['step']} of 4" in page and "s device + " in page


def test_the_page_is_true_on_the_way_and_after_a_signal(shown: TrainSettings, make_trainer: MakeTrainer) -> None:
    seen: dict[int, Any] = {}
    trainer = make_trainer(replace(shown, steps=6))

    def look(report: Any) -> None:
        facts = read_run(trainer.output)
        seen[report.step] = (facts["state"], summarize(trainer.output), (trainer.output / "run.html").read_text())  # type: ignore[index]
        if report.step == 3:
            raise Stopped("stopped by SIGTERM after step 3 of 6", 15)

    with pytest.raises(Stopped):
        run(trainer, look)
    state, summary, page = seen[2]
    assert state == "running" and summary.outcome == "running" and (summary.step, summary.steps) == (2, 6)
    assert "2 of 6" in page and ">running<" in page
    stopped = summarize(trainer.output)
    assert stopped is not None and stopped.outcome == "interrupted" and stopped.step == 3
    assert "stopped by SIGTERM after step 3 of 6" in (trainer.output / "run.html").read_text()


def test_a_run_that_fails_says_why(shown: TrainSettings, make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(replace(shown, validation_prompt=""))
    trainer.parameters[0].register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(UserError, match="is nan"):
        run(trainer)
    summary = summarize(trainer.output)
    assert summary is not None and summary.outcome == "failed" and "is nan" in summary.message


def test_a_run_whose_process_is_gone_was_killed(small: TrainSettings, make_trainer: MakeTrainer) -> None:
    output = run(make_trainer(replace(small, report_to="none")))
    facts = json.loads((output / "run.json").read_text())
    (output / "run.json").write_text(json.dumps({**facts, "state": "running"}))
    (found,) = find_runs(output.parent)
    assert (found.outcome, found.folder, found.step) == ("killed", output, 4)
    (output / "run.json").write_text("{}")
    assert find_runs(output.parent) == []


def test_resume_says_what_changed(small: TrainSettings, make_trainer: MakeTrainer) -> None:
    quiet = replace(small, report_to="none")
    output = run(make_trainer(replace(quiet, steps=2)))
    facts = json.loads((output / "run.json").read_text())
    facts["versions"]["torch"] = "1.0"
    (output / "run.json").write_text(json.dumps(facts))
    trainer = make_trainer(replace(quiet, steps=4, keep_checkpoints=3, resume=True))
    assert trainer.notes == [
        "going on after step 2 of 4",
        "settings that changed since the run was last started: steps 2 to 4, keep_checkpoints 2 to 3",
        f"versions that changed since the run was last started: torch '1.0' to {torch.__version__!r}",
    ]
    run(trainer)
    resumed = read_run(output)
    assert resumed is not None and resumed["resumed_from"] == 2


def test_checkpoints_come_by_time(small: TrainSettings, make_trainer: MakeTrainer) -> None:
    timed = replace(small, report_to="none", checkpoint_every=0, checkpoint_minutes=2, keep_checkpoints=9, steps=5)
    trainer = make_trainer(timed)
    assert trainer.story is not None
    minutes = iter(range(100))
    trainer.story.clock = lambda: (
        60.0 * next(minutes)
    )  # asked at the beginning, and once or, after a checkpoint, twice a step
    output = run(trainer)
    assert [step for step, _ in list_checkpoints(output)] == [2, 4, 5]


def test_adapters_of_an_older_run_are_not_mixed_with_a_new_one(small: TrainSettings, make_trainer: MakeTrainer) -> None:
    output = run(make_trainer(replace(small, report_to="none", checkpoint_every=0, adapter_every=2)))
    assert (output / "adapters" / "step-0000002" / ADAPTER_FILE).is_file()
    with pytest.raises(UserError, match="holds adapters of an older run in adapters/"):
        make_trainer(replace(small, report_to="none"))


@pytest.mark.parametrize("name", ["run.json", "run.html", "settings.yaml"])
def test_a_file_of_the_user_is_not_overwritten(small: TrainSettings, make_trainer: MakeTrainer, name: str) -> None:
    path = Path(small.output) / name
    path.parent.mkdir()
    path.write_text("mine")
    with pytest.raises(UserError, match=f"{name} in it"):
        make_trainer(small)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("name", ["nonsense", "tensorboard,nonsense"])
def test_an_unknown_tracker_is_refused(small: TrainSettings, make_trainer: MakeTrainer, name: str) -> None:
    trainer = make_trainer(replace(small, report_to=name))
    with pytest.raises(UserError, match="--report-to nonsense: allowed are none, "):
        run(trainer)


def test_tensorboard_gets_the_figures_and_pictures(shown: TrainSettings, make_trainer: MakeTrainer) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    output = run(make_trainer(replace(shown, report_to="tensorboard")))
    found = events.EventAccumulator(str(output / "tensorboard"))
    found.Reload()
    assert [event.step for event in found.Scalars("loss")] == [1, 2, 3, 4]
    assert [event.value for event in found.Scalars("loss")] == pytest.approx([row["loss"] for row in read_log(output)])
    assert [event.step for event in found.Images("a red heart")] == [0, 2, 4]


def test_without_tensorboard_the_page_says_so(
    small: TrainSettings, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: [])
    output = run(make_trainer(small))
    assert "TensorBoard is not installed" in (output / "run.html").read_text()
    with pytest.raises(UserError, match="--report-to wandb: its Python package is not installed"):
        run(make_trainer(replace(small, report_to="wandb", output=f"{small.output}-2")))


def test_the_example_trains(small: TrainSettings, make_trainer: MakeTrainer, tmp_path: Path) -> None:
    changed = {"model": small.model, "data": small.data, "output": small.output, "cache_dir": str(tmp_path / "cache")}
    short = {"steps": 2, "resolution": 16, "validation_denoising": 2, "report_to": "none", "warmup": 1}
    settings = read_settings(EXAMPLE, {**changed, **short})
    assert settings.rank == 8 and settings.learning_rate == 1e-4 and len(prompts_of(settings)) == 2
    assert (run(make_trainer(settings)) / ADAPTER_FILE).is_file()


def test_when_pictures_are_drawn() -> None:
    settings = replace(TrainSettings(), steps=10, validation_every=4, validation_prompt=" | ")
    assert not any(is_due(settings, step) for step in range(11))
    settings = replace(settings, validation_prompt="a|b")
    assert [step for step in range(11) if is_due(settings, step)] == [0, 4, 8, 10]


def test_a_long_run_has_a_page_of_bounded_size(tmp_path: Path) -> None:
    rows = [{"step": n, "loss": 1 / n, "learning_rate": 1e-4, "seconds": 0.1} for n in range(1, 20_001)]
    run_facts = {
        **{"state": "running", "message": "", "updated": "now", "started": "then", "resumed_from": 7},
        **{"settings": {"steps": 20_000, "seed": 3}, "versions": {}, "trackers": [], "notes": []},
        "data": {"pictures": 3, "skipped": 1, "fingerprint": "f" * 64},
    }
    page = render_page(PageFacts(run_facts, rows, forecast=[("all steps", "3 h")]))
    assert len(page) < 60_000 and "3, 1 skipped" in page and "goes on after step" in page and "3 h" in page
    first = re.search(r'points="([^"]*)"', page)
    assert first is not None and len(first[1].split()) == 600
    assert first[1].startswith("0.0,0.0") and first[1].endswith("640.0,200.0")
    assert smoothed([1.0, 3.0]) == [1.0, 2.0]
    empty = render_page(PageFacts(run_facts, []))
    assert "It comes with the second step" in empty and "0 of 20000" in empty
