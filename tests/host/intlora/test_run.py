"""IntLoRA from the command line: train, resume, merge, export, inspect; the experiment's tables."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from systolora.assets import pipeline_folder
from systolora.cli.app import app
from systolora.demo.run import demo_pictures
from systolora.demo.sprites import write_image_folder
from systolora.errors import UserError
from systolora.experiments.cells import Row
from systolora.experiments.intlora import exponent_cells, main_cells, remedy_cells
from systolora.experiments.table import BEGIN, END, page_tables, update_page
from systolora.intlora.export import load_unet
from systolora.intlora.file import read_file
from systolora.intlora.merge import merged_weights
from systolora.training.adapter import ADAPTER_FILE, SETTINGS_KEY
from systolora.training.integers import INTLORA_FILE
from systolora.training.settings import TrainSettings, check_settings
from systolora.training.trainer import Trainer, train
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainSettings:
    """Settings of a run of three steps that was made."""
    folder = tmp_path_factory.mktemp("intlora")
    settings = TrainSettings(
        model=str(pipeline_folder()),
        data=str(write_image_folder(folder / "pictures", demo_pictures("heart", 0))),
        output=str(folder / "run"),
        steps=3,
        batch=2,
        learning_rate=1e-2,
        method="intlora-mul",
        bits=4,
        rounding="stochastic",
        checkpoint_every=2,
        keep_checkpoints=9,
        threads=1,
    )
    train(settings)
    return settings


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_a_run_writes_the_integers_and_no_lora_that_is_another_model(run: TrainSettings) -> None:
    assert not list(Path(run.output).rglob(ADAPTER_FILE))
    content = read_file(Path(run.output) / INTLORA_FILE)
    assert content.settings == run.intlora and content.layers
    assert all(".attn2.to_" in name for name in content.layers)


def test_a_resumed_run_has_the_same_integers(run: TrainSettings, tmp_path: Path) -> None:
    second = replace(run, output=str(tmp_path / "again"), steps=2, checkpoint_every=1)
    train(second)
    train(replace(second, steps=3, resume=True))
    whole, again = (read_file(Path(folder) / INTLORA_FILE) for folder in (run.output, second.output))
    assert whole.merged == again.merged


def test_merge_export_and_inspect(run: TrainSettings, tmp_path: Path) -> None:
    adapter, model = Path(run.output) / INTLORA_FILE, run.model
    one, two, term = tmp_path / "one", tmp_path / "two", tmp_path / "term"
    answer = json.loads(call("merge", adapter, "--out", one, "--model", model, "--json").splitlines()[-1])
    assert answer["wide"] == 0 and answer["passes"] == 1 and answer["bytes"] == one.stat().st_size
    call("export", adapter, "--out", term, "--model", model, "--form", "term")
    assert "every integer fits the array's 8 bits" in call("merge", term, "--out", two)
    assert one.read_bytes() == two.read_bytes()
    call("export", one, "--out", tmp_path / "pipeline", "--model", model)
    unet = load_unet(tmp_path / "pipeline")
    for name, weight in merged_weights(read_file(one)).items():
        assert np.array_equal(dict(unet.named_modules())[name].weight.numpy(), weight.real())
    assert "IntLoRA_MUL, 4 bits" in call("inspect", one)
    assert json.loads(call("inspect", term, "--json").splitlines()[-1])["kind"] == "IntLoRA term"


def test_mistakes_get_one_line(run: TrainSettings, tmp_path: Path) -> None:
    adapter = Path(run.output) / INTLORA_FILE
    with pytest.raises(UserError, match="give --model"):
        call("merge", adapter, "--out", tmp_path / "x")
    with pytest.raises(UserError, match="--form 'onnx': allowed are term, diffusers"):
        call("export", adapter, "--out", tmp_path / "x", "--model", run.model, "--form", "onnx")
    with pytest.raises(UserError, match="the folder is not empty"):
        call("export", adapter, "--out", run.output, "--model", run.model)
    with pytest.raises(UserError, match="bits = 9: allowed are 2 to 8"):
        check_settings(replace(run, bits=9))
    with pytest.raises(UserError, match="--method 'intlora': allowed are lora, intlora-mul, intlora-shift"):
        check_settings(replace(run, method="intlora"))
    with pytest.raises(UserError, match="remedies: there is no 'zero'"):
        check_settings(replace(run, remedies="zero"))
    with pytest.raises(UserError, match="ratio = 'max': allowed are range, variance"):
        check_settings(replace(run, intlora_ratio="max"))
    with pytest.raises(UserError, match="--targets linear with --adapt kv: .* no others; leave --targets out"):
        check_settings(replace(run, targets="linear", adapt="kv"))


@pytest.mark.parametrize(
    "change", [{"bits": 4}, {"remedies": "none"}, {"intlora_refresh": 5}, {"intlora_symmetric": True}]
)
def test_settings_of_integers_are_refused_where_there_are_none(run: TrainSettings, change: dict) -> None:
    plain = replace(run, method="lora", bits=8)
    check_settings(plain)
    (name,) = change
    with pytest.raises(
        UserError, match=f"--{name.replace('_', '-')} .*: it is for --method intlora-mul or intlora-shift"
    ):
        check_settings(replace(plain, **change))


def test_no_output_replaces_what_is_no_output(run: TrainSettings, tmp_path: Path) -> None:
    adapter, model = tmp_path / "adapter", ("--model", run.model)
    adapter.write_bytes((Path(run.output) / INTLORA_FILE).read_bytes())
    (tmp_path / "link").symlink_to(adapter)
    (tmp_path / "folder").mkdir()
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "other").write_bytes(adapter.read_bytes())
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    for form in ((), ("--form", "term")):
        command = "export" if form else "merge"
        for out, message in (
            (adapter, "it is the file that is read"),
            (tmp_path / "link", "it is the file that is read"),
            (tmp_path / "folder", "it is a folder, but a (term|merged) file is to be written"),
            (tmp_path / "mine.txt", r"the file there is not replaced \(no IntLoRA file, not (term|merged)\)"),
            (tmp_path / "other", r"the file there is not replaced \(adapter, not (term|merged)\)"),
            (tmp_path / "mine.txt" / "below", "it cannot be written: .*mine.txt is a file"),
        ):
            with pytest.raises(UserError, match=message):
                call(command, adapter, "--out", out, *model, *form)
    with pytest.raises(UserError, match="it is a file, but a pipeline is a folder; give a new one, or --form term"):
        call("export", adapter, "--out", tmp_path / "mine.txt", *model)
    with pytest.raises(UserError, match="it cannot be written: .*mine.txt is a file"):
        call("export", adapter, "--out", tmp_path / "mine.txt" / "below", *model)
    assert before == {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    call("merge", adapter, "--out", tmp_path / "new" / "merged", *model)
    call("merge", adapter, "--out", tmp_path / "new" / "merged", *model)
    call("export", adapter, "--out", tmp_path / "folder", *model)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["merged"]
    assert not list(tmp_path.glob("*partial*")) and (tmp_path / "folder" / "model_index.json").is_file()


def test_a_failed_export_leaves_nothing(run: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object, folder: str) -> None:
        (Path(folder) / "unet").mkdir(parents=True)
        raise OSError("no space left")

    monkeypatch.setattr("diffusers.StableDiffusionPipeline.save_pretrained", full)
    with pytest.raises(OSError, match="no space left"):
        call("export", Path(run.output) / INTLORA_FILE, "--out", tmp_path / "pipeline", "--model", run.model)
    assert not list(tmp_path.iterdir())


def test_inspect_prints_whole_names_and_the_alpha_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    names = [f"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_{end}" for end in ("k", "v", "[x]")]
    tensors = {}
    for name in names:
        tensors[f"{name}.lora.down.weight"], tensors[f"{name}.lora.up.weight"] = torch.zeros(4, 8), torch.zeros(8, 4)
    metadata = {SETTINGS_KEY: json.dumps({"rank": 4, "alpha": 0.0, "model": "[/] here"})}
    save_file(tensors, str(tmp_path / "lora"), metadata=metadata)
    text = call("inspect", tmp_path / "lora")
    assert all(f"{name}  " in text or f"{name} " in text for name in names)
    assert "model [/] here, rank 4, alpha 4" in text
    save_file({"x.lora.up.weight": torch.tensor(1.0), "x.lora.down.weight": torch.tensor(1.0)}, str(tmp_path / "odd"))
    assert call("inspect", tmp_path / "odd").startswith("tensors")


def test_an_adapter_of_zeros_is_refused(run: TrainSettings, tmp_path: Path) -> None:
    still = replace(run, output=str(tmp_path / "still"), steps=1, learning_rate=1e-12, precision="float32")
    trainer = Trainer(still)
    with torch.no_grad():
        for name, value in trainer.unet.named_parameters():
            if ".lora_B." in name:
                value.zero_()
    with pytest.raises(UserError, match="the adapter is still all zero after training"):
        trainer._save(Path(still.output))


def test_no_remedies_is_the_papers_form(run: TrainSettings) -> None:
    chosen = replace(run, remedies="none").intlora
    assert chosen.remedies == () and (chosen.ratio, chosen.exponent) == ("range", 1.5)
    assert chosen == replace(chosen, bits=chosen.bits).paper()
    assert replace(run, remedies="none", intlora_ratio="variance").intlora.ratio == "variance"
    assert replace(run, remedies="range").intlora.remedies == ("range",)


def test_the_same_run_in_float32_needs_no_device(run: TrainSettings, tmp_path: Path) -> None:
    result = train(replace(run, precision="float32", output=str(tmp_path / "f")))
    assert "torch in float32" in result.offload_report and result.adapter.name == INTLORA_FILE
    assert torch.isfinite(torch.tensor(result.losses)).all()


def test_every_cell_has_a_name_of_its_own() -> None:
    cells = main_cells(3, (8, 4)) + remedy_cells(3) + exponent_cells(3)
    assert len({cell.key for cell in cells}) == len(cells)
    cell = next(cell for cell in cells if cell.intlora)
    assert replace(cell, intlora=replace(cell.intlora, headroom=0.125)).key != cell.key
    labels = {cell.label for cell in main_cells(1, (8, 4))}
    assert {"LoRA", "QLoRA", "IntLoRA_MUL, paper", "IntLoRA_SHIFT, mended"} <= labels


def test_tables_show_mean_and_spread_and_replace_the_old_ones(tmp_path: Path) -> None:
    rows = [
        Row("W4A8", label, seed, 0.5 + seed / 10, 10.0, 0.05, 0.1, 30.0, 1000, 8)
        for label in ("QLoRA + PTQ", "MUL, 4 bits: only zeros")
        for seed in (0, 1)
    ]
    text = page_tables(rows, 9)
    assert "| QLoRA + PTQ | 2 | 55.0% ± 7.1% | 10.0 ± 0.0 | 0.0500 ± 0.0000 | 10.00% ± 0.00% | 30 ± 0 | 1 | 8 |" in text
    assert text.index("### W4A8") < text.index("QLoRA") < text.index("### Each change alone") < text.index("only zeros")
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    update_page(page, text)
    found = page.read_text()
    assert found.startswith("before\n") and found.endswith("after\n") and "old" not in found and "QLoRA" in found
    page.write_text("no markers")
    with pytest.raises(UserError, match="between which the tables go"):
        update_page(page, text)


def test_the_quick_experiment_makes_every_row(tmp_path: Path) -> None:
    call("experiment", "intlora", "--quick", "--out", tmp_path, "--workers", 2)
    text = (tmp_path / "table.md").read_text()
    wanted = ["LoRA, float32", "LoRA + PTQ", "QLoRA, float adapter", "QLoRA + PTQ", "quantization-aware LoRA"]
    wanted += [f"IntLoRA_{method}, {form}" for method in ("MUL", "SHIFT") for form in ("paper", "mended")]
    assert all(f"| {label} |" in text for label in wanted)
    cells = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    (qlora,) = (tmp_path / "cells").glob("w4-qlora-s0-*-4.json")
    qlora.unlink()
    call("experiment", "intlora", "--quick", "--cached", "--out", tmp_path)
    assert "QLoRA, float adapter" not in (tmp_path / "table.md").read_text()
    call("experiment", "intlora", "--quick", "--out", tmp_path)
    assert (tmp_path / "table.md").read_text().count("QLoRA") == 2
    cells.pop(qlora)
    assert cells.items() <= {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}.items()
