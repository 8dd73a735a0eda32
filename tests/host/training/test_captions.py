"""Finding pictures and their captions: nothing is left out without a word; each kind of bad folder gets one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from systolora.errors import UserError
from systolora.training.captions import find_pictures, folder_notes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, colour in (("a.png", "red"), ("b.jpg", "blue")):
        Image.new("RGB", (40, 20), colour).save(tmp_path / name)
    return tmp_path


def write_metadata(folder: Path, *rows: dict, encoding: str = "utf-8") -> None:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "metadata.jsonl").write_text("".join(lines), encoding=encoding)


def found(folder: Path, prompt: str = "") -> dict[str, str]:
    """Caption by path relative to the folder."""
    return {str(picture.path.relative_to(folder)): picture.caption for picture in find_pictures(folder, prompt)}


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


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"file_name": 5, "text": "x"}', "line 1: expected"),
        ('{"file_name": "a.png", "text": 5}', "line 1: expected"),
        ('{"file_name": null, "text": "x"}', "line 1: expected"),
        ('["a.png", "x"]', "line 1: expected"),
        ("7", "line 1: expected"),
        ("[" * 20000, "line 1: expected"),
        ('{"file_name": "a.png", "text": ' + "9" * 5000 + "}", "line 1: expected"),
        (r'{"file_name": "a.png", "text": "\ud800"}', "line 1: expected"),
        (r'{"file_name": "a.png\u0000", "text": "x"}', "line 1: it names .*, which is not in the folder"),
        (r'{"file_name": "\ud800.png", "text": "x"}', "line 1: it names .*, which is not in the folder"),
        ('{"file_name": "", "text": "x"}', "line 1: it names .*, which is not in the folder"),
        ('{"file_name": "' + "a" * 300 + '", "text": "x"}', r"names a{80}\.\.\. \(300 letters\), which is not"),
        ('{"file_name": "a.png", "text": "x"}\n{"file_name": "./a.png", "text": "y"}', "line 2: .* a second time"),
    ],
    ids=lambda value: value[:40],
)
def test_any_json_gets_one_line(folder: Path, row: str, message: str) -> None:
    (folder / "metadata.jsonl").write_text(row)
    with pytest.raises(UserError, match=message) as caught:
        find_pictures(folder)
    assert len(str(caught.value)) < 400 + len(str(folder)) and str(caught.value).isprintable()


def test_metadata_may_name_subfolders_dotted_paths_and_other_kinds_of_files(folder: Path) -> None:
    (folder / "sub").mkdir()
    for name in ("sub/c.png", "d.tiff", "e.ppm"):
        Image.new("RGB", (8, 8)).save(folder / name)
    names = ["sub/c.png", "./a.png", "sub/../b.jpg", "d.tiff", "e.ppm"]
    write_metadata(folder, *({"file_name": name, "text": f"of {name}"} for name in names))
    expected = {
        "a.png": "./a.png",
        "b.jpg": "sub/../b.jpg",
        "d.tiff": "d.tiff",
        "e.ppm": "e.ppm",
        "sub/c.png": "sub/c.png",
    }
    for prompt in ("", "of all"):
        assert found(folder, prompt) == {name: f"of {text}" for name, text in expected.items()}


def test_pictures_of_every_listed_kind_are_found_without_metadata(tmp_path: Path) -> None:
    names = ["a.PNG", "b.jpeg", "c.webp", "d.bmp", "e.tif", "f.tiff", "g.gif"]
    for name in names:
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert list(found(tmp_path, "all")) == names


def test_what_is_not_taken_is_said(folder: Path) -> None:
    (folder / "sub").mkdir()
    for name in ("c.heic", "b.txt", "notes.txt", ".hidden", "._a.png"):
        (folder / name).write_text("words")
    pictures = find_pictures(folder, "of all")
    assert [picture.path.name for picture in pictures] == ["a.png", "b.jpg"]
    assert folder_notes(folder, pictures) == [f"{folder}: not taken as pictures or captions: c.heic, notes.txt, sub"]


def test_what_is_not_taken_of_a_subfolder_is_said(folder: Path) -> None:
    for name in ("sub/c.png", "sub/d.png", "sub/deep/e.png", "other/f.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / name)
    write_metadata(folder, *({"file_name": name, "text": "x"} for name in ("a.png", "b.jpg", "sub/c.png")))
    left = ["other", "sub/d.png", "sub/deep"]
    assert folder_notes(folder, find_pictures(folder)) == [
        f"{folder}: not taken as pictures or captions: {', '.join(left)}"
    ]


def test_a_missing_caption_of_a_subfolder_is_named_with_its_path(folder: Path) -> None:
    (folder / "sub").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "sub/c.png")
    write_metadata(
        folder,
        *({"file_name": name, "text": "x"} for name in ("a.png", "b.jpg")),
        {"file_name": "sub/c.png", "text": ""},
    )
    with pytest.raises(UserError, match="no caption for sub/c.png; write metadata.jsonl or sub/c.txt"):
        find_pictures(folder)


def test_pictures_that_the_metadata_does_not_name_take_the_prompt_and_it_is_said(folder: Path) -> None:
    write_metadata(folder, {"file_name": "a.png", "text": "one"})
    pictures = find_pictures(folder, "two")
    assert found(folder, "two") == {"a.png": "one", "b.jpg": "two"}
    assert folder_notes(folder, pictures) == [
        f"{folder / 'metadata.jsonl'}: it has no caption for b.jpg; they take --prompt"
    ]
    assert folder_notes(folder, find_pictures(folder, "two")[:1]) == [
        f"{folder}: not taken as pictures or captions: b.jpg"
    ]


def test_an_empty_caption_is_none(folder: Path) -> None:
    write_metadata(folder, {"file_name": "a.png", "text": " "})
    (folder / "b.txt").write_text("\n")
    assert found(folder, "two") == {"a.png": "two", "b.jpg": "two"}
    with pytest.raises(UserError, match="no caption for a.png, b.jpg; write metadata.jsonl or a.txt"):
        find_pictures(folder)


STRANGE = "é\u2028line\u0085next \U0001f600"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_captions_are_utf_8_with_or_without_mark_and_may_hold_any_separator(folder: Path, encoding: str) -> None:
    write_metadata(folder, {"file_name": "a.png", "text": STRANGE}, encoding=encoding)
    (folder / "b.txt").write_text(STRANGE, encoding=encoding)
    assert found(folder) == {"a.png": STRANGE, "b.jpg": STRANGE}


def test_windows_line_ends_are_line_ends(folder: Path) -> None:
    rows = (json.dumps({"file_name": name, "text": name}) for name in ("a.png", "b.jpg"))
    (folder / "metadata.jsonl").write_bytes("\r\n".join(rows).encode())
    assert found(folder) == {"a.png": "a.png", "b.jpg": "b.jpg"}


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
@pytest.mark.parametrize("name", ["metadata.jsonl", "b.txt"])
def test_another_encoding_is_named_with_its_file(folder: Path, name: str, encoding: str) -> None:
    text = json.dumps({"file_name": "a.png", "text": "été"}, ensure_ascii=False)
    (folder / name).write_bytes(text.encode(encoding))
    with pytest.raises(UserError, match=rf"{name}: it is not UTF-8 \(byte 0x.. at position \d+\); save it as UTF-8"):
        find_pictures(folder, "x")


def test_metadata_that_is_a_folder_or_leads_nowhere_is_named(folder: Path) -> None:
    (folder / "metadata.jsonl").mkdir()
    with pytest.raises(UserError, match="metadata.jsonl: cannot be read: Is a directory"):
        find_pictures(folder, "x")
    (folder / "metadata.jsonl").rmdir()
    (folder / "metadata.jsonl").symlink_to("nowhere")
    with pytest.raises(UserError, match="metadata.jsonl: cannot be read: No such file"):
        find_pictures(folder, "x")


def test_missing_and_empty_folders_are_told_apart(tmp_path: Path) -> None:
    for name in ("none", "a" * 300, "a\0b"):
        with pytest.raises(UserError, match="there is no such folder"):
            find_pictures(tmp_path / name)
    with pytest.raises(UserError, match="no pictures in it"):
        find_pictures(tmp_path)
