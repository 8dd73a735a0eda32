"""Folders are compared by what is in them: where they lie and how they are named does not matter."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from systolora.assets import pipeline_folder
from systolora.errors import UserError
from systolora.training.captions import find_pictures
from systolora.training.fingerprints import check_same, data_fingerprint, model_fingerprint


def data(folder: Path, prompt: str = "") -> dict[str, str]:
    return data_fingerprint(folder, find_pictures(folder, prompt))


def test_a_copy_of_a_model_is_the_same_and_an_edit_is_named(tmp_path: Path) -> None:
    copy = tmp_path / "moved"
    shutil.copytree(pipeline_folder(), copy)
    before = model_fingerprint(pipeline_folder())
    assert any(name.startswith("unet/") for name in before) and "model_index.json" in before
    (copy / "README.md").write_text("a note")
    check_same("--model", before, model_fingerprint(copy))
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(
        UserError, match="--model is not what the checkpoint was trained on .changed: unet/diffusion_py"
    ):
        check_same("--model", before, model_fingerprint(copy))


def test_what_changed_in_the_data_is_said(few_pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    shutil.copytree(few_pictures, folder)
    before = data(few_pictures)
    check_same("--data", before, data(folder))
    first, second = (picture.path.name for picture in find_pictures(folder)[:2])
    shutil.copy(folder / second, folder / f"zz{second}")
    (folder / f"zz{second}").with_suffix(".txt").write_text("one more")
    (folder / first).unlink()
    metadata = folder / "metadata.jsonl"
    if metadata.exists():
        rows = [row for row in metadata.read_text().splitlines() if first not in row]
        metadata.write_text("\n".join(row.replace("red", "green").replace("blue", "green") for row in rows))
    with pytest.raises(UserError) as caught:
        check_same("--data", before, data(folder))
    text = str(caught.value)
    assert f"new: zz{second}" in text and f"gone: {first}" in text and "changed: " in text and "\n" not in text


def test_many_changes_are_counted() -> None:
    with pytest.raises(UserError, match="gone: a0, a1, a2 and 7 more"):
        check_same("--data", {f"a{i}": "" for i in range(10)}, {})
