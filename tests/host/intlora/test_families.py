"""IntLoRA on linear and all layers, on the families of models: it trains, goes on with the same bits, saves, merges."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from systolora.assets import pipeline_folder
from systolora.cli.app import app
from systolora.intlora.file import read_file
from systolora.intlora.inference import load_merged
from systolora.models.sources import load_model
from systolora.offloading.target_names import TARGETS
from systolora.sim.functional.emulator import EmulatorDevice
from systolora.training.adapted import adapted_names
from systolora.training.batches import draw_batch
from systolora.training.integers import INTLORA_FILE
from systolora.training.settings import TrainSettings
from systolora.training.trainer import Trainer, train
from typer.testing import CliRunner

from ..models.single_file import single_file
from ..models.tiny_families import SIDE, make_family


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for number, caption in enumerate(("a red heart", "a blue star")):
        Image.fromarray(random.integers(0, 256, (9, 10, 3), np.uint8)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(caption)
    return folder


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def settings_for(model: Path, pictures: Path, output: Path, **changes: Any) -> TrainSettings:
    common: dict[str, Any] = {
        "steps": 2, "learning_rate": 2e-2, "bits": 4, "rounding": "stochastic", "checkpoint_every": 1, "threads": 1,
        "transfer_type": "float32",
    }  # fmt: skip
    return TrainSettings(model=str(model), data=str(pictures), output=str(output), **common | changes)


FEW = "attn2.to_k,attn1.to_out.0,proj_in,ff.net.2,conv_in,downsamplers.0.conv"
"""Layers of each kind: all of them take minutes."""


@pytest.mark.parametrize(
    ("name", "adapt", "method"),
    [
        pytest.param("sdxl", FEW, "intlora-mul", id="sdxl-few"),
        *(
            pytest.param(name, adapt, method, marks=pytest.mark.slow, id=f"{name}-{adapt}")
            for name, adapt, method in (
                ("demo", "linear", "intlora-mul"),
                ("sdxl", "all", "intlora-mul"),
                ("pixart-sigma", "all", "intlora-shift"),
                ("sd3", "all", "intlora-shift"),
                ("flux-dev", "linear", "intlora-shift"),
            )
        ),
    ],
)
def test_a_run_goes_on_with_the_same_bits_and_merges_to_the_model_that_was_trained(
    name: str, adapt: str, method: str, pictures: Path, tmp_path: Path
) -> None:
    folder = Path(pipeline_folder()) if name == "demo" else make_family(name, tmp_path / name / "model")
    options = {} if name == "demo" else {"resolution": SIDE}
    layers = {"targets": adapt} if adapt in TARGETS else {"adapt": adapt}
    settings = settings_for(folder, pictures, tmp_path / "run", method=method, **layers, **options)
    trainer = Trainer(settings)
    result = trainer.run()
    assert np.isfinite(result.losses).all()
    content = read_file(Path(settings.output) / INTLORA_FILE)
    assert "fell back" not in result.offload_report

    second = replace(settings, output=str(tmp_path / "again"))
    train(replace(second, steps=1))
    train(replace(second, resume=True))
    again = read_file(Path(second.output) / INTLORA_FILE)
    assert again.merged == content.merged and again.fingerprint == content.fingerprint

    adapter, term, merged = (tmp_path / part for part in ("adapter", "term", "merged"))
    adapter.write_bytes((Path(settings.output) / INTLORA_FILE).read_bytes())
    call("merge", adapter, "--out", merged, "--model", folder)
    call("export", adapter, "--out", term, "--model", folder, "--form", "term")
    call("merge", term, "--out", tmp_path / "of term")
    assert (tmp_path / "of term").read_bytes() == merged.read_bytes()
    assert json.loads(call("inspect", merged, "--json").splitlines()[-1])["kind"] == "IntLoRA merged"

    batch = draw_batch(trainer.data, settings, trainer.objective.draw_times, 0, 0)
    plain, device = load_model(str(folder)).unet, EmulatorDevice()
    assert set(content.layers) == set(adapted_names(plain, adapt))
    running = load_merged(plain, merged, device)
    with torch.no_grad():
        expected = trainer.objective.loss(trainer.unet.eval(), batch).item()
        assert trainer.objective.loss(plain, batch).item() == expected
        running.undo()
        assert trainer.objective.loss(plain, batch).item() != expected
    device.close()
    trainer.close()

    call("export", merged, "--out", tmp_path / "pipeline", "--model", folder)
    pipeline = DiffusionPipeline.from_pretrained(str(tmp_path / "pipeline"), local_files_only=True)
    trained = pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer
    with torch.no_grad():  # in float32, where activations are not quantized
        assert trainer.objective.loss(trained.eval(), batch).item() == pytest.approx(expected, rel=0.05)


def test_a_single_file_is_a_model_for_merge_as_it_is_for_train(pictures: Path, tmp_path: Path) -> None:
    folder = make_family("sd", tmp_path / "sd" / "model")
    file = single_file(folder, tmp_path / "model.safetensors")
    model = {"model": str(file), "model_config": str(folder)}
    settings = replace(
        settings_for(file, pictures, tmp_path / "run", method="intlora-mul", precision="float32"), **model
    )
    train(replace(settings, resolution=SIDE, steps=1))
    adapter = Path(settings.output) / INTLORA_FILE
    call("merge", adapter, "--out", tmp_path / "one", "--model", file, "--model-config", folder)
    call("merge", adapter, "--out", tmp_path / "two", "--model", folder)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
