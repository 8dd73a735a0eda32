"""Models from one checkpoint file, from the hub's cache, and by variant; each mistake is one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from systolora.errors import UserError
from systolora.models.pipeline import load_parts
from systolora.models.sources import load_model, local_path

from .single_file import single_file
from .tiny_families import make_family

PARTS = ("unet", "vae", "text_encoder")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_family("sd", tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def configurations(folder: Path, tmp_path: Path) -> Path:
    """The folder without its weights."""
    return Path(shutil.copytree(folder, tmp_path / "configurations", ignore=shutil.ignore_patterns("*.safetensors")))


def same_weights(first: object, second: object) -> bool:
    found, expected = (model.state_dict() for model in (first, second))  # type: ignore[attr-defined]
    return found.keys() == expected.keys() and all(torch.equal(found[key], value) for key, value in expected.items())


def test_a_checkpoint_file_gives_the_model_of_its_folder(folder: Path, configurations: Path, tmp_path: Path) -> None:
    file = single_file(folder, tmp_path / "model.safetensors")
    parts, expected = load_model(str(file), config=str(configurations)), load_parts(folder)
    for name in PARTS:
        assert same_weights(getattr(parts, name), getattr(expected, name)), name
        assert not any(value.requires_grad for value in getattr(parts, name).parameters())
    captions = ["a red heart", "a blue star"]
    assert torch.equal(parts.encode(captions)["text"], expected.encode(captions)["text"])
    assert parts.noise.config.beta_schedule == expected.noise.config.beta_schedule


def without(text: str) -> Callable[[str], bool]:
    return lambda name: text not in name


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (without("diffusion_model"), "cannot be loaded as a StableDiffusionPipeline|has no weights for unet"),
        (without("time_embed.0"), "has no weights for unet .*time_embedding.linear_1|cannot be loaded"),
        (without("cond_stage"), "cannot be loaded|has no weights for text_encoder"),
    ],
    ids=["no U-Net", "no time embedding", "no text encoder"],
)
def test_a_checkpoint_file_that_lacks_a_part_is_one_line(
    kept: Callable[[str], bool], message: str, folder: Path, configurations: Path, tmp_path: Path
) -> None:
    tensors = load_file(single_file(folder, tmp_path / "whole.safetensors"))
    save_file({name: value for name, value in tensors.items() if kept(name)}, tmp_path / "less.safetensors")
    with pytest.raises(UserError, match=message) as caught:
        load_model(str(tmp_path / "less.safetensors"), config=str(configurations))
    assert "\n" not in str(caught.value)


def test_what_goes_with_a_file_and_what_with_a_folder_is_said(folder: Path, tmp_path: Path) -> None:
    file, pickled = tmp_path / "model.safetensors", tmp_path / "model.ckpt"
    save_file({"a": torch.ones(1)}, file)
    pickled.write_bytes(b"x")
    for arguments, message in (
        ({"model": file}, "a checkpoint file holds weights alone; give --model-config"),
        ({"model": file, "config": folder, "variant": "fp16"}, "--variant fp16: it goes with a folder"),
        ({"model": folder, "config": folder}, "--model-config .*: it goes with a checkpoint file"),
        ({"model": file, "config": tmp_path / "no"}, "--model-config .*/no: there is no such folder"),
        ({"model": pickled, "config": folder}, "those that end in .safetensors are read"),
        ({"model": file, "config": folder}, "cannot be loaded as a StableDiffusionPipeline"),
    ):
        with pytest.raises(UserError, match=message):
            load_model(**{name: str(value) for name, value in arguments.items()})


def test_a_variant_is_taken_when_asked_for_and_only_where_there_is_one(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    plain = copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(plain)
    halves = {name: (value * 0.5).half() for name, value in tensors.items()}
    save_file(halves, plain.with_name("diffusion_pytorch_model.fp16.safetensors"), metadata={"format": "pt"})
    assert torch.equal(load_model(str(copy)).unet.state_dict()["conv_in.weight"], tensors["conv_in.weight"])
    parts = load_model(str(copy), "fp16")
    assert torch.equal(parts.unet.state_dict()["conv_in.weight"], halves["conv_in.weight"].float())
    assert parts.notes == ("weights of a variant are taken, as asked, as float32: unet/ fp16",)
    with pytest.raises(UserError, match="--variant bf16: no part of .* has weights of that variant"):
        load_model(str(copy), "bf16")


def test_a_model_of_the_hub_is_taken_from_its_cache_and_one_that_is_not_there_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("diffusers.pipelines.pipeline_utils.HF_HUB_CACHE", str(tmp_path), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--somebody--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, repository / "snapshots" / ("0" * 40))
    assert same_weights(load_model("hub:somebody/tiny").unet, load_parts(folder).unet)
    with pytest.raises(UserError, match="--model hub:somebody/other: it is not in the hub's cache.*HF_HUB_OFFLINE=0"):
        load_model("hub:somebody/other")
    with pytest.raises(UserError, match="--model hub:other: expected hub:OWNER/NAME"):
        local_path("hub:other")
