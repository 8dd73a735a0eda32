"""What templates print: numbers and strings, so that the text does not depend on the version of Python."""

from __future__ import annotations

import re
from enum import Enum, IntEnum
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from systolora.hls.config import BOARDS, ArrayConfig
from systolora.hls.fields import FIELDS, Opcode, Result
from systolora.hls.generate import render_project
from systolora.hls.isa import ErrorCode
from systolora.hls.rendering import RenderError, template_environment

CONFIGS = {
    **BOARDS,
    "default": ArrayConfig(),
    "odd": ArrayConfig(rows=5, cols=7, input_bytes=8190, weight_bytes=8190, output_bytes=17920),
}
KINDS = {Opcode, ErrorCode} | {
    field.kind for layout in FIELDS.values() for field in layout if issubclass(field.kind, IntEnum)
}


@pytest.fixture
def enums_as_in_python_3_10(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until 3.10 an IntEnum is written with its class's name, from 3.11 on as a number."""
    for kind in KINDS:
        monkeypatch.setattr(kind, "__str__", Enum.__str__)
    assert str(Result.BFLOAT16) == "Result.BFLOAT16"


@pytest.mark.usefixtures("enums_as_in_python_3_10")
@pytest.mark.parametrize("name", CONFIGS)
def test_no_text_holds_a_class_name_of_python(name: str) -> None:
    names = "|".join(kind.__name__ for kind in KINDS)
    for path, text in render_project(CONFIGS[name]).items():
        found = re.search(rf"\b({names})\.\w|<[\w.]+ object|<class |<enum |\b(None|True|False)\b", text)
        assert found is None, f"{path}: {text[max(0, found.start() - 60) : found.end() + 20]!r}"


@pytest.mark.usefixtures("enums_as_in_python_3_10")
def test_the_text_is_that_of_later_pythons() -> None:
    golden = Path(__file__).parent.parent / "golden" / "kv260"
    for path, text in render_project(CONFIGS["kv260"]).items():
        assert text == (golden / path).read_text(encoding="utf-8"), path


@pytest.mark.parametrize("value", [Result.BFLOAT16, True, None, (1, 2), {"a": 1}, Result, b"bytes", ArrayConfig()])
def test_a_template_that_prints_anything_else_is_refused(value: object) -> None:
    template = template_environment("systolora.hls").from_string("{{ value }}")
    with pytest.raises(RenderError, match=f"a {type(value).__name__}: give it a number or a string"):
        template.render(value=value)


def test_numbers_strings_and_markup_are_printed() -> None:
    environment = template_environment("systolora.hls", autoescape=True)
    text = environment.from_string("{{ a }} {{ b }} {{ c }} {{ c | safe }}").render(a=1, b=2.5, c="<b>")
    assert text == "1 2.5 &lt;b&gt; <b>"


def test_a_name_that_is_missing_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        template_environment("systolora.hls").from_string("{{ nothing }}").render()
