"""The captions that a data folder's own list gives: `metadata.jsonl` or `metadata.csv`, as Hugging Face's image folders have them."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from systolora.errors import UserError
from systolora.files import read_utf8

METADATA = "metadata.jsonl"
_TABLE = "metadata.csv"
_EXPECTED = {
    METADATA: '{"file_name": "a.png", "text": "caption"}',
    _TABLE: "a first line with the columns file_name and text, and below it a line a picture",
}


@dataclass(frozen=True)
class MetadataFile:
    """What such a file says; `captions` by picture, empty where there is no such file."""

    path: Path
    captions: Mapping[Path, str] = field(default_factory=dict)


def read_metadata(folder: Path) -> MetadataFile:
    """The captions of a folder's list, whose names are relative to the folder; UTF-8.

    Raises:
        UserError: naming the line that is wrong, that names no file or one for a second time; for two lists.
    """
    found = [folder / name for name in (METADATA, _TABLE) if os.path.lexists(folder / name)]
    if len(found) > 1:
        raise UserError(f"--data {folder}: it holds {METADATA} and {_TABLE}; leave one of them in the folder")
    if not found:
        return MetadataFile(folder / METADATA)
    captions: dict[Path, str] = {}
    rows = _lines(found[0]) if found[0].name == METADATA else _table(found[0])
    for number, name, text in rows:
        where = f"{found[0]} line {number}"
        path = folder / os.path.normpath(name)
        if not os.path.isfile(path):  # False, not an error, for a name that is too long
            raise UserError(f"{where}: it names {_short(name)}, which is not in the folder")
        if path in captions:
            raise UserError(f"{where}: it names {_short(name)} a second time; keep one line of it")
        captions[path] = text
    return MetadataFile(found[0], captions)


def _lines(file: Path) -> Iterator[tuple[int, str, str]]:
    """(line, file name, caption). Only a line feed ends a line: U+2028 and U+0085 may stand inside a JSON text."""
    for number, line in enumerate(read_utf8(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, text = row["file_name"], row["text"].strip()
            os.path.normpath(name)  # what is no text raises
            text.encode()  # JSON can spell half a surrogate pair, which is no text
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise _wrong(file, number, line) from None
        yield number, name, text


def _table(file: Path) -> Iterator[tuple[int, str, str]]:
    """(line, file name, caption) of a table with a heading; a text in quotes may hold commas and line ends."""
    rows = csv.DictReader(io.StringIO(read_utf8(file), newline=""), strict=True)
    try:
        if not {"file_name", "text"} <= set(rows.fieldnames or ()):
            raise _wrong(file, 1, ",".join(rows.fieldnames or ()))
        for row in rows:
            if not row["file_name"] or row["text"] is None or None in row:
                raise _wrong(file, rows.line_num, ",".join(str(value) for value in row.values()))
            yield rows.line_num, row["file_name"], row["text"].strip()
    except csv.Error as error:
        raise UserError(f"{file} line {rows.line_num}: it is no CSV ({error}); expected {_EXPECTED[_TABLE]}") from None


def _wrong(file: Path, number: int, found: str) -> UserError:
    return UserError(f"{file} line {number}: expected {_EXPECTED[file.name]}, found {found[:60]!r}")


def _short(name: str) -> str:
    return repr(name[:80])[1:-1] + (f"... ({len(name)} letters)" if len(name) > 80 else "")
