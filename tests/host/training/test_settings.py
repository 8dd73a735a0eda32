"""Settings: one declaration for command line and YAML, and one clear line for each mistake."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from systolora.cli.app import app
from systolora.errors import UserError
from systolora.training.settings import TrainSettings, check_settings, load_settings_file, merge_settings
from typer.testing import CliRunner

GOOD = TrainSettings(model="m", data="d", output="o")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 0}, "--rank 0: it must be larger than 0"),
        ({"steps": -1}, "--steps -1"),
        ({"model": ""}, "--model is missing"),
        ({"targets": "kq"}, "--targets 'kq': allowed are kv, attention, linear"),
        ({"max_grad_norm": -1.0}, "--max-grad-norm -1.0: it must not be negative"),
        ({"caption_dropout": 1.5}, "--caption-dropout 1.5: it is a share"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_settings(merge_settings(GOOD, change, "here"))


@pytest.mark.parametrize("name, value", [("rank", "many"), ("rank", 2.5), ("random_flip", "yes"), ("rank", None)])
def test_a_value_of_the_wrong_type_is_refused(name: str, value: object) -> None:
    with pytest.raises(UserError, match=f"here: {name} = {value!r}"):
        merge_settings(GOOD, {name: value}, "here")


def test_yaml_has_the_same_names_as_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("rank: 8\nlearning-rate: 1e-3\ntargets: attention\n")
    merged = merge_settings(TrainSettings(), load_settings_file(path), "file")
    assert (merged.rank, merged.learning_rate, merged.targets) == (8, 1e-3, "attention")


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "\x00"])
def test_a_broken_yaml_file_gets_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="run.yaml") as caught:
        load_settings_file(path)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_lists_those_that_exist() -> None:
    with pytest.raises(UserError, match="there is no setting 'rnk'; there are model, data"):
        merge_settings(GOOD, {"rnk": 4}, "here")


def test_every_setting_is_an_option() -> None:
    result = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for field in fields(TrainSettings):
        assert "--" + field.name.replace("_", "-") in result.output
