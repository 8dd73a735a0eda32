"""Loading: float32 whatever the files store, and one line for each part that lacks a tensor or does not fit the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from systolora.errors import UserError
from systolora.models.pipeline import PipelineParts, load_parts

from .stored_forms import MODELS, copy_of_the_pipeline, stored_as


def change_config(folder: Path, name: str, **changes: object) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("dtype", "variant", "shard"),
    [
        (torch.float16, None, "10GB"),
        (torch.bfloat16, None, "10GB"),
        (torch.float16, "fp16", "10GB"),
        (torch.float16, "fp16", "200KB"),
        (torch.float32, None, "200KB"),
    ],
    ids=["fp16", "bf16", "variant", "variant in shards", "shards"],
)
def test_every_stored_form_is_loaded_as_float32(
    tmp_path: Path, dtype: torch.dtype, variant: str | None, shard: str
) -> None:
    parts = load_parts(stored_as(tmp_path / "form", dtype, variant, shard))
    plain = load_parts(stored_as(tmp_path / "plain", torch.float32, rounded_to=dtype))
    for name in MODELS:
        found, expected = getattr(parts, name).state_dict(), getattr(plain, name).state_dict()
        assert found.keys() == expected.keys()
        for key, tensor in expected.items():
            assert found[key].dtype == tensor.dtype and torch.equal(found[key], tensor), key
        assert all(parameter.dtype == torch.float32 for parameter in getattr(parts, name).parameters())
    said = "only weights of a variant are there and are taken, as float32: unet/ fp16, vae/ fp16, text_encoder/ fp16"
    assert parts.notes == ((said,) if variant else ())


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_older_weight_files_are_read_without_executing_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = copy_of_the_pipeline(tmp_path / "model")
    for name in MODELS:
        (file,) = (folder / name).glob("*.safetensors")
        tensors = load_file(file)
        file.unlink()
        binary = file.with_name(("pytorch_" if name == "text_encoder" else "") + file.stem + ".bin")
        torch.save(tensors, binary)
    state = load_parts(folder).text_encoder.state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in tensors.items())
    assert "error" not in capfd.readouterr().err.lower()
    torch.save(tensors | {"hostile": Hostile(tmp_path / "executed")}, binary)
    with pytest.raises(UserError, match="its part text_encoder/ cannot be loaded as CLIPTextModel"):
        load_parts(folder)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", MODELS)
def test_a_part_that_lacks_tensors_is_named_with_the_first(tmp_path: Path, name: str) -> None:
    folder = copy_of_the_pipeline(tmp_path / "model")
    (file,) = (folder / name).glob("*.safetensors")
    tensors = load_file(file)
    first, second = sorted(tensors)[:2]
    del tensors[first], tensors[second]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"its part {name}/ lacks {first} and 1 more tensors in its weight files"):
        load_parts(folder)


@pytest.mark.parametrize("name", MODELS)
def test_a_damaged_weight_file_is_named_with_its_part(tmp_path: Path, name: str) -> None:
    folder = copy_of_the_pipeline(tmp_path / "model")
    (file,) = (folder / name).glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match=f"its part {name}/ cannot be loaded as "):
        load_parts(folder)


def test_weights_of_another_shape_are_named_with_their_part(tmp_path: Path) -> None:
    folder = copy_of_the_pipeline(tmp_path / "model")
    change_config(folder, "unet/config.json", block_out_channels=[32, 128])
    with pytest.raises(UserError, match="its part unet/ cannot be loaded as UNet2DConditionModel"):
        load_parts(folder)


def test_old_names_of_the_text_encoder_are_read(tmp_path: Path) -> None:
    """transformers 4 wrote `text_model.` before each name; most published folders have it."""
    folder = copy_of_the_pipeline(tmp_path / "model")
    file = folder / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    save_file({f"text_model.{name}": value for name, value in tensors.items()}, file, metadata={"format": "pt"})
    assert all(
        torch.equal(load_parts(folder).text_encoder.state_dict()[name], value) for name, value in tensors.items()
    )


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"unet": ["diffusers", "UNet9D"]}, "unet/ is of class UNet9D, which the installed diffusers does not have"),
        ({"unet": ["diffusers", "logging"]}, "unet/ is of class logging, which"),
        ({"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}, "has no noise schedule of a diffusion model"),
    ],
)
def test_a_class_that_cannot_be_used_is_named(tmp_path: Path, index: dict, message: str) -> None:
    folder = copy_of_the_pipeline(tmp_path / "model")
    change_config(folder, "model_index.json", **index)
    with pytest.raises(UserError, match=message):
        load_parts(folder)


def test_parts_of_different_models_are_refused(tmp_path: Path) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = copy_of_the_pipeline(tmp_path / "model")
    config = CLIPTextConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1)
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    with pytest.raises(UserError, match="U-Net takes text of width 64 and its text encoder gives 32"):
        load_parts(folder)


def test_a_tokenizer_without_padding_is_refused(tmp_path: Path) -> None:
    folder = copy_of_the_pipeline(tmp_path / "model")
    change_config(folder, "tokenizer/tokenizer_config.json", pad_token=None)
    with pytest.raises(UserError, match="its tokenizer/ has no padding token"):
        load_parts(folder)


@pytest.mark.parametrize(("size", "resolution"), [([8, 8], 16), (8, 16), (None, 0), ([8, 6], 0)])
def test_the_resolution_is_that_of_the_model_or_asked_for(tmp_path: Path, size: object, resolution: int) -> None:
    folder = copy_of_the_pipeline(tmp_path / "model")
    change_config(folder, "unet/config.json", sample_size=size)
    parts = load_parts(folder)
    assert parts.checked_resolution(32) == 32
    if resolution:
        assert parts.resolution == parts.checked_resolution(0) == resolution
    else:
        with pytest.raises(UserError, match="--resolution is missing: sample_size is"):
            parts.checked_resolution(0)


@pytest.mark.parametrize("resolution", [1, 15, 2**40, 10**9])
def test_a_resolution_that_the_model_cannot_take_is_refused(resolution: int) -> None:
    from types import SimpleNamespace

    vae = SimpleNamespace(config=SimpleNamespace(block_out_channels=[24, 24]))
    parts = PipelineParts(None, vae, None, None, None)
    with pytest.raises(UserError, match=f"--resolution {resolution}: the model takes multiples of 2 up to 8192"):
        parts.checked_resolution(resolution)
