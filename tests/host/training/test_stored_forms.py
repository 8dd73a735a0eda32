"""A pipeline folder trains in whatever form it is stored: 16 bits, a variant alone, float32; adapters differ by its rounding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from systolora.demo.run import demo_pictures
from systolora.demo.sprites import write_image_folder
from systolora.training.settings import TrainSettings
from systolora.training.trainer import train

from ..models.stored_forms import stored_as

DISTANCE = {
    (torch.float16, "float32"): 0.02,
    (torch.bfloat16, "float32"): 0.1,
    (torch.float16, "int8"): 0.1,
    (torch.bfloat16, "int8"): 0.2,
}
"""Largest relative distance (2-norm) of the `up` factors, which start at zero, to those of the float32 weights. Measured:
0.007, 0.056, 0.051, 0.092. With INT8, some of the rounded weights and activations move to the next of 255 levels."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TrainSettings:
    folder = tmp_path_factory.mktemp("data") / "pictures"
    write_image_folder(folder, demo_pictures("heart", 0))
    return TrainSettings(data=str(folder), targets="kv", steps=4, batch=2, learning_rate=2e-3, checkpoint_every=0)


def adapter(settings: TrainSettings, model: Path, output: Path) -> torch.Tensor:
    """The `up` factors of the adapter that a run on that model leaves, in one row."""
    result = train(replace(settings, model=str(model), output=str(output)))
    tensors = load_file(result.adapter)
    return torch.cat([tensors[name].flatten() for name in sorted(tensors) if ".lora.up." in name])


@pytest.mark.filterwarnings("ignore:only weights of a variant")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_every_stored_form_trains_and_differs_by_its_rounding_alone(
    settings: TrainSettings, tmp_path: Path, dtype: torch.dtype
) -> None:
    exact = stored_as(tmp_path / "exact-model", torch.float32)
    rounded = stored_as(tmp_path / "rounded-model", torch.float32, rounded_to=dtype)
    half = stored_as(tmp_path / "half-model", dtype)
    variant = stored_as(tmp_path / "variant-model", dtype, "fp16")
    expected = adapter(settings, rounded, tmp_path / "rounded")
    assert torch.equal(adapter(settings, half, tmp_path / "half"), expected)
    assert torch.equal(adapter(settings, variant, tmp_path / "variant"), expected)
    for precision in ("int8", "float32"):
        chosen = replace(settings, precision=precision)
        far, near = (adapter(chosen, model, tmp_path / f"{precision}-{model.name}") for model in (exact, half))
        distance = float((near - far).norm() / far.norm())
        assert 0 < distance < DISTANCE[dtype, precision], distance


@pytest.mark.filterwarnings("ignore:only weights of a variant")
def test_the_command_says_which_variant_is_taken(
    settings: TrainSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from systolora.cli.train import run_training

    model = stored_as(tmp_path / "model", torch.float16, "fp16")
    (Path(settings.data) / "notes.md").write_text("not a picture")
    run_training(replace(settings, model=str(model), output=str(tmp_path / "run"), steps=1), json=False)
    printed = capsys.readouterr().out
    assert "note: only weights of a variant are there and are taken, as float32: unet/ fp16, vae/ fp16" in printed
    assert "not taken as pictures or captions: notes.md" in printed


@pytest.mark.filterwarnings("ignore:.*not taken as pictures")
def test_a_library_call_warns_of_what_the_command_says(settings: TrainSettings, tmp_path: Path) -> None:
    model = stored_as(tmp_path / "model", torch.float16, "fp16")
    with pytest.warns(UserWarning, match="only weights of a variant"):
        train(replace(settings, model=str(model), output=str(tmp_path / "run"), steps=1))
