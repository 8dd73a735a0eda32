"""Finding, captioning and cropping pictures; each kind of bad folder gets one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from systolora.errors import UserError
from systolora.training.captions import find_pictures
from systolora.training.pictures import load_picture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, colour in (("a.png", "red"), ("b.jpg", "blue")):
        Image.new("RGB", (40, 20), colour).save(tmp_path / name)
    return tmp_path


def test_captions_come_from_metadata_then_text_then_prompt(folder: Path) -> None:
    Image.new("RGB", (8, 8)).save(folder / "c.png")
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "text": "one"}) + "\n\n")
    (folder / "b.txt").write_text(" two \n")
    assert [picture.caption for picture in find_pictures(folder, "three")] == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("{", "metadata.jsonl line 1: expected"),
        ('{"file": "a.png"}', "metadata.jsonl line 1: expected"),
        ('{"file_name": "a.png", "text": "x"}\n{"file_name": "z.png", "text": "x"}', "names z.png, which is not"),
        ('{"file_name": "a.png", "text": "x"}', "no caption for b.jpg"),
    ],
)
def test_bad_metadata_names_the_line(folder: Path, metadata: str, message: str) -> None:
    (folder / "metadata.jsonl").write_text(metadata)
    with pytest.raises(UserError, match=message):
        find_pictures(folder)


def test_missing_and_empty_folders_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        find_pictures(tmp_path / "none")
    with pytest.raises(UserError, match="no pictures in it"):
        find_pictures(tmp_path)


def test_a_picture_is_its_centred_square_in_minus_one_to_one(folder: Path) -> None:
    picture = load_picture(folder / "a.png", 16)
    assert picture.shape == (3, 16, 16) and picture.dtype == np.float32
    assert np.allclose(picture[0], 1, atol=0.02) and np.allclose(picture[1:], -1, atol=0.02)


def test_a_broken_picture_is_named(folder: Path) -> None:
    (folder / "a.png").write_bytes((folder / "a.png").read_bytes()[:40])
    with pytest.raises(UserError, match="a.png: cannot be read as a picture"):
        load_picture(folder / "a.png", 16)
