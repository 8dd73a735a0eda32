"""Tables in terminals of any width: nothing is cut, no line is too long, every block says what its rows are."""

from __future__ import annotations

import pytest
from systolora.cli.options import make_console
from systolora.cli.tables import Sheet, print_sheet

SHEET = Sheet(
    "a table",
    ("name<", "m,n,k", *(f"column {index}" for index in range(9)), "why<"),
    [
        [
            f"layer_{row}.with_a_long_name",
            f"{row},4096,320",
            *(f"{1_000_000 * row + index:,}" for index in range(9)),
            "x",
        ]
        for row in range(3)
    ],
    keys=2,
)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 300])
def test_nothing_is_cut_and_no_line_is_too_long(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    print_sheet(make_console(), SHEET)
    text = capsys.readouterr().out
    assert "\u2026" not in text and max(len(line) for line in text.splitlines()) <= width
    squeezed = "".join(text.split())
    for cell in (*(cell for row in SHEET.rows for cell in row), *(name.rstrip("<") for name in SHEET.columns)):
        assert cell.replace(" ", "") in squeezed or width < 60, cell
    for row in SHEET.rows:
        blocks = text.count(row[1])
        assert blocks == text.split().count("m,n,k") or width < 60
    assert (text.count("m,n,k") == 1) == (width == 300)


def test_a_name_that_is_wider_than_the_terminal_is_folded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    name = "".join(f"{index:03d}" for index in range(40))
    print_sheet(make_console(), Sheet("", ("name<", "cycles", "used"), [[name, "123,456,789", "99.9%"]]))
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines()) <= 40
    lines = text.splitlines()
    assert "".join(line.split()[0] for line in lines if line.strip() and line[0].isdigit()).startswith(name)
    assert "123,456,789" in text and "99.9%" in text


def test_a_table_without_rows_is_its_head(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_sheet(make_console(), Sheet("nothing", ("a<", "b"), []))
    assert capsys.readouterr().out.split() == ["nothing", "a", "b"]
