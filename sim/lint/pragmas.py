"""The grammar of ``#pragma HLS``: names, options and values that Vitis HLS takes, and a parser for one line.

The table follows AMD's open front end (Xilinx/hls-llvm-project, clang/include/clang/Basic/XlxPragmaOption.td).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType


class Kind(Enum):
    """What may stand behind the ``=`` of an option."""

    FLAG = "no value"
    INTEGER = "an integer constant"
    NUMBER = "a number"
    NAME = "a name"
    VARIABLE = "a variable"


@dataclass(frozen=True)
class Option:
    """One option: the kind of its value, whether it must be given, and its words if only some are allowed."""

    kind: Kind
    required: bool = False
    choices: tuple[str, ...] = ()


class Place(Enum):
    """Where a pragma may stand."""

    LOOP = "directly in the body of a loop"
    FUNCTION = "directly in the body of a function"
    LOOP_OR_FUNCTION = "directly in the body of a loop or a function"
    REGION = "in any braces inside a function"


@dataclass(frozen=True)
class Form:
    """The grammar of one pragma; ``words`` maps a bare word to the option it is the value of."""

    place: Place
    options: Mapping[str, Option]
    words: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pragma:
    """One parsed ``#pragma HLS``: names in lower case, values as written; ``offset`` is its byte offset."""

    name: str
    options: Mapping[str, str]
    file: str
    line: int
    offset: int


_FLAG = Option(Kind.FLAG)
_INT = Option(Kind.INTEGER)
_NAME = Option(Kind.NAME)
_NEED_VARIABLE = Option(Kind.VARIABLE, required=True)


def _one_of(*choices: str) -> Option:
    return Option(Kind.NAME, choices=choices)


def _form(place: Place, *, word_options: tuple[str, ...] = (), **options: Option) -> Form:
    """A form in which the choices of ``word_options`` may also be written bare (``complete`` for type=...)."""
    words = {choice: name for name in word_options for choice in options[name].choices}
    return Form(place, MappingProxyType(options), MappingProxyType(words))


_SPLIT = {
    "variable": _NEED_VARIABLE,
    "type": _one_of("block", "cyclic", "complete"),
    "factor": _INT,
    "dim": _INT,
}
_PORT = {"port": _NEED_VARIABLE, "name": _NAME}
_WIRE = {"register": _FLAG, "depth": _INT, "latency": _INT}

FORMS: Mapping[str, Form] = MappingProxyType(
    {
        "aggregate": _form(
            Place.REGION,
            word_options=("compact",),
            variable=_NEED_VARIABLE,
            compact=_one_of("bit", "byte", "none", "auto"),
        ),
        "alias": _form(Place.FUNCTION, ports=_NEED_VARIABLE, offset=_NAME, distance=_NAME),
        "allocation": _form(
            Place.REGION,
            word_options=("type",),
            type=_one_of("function", "operation"),
            instances=Option(Kind.NAME, required=True),
            limit=Option(Kind.INTEGER, required=True),
        ),
        "array_partition": _form(Place.REGION, word_options=("type",), **_SPLIT),
        "array_reshape": _form(Place.REGION, word_options=("type",), object=_FLAG, **_SPLIT),
        "bind_op": _form(
            Place.REGION,
            variable=_NEED_VARIABLE,
            op=Option(Kind.NAME, required=True),
            impl=_NAME,
            latency=_INT,
        ),
        "bind_storage": _form(
            Place.REGION,
            variable=_NEED_VARIABLE,
            type=Option(Kind.NAME, required=True),
            impl=_NAME,
            latency=_INT,
        ),
        "cache": _form(Place.FUNCTION, port=_NEED_VARIABLE, lines=_INT, depth=_INT),
        "dataflow": _form(Place.LOOP_OR_FUNCTION, disable_start_propagation=_FLAG),
        "dependence": _form(
            Place.LOOP_OR_FUNCTION,
            word_options=("class", "type", "direction", "dependent"),
            **{
                "variable": Option(Kind.VARIABLE),
                "class": _one_of("array", "pointer"),
                "type": _one_of("intra", "inter"),
                "direction": _one_of("raw", "war", "waw"),
                "dependent": _one_of("true", "false"),
                "distance": _INT,
            },
        ),
        "disaggregate": _form(Place.REGION, variable=_NEED_VARIABLE),
        "expression_balance": _form(Place.REGION, off=_FLAG),
        "function_instantiate": _form(Place.FUNCTION, variable=_NEED_VARIABLE),
        "inline": _form(Place.FUNCTION, recursive=_FLAG, off=_FLAG),
        "interface": _form(Place.FUNCTION, word_options=(), mode=_NAME, **_PORT),
        "latency": _form(Place.REGION, min=_INT, max=_INT),
        "loop_flatten": _form(Place.LOOP, off=_FLAG),
        "loop_merge": _form(Place.REGION, force=_FLAG),
        "loop_tripcount": _form(Place.LOOP, min=_INT, max=Option(Kind.INTEGER, required=True), avg=_INT),
        "occurrence": _form(Place.REGION, cycle=_INT),
        "performance": _form(
            Place.REGION, target_ti=Option(Kind.NUMBER), target_tl=Option(Kind.NUMBER), unit=_one_of("cycle", "sec")
        ),
        "pipeline": _form(Place.LOOP_OR_FUNCTION, ii=_INT, rewind=_FLAG, off=_FLAG, style=_one_of("stp", "flp", "frp")),
        "protocol": _form(Place.REGION, word_options=("mode",), mode=_one_of("fixed", "floating")),
        "reset": _form(Place.REGION, variable=_NEED_VARIABLE, off=_FLAG),
        "stable": _form(Place.FUNCTION, variable=_NEED_VARIABLE),
        "stream": _form(
            Place.REGION,
            variable=_NEED_VARIABLE,
            depth=_INT,
            type=_one_of("fifo", "pipo", "shared", "unsync"),
        ),
        "top": _form(Place.FUNCTION, name=_NAME),
        "unroll": _form(Place.LOOP, factor=_INT, skip_exit_check=_FLAG, off=_FLAG),
    }
)

_WIRE_MODES = ("ap_none", "ap_fifo", "ap_ack", "ap_vld", "ap_stable")
_HANDSHAKE_MODES = ("ap_hs", "ap_ovld")
INTERFACE_MODES: Mapping[str, Mapping[str, Option]] = MappingProxyType(
    {
        "m_axi": {
            "bundle": _NAME,
            "offset": _one_of("slave", "direct", "off"),
            **dict.fromkeys(
                (
                    "depth",
                    "num_read_outstanding",
                    "num_write_outstanding",
                    "max_read_burst_length",
                    "max_write_burst_length",
                    "latency",
                    "max_widen_bitwidth",
                    "channel",
                ),
                _INT,
            ),
        },
        "axis": {
            "register": _FLAG,
            "register_mode": _one_of("forward", "reverse", "both", "off"),
            "depth": _INT,
        },
        "s_axilite": {"bundle": _NAME, "offset": _INT, "clock": _NAME, "storage_impl": _NAME},
        **dict.fromkeys(("bram", "ap_memory"), {"depth": _INT, "latency": _INT, "storage_type": _NAME}),
        **dict.fromkeys(_WIRE_MODES, _WIRE),
        **dict.fromkeys(_HANDSHAKE_MODES, {**_WIRE, "interrupt": _INT}),
        **dict.fromkeys(("ap_ctrl_none", "ap_ctrl_hs", "ap_ctrl_chain"), dict[str, Option]()),
    }
)

REPLACED: Mapping[str, str] = MappingProxyType(
    {
        "resource": "bind_storage or bind_op",
        "data_pack": "aggregate",
        "shared": "stream type=shared",
        "array_map": "nothing; declare one array",
        "clock": "the clock of the project",
        "extract": "nothing",
        "region": "nothing",
        "pipeline enable_flush": "pipeline style=flp",
        "stream off": "stream type=pipo",
        "stream dim": "nothing",
        "interface ap_bus": "m_axi",
    }
)

_TOKEN = re.compile(r"\s*(?:(?P<word>[A-Za-z_]\w*)|(?P<number>\.?\d[\w.]*)|(?P<sign><<|>>|::|->|\S))")
_JOINERS = frozenset(["+", "-", "*", "/", "%", "<<", ">>", "::", ".", "->", ","])


def pragma_text(source: str, line: int) -> str:
    """The pragma that starts on ``line`` (from 1), continuation lines joined, comments removed."""
    lines = source.split("\n")
    text = lines[line - 1]
    while text.rstrip().endswith("\\") and line < len(lines):
        text = text.rstrip()[:-1] + " " + lines[line]
        line += 1
    return re.sub(r"/\*.*?\*/", " ", text).split("//")[0].strip()


def split_options(text: str) -> Iterator[tuple[str, str | None]]:
    """Yield (name, value) for each option of ``text``; the value of a bare word is None.

    A value goes on as long as an operator, a bracket or a comma joins it to what follows.
    """
    tokens = [match.group().strip() for match in _TOKEN.finditer(text)]
    position = 0
    while position < len(tokens):
        name = tokens[position]
        position += 1
        if position >= len(tokens) or tokens[position] != "=":
            yield name, None
            continue
        end = _value_end(tokens, position + 1)
        yield name, "".join(tokens[position + 1 : end])
        position = end


def _value_end(tokens: list[str], position: int) -> int:
    """The index behind the value that starts at ``position``."""
    depth = 0
    operand_seen = False
    while position < len(tokens):
        token = tokens[position]
        if token in ("(", "["):
            depth += 1
        elif token in (")", "]"):
            depth -= 1
        elif token in _JOINERS:
            operand_seen = False
        elif depth == 0:
            if operand_seen:
                break
            operand_seen = True
        position += 1
    return position
