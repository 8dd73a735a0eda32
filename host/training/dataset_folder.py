"""Data sets of Hugging Face's `datasets` on disk: what `save_to_disk` wrote, or parquet files. The package is optional."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from systolora.errors import UserError

from .captions import CaptionedPicture
from .settings import TrainSettings

_SAVED = ("dataset_dict.json", "dataset_info.json", "state.json")
_SPLIT = re.compile(r"(train|test|validation|valid|val|dev)\b|(\w+)-\d+-of-\d+")


def is_dataset(folder: Path) -> bool:
    """Whether a folder holds such a data set."""
    saved = [name for name in _SAVED if (folder / name).is_file()]
    return "dataset_dict.json" in saved or len(saved) == 2 or bool(_parquet_files(folder))


def find_rows(folder: Path, settings: TrainSettings) -> list[CaptionedPicture]:
    """The rows of a data set, in its order, with its captions; a row without one takes the prompt.

    Pictures stay on disk until they are read.

    Raises:
        UserError: if the package is missing, or there is no such split or column, or a row has no caption.
    """
    rows = _load(folder, settings)
    image, text = settings.image_column, settings.caption_column
    if image not in rows.column_names:
        raise UserError(_no_column(folder, "--image-column", image, rows))
    if text not in rows.column_names and not settings.prompt:
        raise UserError(_no_column(folder, "--caption-column", text, rows) + ", or --prompt for all")
    import datasets

    try:
        undecoded = rows.cast_column(image, datasets.Image(decode=False))
    except Exception:  # pyarrow's, for a column of numbers and the like
        raise UserError(_no_column(folder, "--image-column", image, rows) + "; that one holds no pictures") from None
    captions = [str(value or "").strip() for value in rows[text]] if text in rows.column_names else [""] * len(rows)
    found = []
    for number, caption in enumerate(captions):
        if not (caption or settings.prompt):
            raise UserError(f"--data {folder}: row {number} has no caption in {text!r}; give --prompt for such rows")
        content = _Content(undecoded, image, number)
        source = "metadata" if caption else "prompt"
        name = folder / settings.split / f"row {number:06}"
        found.append(CaptionedPicture(name, caption or settings.prompt, source, content))  # type: ignore[arg-type]
    if not found:
        raise UserError(f"--data {folder}: the data set has no rows")
    return found


class _Content:
    """Gives the bytes of a row's picture."""

    def __init__(self, rows: Any, column: str, number: int) -> None:
        self.rows, self.column, self.number = rows, column, number

    def __call__(self) -> bytes:
        cell = self.rows[self.number][self.column]
        if cell is None or not (cell["bytes"] or cell["path"]):
            raise ValueError("the row holds no picture")
        return bytes(cell["bytes"]) if cell["bytes"] else Path(cell["path"]).read_bytes()


def _load(folder: Path, settings: TrainSettings) -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"--data {folder}: it holds a Hugging Face data set, which the Python package 'datasets' reads: pip install datasets; "
            "or give a folder of pictures with captions"
        ) from None
    datasets.disable_progress_bars()
    try:
        if parquet := _parquet_files(folder):
            files = [str(path) for path in _of_split(folder, parquet, settings.split)]
            place = settings.cache_dir or None
            return datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=place)
        rows = datasets.load_from_disk(str(folder))
    except UserError:
        raise
    except Exception as error:  # pyarrow's and datasets' own kinds, for damaged files
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(f"--data {folder}: the data set cannot be read ({reason}); copy it again") from None
    if isinstance(rows, datasets.DatasetDict):
        if settings.split not in rows:
            raise UserError(f"--split {settings.split}: the data set in {folder} has {', '.join(rows)}")
        return rows[settings.split]
    return rows


def _parquet_files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.parquet"), *folder.glob("data/*.parquet")])


def _of_split(folder: Path, files: list[Path], split: str) -> list[Path]:
    """The files of a split, by the beginning of their names; all where no name tells of any."""
    told = {path: match[1] or match[2] for path in files if (match := _SPLIT.match(path.stem))}
    chosen = [path for path in files if told.get(path) == split]
    if told and not chosen:
        raise UserError(f"--split {split}: the data set in {folder} has {', '.join(sorted(set(told.values())))}")
    return chosen or files


def _no_column(folder: Path, option: str, name: str, rows: Any) -> str:
    return f"{option} {name}: the data set in {folder} has the columns {', '.join(rows.column_names)}; give one of them"
