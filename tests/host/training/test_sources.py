"""Folders of pictures: subfolders, tables of captions, every format, repeats, pictures that are broken; data sets on disk."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from systolora.errors import UserError
from systolora.training.captions import find_pictures, folder_notes
from systolora.training.formats import FORMATS, picture_suffixes, readable_formats
from systolora.training.pictures import load_picture
from systolora.training.repeats import picture_repeats
from systolora.training.settings import TrainSettings
from systolora.training.sources import find_data

from .examined import check_pictures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """a.png, 3_cats/b.png, 3_cats/deep/c.png, dogs/d.png."""
    place = tmp_path / "pictures"
    for number, name in enumerate(("a.png", "3_cats/b.png", "3_cats/deep/c.png", "dogs/d.png")):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (number, 0, 0)).save(place / name)
    return place


def settings_of(folder: Path, **changes: object) -> TrainSettings:
    return replace(TrainSettings(model="m", data=str(folder), output="o", prompt="all"), **changes)  # type: ignore[arg-type]


def names(folder: Path, settings: TrainSettings) -> list[str]:
    return [picture.path.relative_to(folder).as_posix() for picture in find_data(folder, settings)[0]]


def test_pictures_of_subfolders_are_taken_when_asked(folder: Path) -> None:
    (folder / ".hidden").mkdir()
    Image.new("RGB", (8, 8)).save(folder / ".hidden" / "x.png")
    assert names(folder, settings_of(folder)) == ["a.png"]
    assert names(folder, settings_of(folder, subfolders=True)) == [
        *("3_cats/b.png", "3_cats/deep/c.png", "a.png", "dogs/d.png")
    ]
    assert find_data(folder, settings_of(folder, subfolders=True))[1] == []


def test_a_link_to_a_folder_above_does_not_go_round(folder: Path) -> None:
    (folder / "dogs" / "up").symlink_to(folder, target_is_directory=True)
    assert len(names(folder, settings_of(folder, subfolders=True))) == 4


def test_a_folder_with_pictures_only_inside_others_says_how_to_take_them(folder: Path) -> None:
    (folder / "a.png").unlink()
    with pytest.raises(UserError, match="only in folders inside it; give --subfolders"):
        find_data(folder, settings_of(folder))


def test_captions_lie_in_caption_files_too(folder: Path) -> None:
    (folder / "a.caption").write_text("mine\n", encoding="utf-8")
    pictures = find_pictures(folder)
    assert [(picture.caption, picture.source) for picture in pictures] == [("mine", "text")]
    (folder / "a.txt").write_text("first", encoding="utf-8")
    assert find_pictures(folder)[0].caption == "first"
    assert folder_notes(folder, find_pictures(folder)) == [
        f"{folder}: not taken as pictures or captions: 3_cats, a.caption, dogs"
    ]


def test_a_table_of_captions_names_pictures_of_subfolders(folder: Path) -> None:
    rows = 'text,file_name,more\n"one, ""two""\nthree",./a.png,1\nfour,3_cats/../dogs/d.png,2\n'
    (folder / "metadata.csv").write_bytes(rows.encode("utf-8-sig"))
    found = {picture.path.name: picture.caption for picture in find_pictures(folder)}
    assert found == {"a.png": 'one, "two"\nthree', "d.png": "four"}


@pytest.mark.parametrize(
    "text,message",
    [
        ("name,text\na.png,x\n", "line 1: expected a first line with the columns file_name and text"),
        ("", "line 1: expected a first line"),
        ("file_name,text\na.png\n", "line 2: expected a first line .*, found 'a.png,None'"),
        ("file_name,text\na.png,x,y\n", "line 2: expected"),
        ("file_name,text\nz.png,x\n", "line 2: it names z.png, which is not in the folder"),
        ("file_name,text\na.png,x\n./a.png,y\n", "line 3: it names ./a.png a second time"),
        ('file_name,text\na.png,"x\n', "it is no CSV"),
    ],
)
def test_a_table_that_is_wrong_is_named_with_its_line(folder: Path, text: str, message: str) -> None:
    (folder / "metadata.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        find_pictures(folder, "x")
    assert "metadata.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_two_lists_of_captions_are_refused(folder: Path) -> None:
    for name in ("metadata.csv", "metadata.jsonl"):
        (folder / name).write_text("")
    with pytest.raises(UserError, match="metadata.jsonl and metadata.csv; leave one of them"):
        find_pictures(folder, "x")


SAVED = {
    "PNG": "png",
    "JPEG": "jfif",
    "WEBP": "webp",
    "AVIF": "avif",
    "GIF": "gif",
    "TIFF": "tif",
    "BMP": "bmp",
    "DIB": "dib",
    "JPEG2000": "jp2",
    "PPM": "pgm",
    "QOI": "qoi",
    "PCX": "pcx",
    "SGI": "sgi",
    "ICO": "ico",
    "DDS": "dds",
    "TGA": "tga",
}


@pytest.mark.parametrize("kind", SAVED)
def test_every_format_that_pillow_reads_is_taken(tmp_path: Path, kind: str) -> None:
    if kind not in readable_formats():
        pytest.skip(f"this Pillow was built without {kind}")
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    picture = Image.fromarray(noise).resize((32, 32), Image.Resampling.BICUBIC)
    path = tmp_path / f"a.{SAVED[kind]}"
    try:
        picture.save(path, kind)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow does not write {kind}")
    assert [found.path for found in find_pictures(tmp_path, "x")] == [path]
    assert check_pictures([path]) == []
    difference = load_picture(path, 32) * 127.5 + 127.5 - np.asarray(picture, np.float32).transpose(2, 0, 1)
    assert np.abs(difference).mean() < 12


def test_no_format_that_starts_programs_or_opens_files_is_read() -> None:
    assert not {"EPS", "WMF", "FPX", "MIC", "HDF5", "GRIB", "BUFR", "MPEG"} & set(FORMATS)
    assert not {".eps", ".ps", ".wmf", ".pdf"} & picture_suffixes()


def test_repeats_come_from_folder_names_or_are_given(folder: Path) -> None:
    pictures, _ = find_data(folder, settings_of(folder, repeats="names"))
    assert picture_repeats(folder, pictures, "names") == [3, 3, 1, 1]
    assert picture_repeats(folder, pictures, "dogs=2, 3_cats=5") == [5, 5, 1, 2]
    assert picture_repeats(folder, pictures, "") == [1, 1, 1, 1]


@pytest.mark.parametrize(
    "repeats,message",
    [
        ("dogs", "--repeats dogs: give names, or FOLDER=TIMES"),
        ("dogs=0", "0 times for dogs: give 1 to 10,000"),
        ("dogs=x", "x times for dogs"),
        ("dogs=99999999999999999999999", "99999999999999999999 times for dogs"),
        ("dogs=1,dogs=2", "dogs is given a second time"),
        ("birds=2", "--repeats birds=2: no pictures are taken from a folder of that name"),
    ],
)
def test_repeats_that_are_wrong_are_refused(folder: Path, repeats: str, message: str) -> None:
    pictures, _ = find_data(folder, settings_of(folder, subfolders=True))
    with pytest.raises(UserError, match=message):
        picture_repeats(folder, pictures, repeats)


def test_a_data_set_without_its_package_gets_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    for name in ("state.json", "dataset_info.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match="the Python package 'datasets' reads: pip install datasets"):
        find_data(tmp_path, settings_of(tmp_path))


@pytest.mark.parametrize("form", ["saved", "splits", "parquet", "data/train-00000-of-00001.parquet"])
def test_a_data_set_on_disk_gives_its_pictures_and_captions(folder: Path, tmp_path: Path, form: str) -> None:
    datasets = pytest.importorskip("datasets")
    paths = [folder / "a.png", folder / "dogs/d.png"]
    columns = {"image": [str(path) for path in paths], "text": ["one", ""]}
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    rows = datasets.Dataset.from_dict(columns, features=features)
    place = tmp_path / "set"
    if form == "saved":
        rows.save_to_disk(str(place))
    elif form == "splits":
        datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(str(place))
    else:
        file = place / (form if "/" in form else "rows.parquet")
        file.parent.mkdir(parents=True)
        rows.to_parquet(str(file))
    settings = settings_of(place, cache_dir=str(tmp_path / "cache"))
    pictures, notes = find_data(place, settings)
    assert notes == [] and [(found.caption, found.source) for found in pictures] == [
        ("one", "metadata"),
        ("all", "prompt"),
    ]
    for found, path in zip(pictures, paths, strict=True):
        with found.open() as file:
            assert file.read() == path.read_bytes()
        np.testing.assert_array_equal(load_picture(found, 16), load_picture(path, 16))
    with pytest.raises(UserError, match="--image-column picture: the data set in .* has the columns image, text"):
        find_data(place, replace(settings, image_column="picture"))
    with pytest.raises(UserError, match="--caption-column words: .* or --prompt for all"):
        find_data(place, replace(settings, caption_column="words", prompt=""))
    with pytest.raises(UserError, match="row 1 has no caption in 'text'"):
        find_data(place, replace(settings, prompt=""))
    if form not in ("saved", "parquet"):
        with pytest.raises(UserError, match="--split other: the data set in .* has "):
            find_data(place, replace(settings, split="other"))
