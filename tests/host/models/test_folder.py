"""Pipeline folders: each missing or broken part is named in one line, before anything is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from systolora.assets import pipeline_folder
from systolora.errors import UserError
from systolora.models.configs import model_spec
from systolora.models.folder import read_folder, read_json, square_side, variant_note


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(pipeline_folder(), tmp_path / "model"))


def change_index(folder: Path, name: str, value: object) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    index[name] = value
    (folder / "model_index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part_is_named(folder: Path, name: str) -> None:
    shutil.rmtree(folder / name)
    with pytest.raises(UserError, match=f"the part {name}/ is missing"):
        read_folder(folder)
    change_index(folder, name, [None, None])
    with pytest.raises(UserError, match=f"model_index.json names no {name}"):
        read_folder(folder)


@pytest.mark.parametrize("name", ["unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"])
def test_a_missing_configuration_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        read_folder(folder)


@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder"])
def test_missing_weights_and_pointers_are_named(folder: Path, name: str) -> None:
    (weights,) = (folder / name).glob("*.safetensors")
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(UserError, match=f"{weights.name}: it holds a pointer of Git LFS.*git lfs pull"):
        read_folder(folder)
    weights.unlink()
    with pytest.raises(UserError, match=f"{name} holds no weights"):
        read_folder(folder)


def test_classes_of_other_libraries_are_not_looked_for(folder: Path) -> None:
    change_index(folder, "unet", ["my_module", "UNet"])
    with pytest.raises(UserError, match="takes unet from 'my_module', where only diffusers and transformers"):
        read_folder(folder)


@pytest.mark.parametrize(
    "content",
    [b'{"_class_name": "\xe9"}', b"{", b"[]", b"7", b"[" * 20000, b"", '{"a": 1}'.encode("utf-16")],
    ids=["latin-1", "cut", "list", "number", "deep", "empty", "utf-16"],
)
def test_an_index_that_is_no_json_object_gets_one_line(folder: Path, content: bytes) -> None:
    (folder / "model_index.json").write_bytes(content)
    with pytest.raises(UserError, match="model_index.json: ") as caught:
        read_folder(folder)
    assert str(caught.value).isprintable()


def test_an_index_with_a_byte_order_mark_is_read(folder: Path) -> None:
    index = folder / "model_index.json"
    index.write_bytes(b"\xef\xbb\xbf" + index.read_bytes())
    assert read_folder(folder)["unet"].class_name == "UNet2DConditionModel"


WEIGHTS = {
    ("model.safetensors",): "",
    ("model.safetensors", "model.fp16.safetensors"): "",
    ("pytorch_model.bin", "model.fp16.safetensors"): "",
    ("model.fp16.safetensors",): "fp16",
    ("model.fp16.bin",): "fp16",
    ("model.bf16-00001-of-00002.safetensors", "model.bf16-00002-of-00002.safetensors"): "bf16",
    ("model-00001-of-00002.fp16.safetensors", "model-00002-of-00002.fp16.safetensors"): "fp16",
    ("model-00001-of-00002.safetensors", "model.fp16.safetensors"): "",
}


@pytest.mark.parametrize("names", WEIGHTS, ids=lambda names: "+".join(names))
def test_plain_weights_are_taken_and_else_the_only_variant(folder: Path, names: tuple[str, ...]) -> None:
    (folder / "text_encoder" / "model.safetensors").unlink()
    for name in names:
        (folder / "text_encoder" / name).write_bytes(b"weights")
    part = read_folder(folder)["text_encoder"]
    assert part.variant == WEIGHTS[names]
    taken = [name for name in names if part.variant in name and (part.variant or "fp16" not in name)]
    assert part.safetensors == any(name.endswith(".safetensors") for name in taken)


def test_the_variant_is_said_and_two_are_not_chosen_from(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    assert variant_note(read_folder(folder).values()) == []
    fp16 = weights.with_name("diffusion_pytorch_model.fp16.safetensors")
    shutil.copy(weights, fp16)
    weights.rename(weights.with_name("diffusion_pytorch_model.non_ema.safetensors"))
    with pytest.raises(UserError, match="variants fp16, non_ema and none without; leave one"):
        read_folder(folder)
    fp16.unlink()
    assert variant_note(read_folder(folder).values()) == [
        "only weights of a variant are there and are taken, as float32: unet/ non_ema"
    ]


def test_sizes_are_squares() -> None:
    assert [square_side(size) for size in (64, [64, 64], (8, 8))] == [64, 64, 8]
    assert [square_side(size) for size in (None, [64, 48], [64], [], 0, -1, True, "64", 6.5)] == [None] * 9


@pytest.mark.parametrize(("size", "resolution"), [(48, 384), ([48, 48], 384), (None, 1024)])
def test_a_configuration_may_say_its_size_as_two_numbers_or_not(tmp_path: Path, size: object, resolution: int) -> None:
    config = {"_class_name": "UNet2DConditionModel", "sample_size": size}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert model_spec(str(tmp_path)).resolution == resolution


def test_an_oblong_and_a_list_are_refused_in_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DConditionModel", "sample_size": [64, 48]}')
    with pytest.raises(UserError, match=r"sample_size is \[64, 48\]; expected a number, or two equal ones"):
        model_spec(str(tmp_path))
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match="config.json: expected a JSON object, found list"):
        model_spec(str(tmp_path))


def test_a_json_file_that_is_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_json(tmp_path)
