"""A step as a CSV list of GEMMs and quantizations: the user's own, one that `simulate --csv` wrote, or a topology of SCALE-Sim.

The first line names the columns, in any order and case. Of a list: m, n, k, and if wanted name, count, flags, operation (gemm or
quantize), kind, class, macs; columns of `--csv` that are results are not read. SCALE-Sim's GEMM form is `Layer, M, N, K`, its
convolution form `Layer name, IFMAP Height, ...`; a convolution is the GEMM that SCALE-Sim takes it for, its patches laid out.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from systolora.errors import UserError
from systolora.files import read_utf8
from systolora.hls.check import Region, Surroundings, check_instruction
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import ERROR_TEXT, ErrorCode, Gemm, OperandA, Quantize, Result, ScaleMode
from systolora.models.configs import ModelSpec

from .flags import read_flags
from .layer_csv import GIVEN_COLUMNS, RESULT_COLUMNS
from .settings import usual_flags
from .simulation import MOST_MACS
from .step_gemms import StepGemm, StepQuantize, Work
from .workloads import Workload, distinct_work

_MOST_COUNT = 1_000_000
_MOST_SIZE = 1 << 30
"""More than an instruction takes: of a larger GEMM the compiler makes several, here it is one."""

_LARGEST_FILE = 64 << 20
_SCALESIM_CONVOLUTION = {
    "ifmap height": "height",
    "ifmap width": "width",
    "filter height": "kernel_height",
    "filter width": "kernel_width",
    "channels": "channels",
    "num filter": "filters",
    "num filters": "filters",
    "strides": "stride",
    "stride": "stride",
}
_ALIASES = {"layer": "name", "layer name": "name", "batch": "count", "sparsity ratio": "sparsity"}


class _Fault(ValueError):
    """What is wrong with a line, without its number."""


@dataclass(frozen=True)
class _Defaults:
    """What a list leaves to the options."""

    config: ArrayConfig
    result: Result


def read_gemms(file: str, config: ArrayConfig, result: Result) -> Workload:
    """The workload of a CSV list.

    Args:
        config: the array; patches have channels in whole bus words. result: what GEMMs write that do not say it themselves.

    Raises:
        UserError: naming the file and the line.
    """
    path = Path(file)
    if path.is_file() and path.stat().st_size > _LARGEST_FILE:
        raise UserError(f"--gemms {file}: larger than {_LARGEST_FILE >> 20} MiB; it is no list of GEMMs")
    try:
        text = read_utf8(path)
    except UserError as error:
        raise UserError(f"--gemms {error}") from None
    order = tuple(_read_lines(file, text, _Defaults(config, result)))
    gemms, quantizes = distinct_work(order)
    if not gemms:
        raise UserError(f"--gemms {file}: there is no GEMM in it")
    spec = ModelSpec(path.name, "", {}, 0, 0)
    return Workload(
        spec=spec, parameters=0, trainable=0, layers=len(gemms), gemms=gemms, quantizes=quantizes, order=order
    )


def _read_lines(file: str, text: str, defaults: _Defaults) -> Iterator[Work]:
    head = next((line for line in text.splitlines() if _is_content(line)), "")
    delimiter = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    columns: list[str] = []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells) or cells[0].startswith("#"):
                continue
            if not columns:
                columns = _header(cells)
                continue
            yield from _work(_row(columns, cells), f"line {reader.line_num}", defaults)
    except (_Fault, csv.Error) as error:
        raise UserError(f"--gemms {file}, line {reader.line_num}: {error}") from None


def _is_content(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _header(cells: list[str]) -> list[str]:
    """The columns by our names; those without one, at the end of SCALE-Sim's lines, are empty."""
    while cells and not cells[-1]:
        cells = cells[:-1]
    names = [" ".join(cell.lower().split()) for cell in cells]
    names = [_SCALESIM_CONVOLUTION.get(name, _ALIASES.get(name, name)) for name in names]
    convolution = set(_SCALESIM_CONVOLUTION.values())
    known = {*GIVEN_COLUMNS, *RESULT_COLUMNS, *convolution, "sparsity"}
    for name in names:
        if names.count(name) > 1:
            raise _Fault(f"two columns are called {name or 'nothing'!r}")
        if name not in known:
            near = get_close_matches(name, GIVEN_COLUMNS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise _Fault(f"column {name[:40]!r}: the first line names the columns: {', '.join(GIVEN_COLUMNS)}{hint}")
    needed = convolution if convolution & set(names) else {"m", "n", "k"}
    missing = sorted(needed - set(names))
    if missing:
        raise _Fault(f"the first line names the columns; there is no {', '.join(missing)}")
    return names


def _row(columns: list[str], cells: list[str]) -> dict[str, str]:
    while len(cells) > len(columns) and not cells[-1]:
        cells = cells[:-1]
    if len(cells) > len(columns):
        raise _Fault(f"{len(cells)} fields, but {len(columns)} columns")
    return dict(zip(columns, [*cells, *[""] * (len(columns) - len(cells))], strict=True))


def _work(row: Mapping[str, str], place: str, defaults: _Defaults) -> Iterator[Work]:
    if "filters" in row:
        row = _convolution(row)
    numerator, _, denominator = row.get("sparsity", "").partition(":")
    if numerator != denominator:
        raise _Fault(f"sparsity {row['sparsity']!r}: only dense layers (1:1) are modelled")
    name = row.get("name") or place
    title = row.get("class") or "listed"
    count = _number(row, "count", _MOST_COUNT, 1)
    m, n = (_number(row, size, _MOST_SIZE) for size in "mn")
    operation = row.get("operation", "").lower() or "gemm"
    if operation == "quantize":
        yield StepQuantize(name, title, row.get("kind") or "x", _quantize(row, m, n, defaults), count)
        return
    if operation != "gemm":
        raise _Fault(f"operation {operation!r}: allowed are gemm, quantize")
    op = _gemm(row, m, n, _number(row, "k", _MOST_SIZE), defaults)
    macs = _number(row, "macs", op.m * op.n * op.k, op.m * op.n * op.k)
    yield StepGemm(name, title, row.get("kind") or "gemm", op, macs, count)


def _convolution(row: Mapping[str, str]) -> dict[str, str]:
    """A layer of SCALE-Sim's convolution form as the GEMM that SCALE-Sim computes; its images are padded already."""
    size = {name: _number(row, name, _MOST_SIZE) for name in set(_SCALESIM_CONVOLUTION.values())}
    stride = size["stride"]
    outs = []
    for side in ("height", "width"):
        if size[f"kernel_{side}"] > size[side]:
            raise _Fault(f"a filter of {side} {size[f'kernel_{side}']} on an image of {size[side]}")
        outs.append(-(-(size[side] - size[f"kernel_{side}"] + stride) // stride))
    taps = size["kernel_height"] * size["kernel_width"]
    channels = size["channels"]
    depthwise = "DP" in row.get("name", "")  # how SCALE-Sim marks a depthwise layer: one GEMM a channel
    shape = {"m": outs[0] * outs[1], "n": size["filters"], "k": taps * (1 if depthwise else channels)}
    times = {"count": str(channels)} if depthwise else {}
    return {**row, **{name: str(value) for name, value in shape.items()}, **times}


def _number(row: Mapping[str, str], name: str, most: int, missing: int = 0) -> int:
    text = row.get(name, "")
    if not text and missing:
        return missing
    if not text.isdecimal() or not text.isascii():
        raise _Fault(f"{name} = {text[:40]!r}: expected a whole number from 1 to {most:,}")
    if len(text) > 20 or not 1 <= int(text) <= most:
        raise _Fault(f"{name} = {text[:40]}: allowed are 1 to {most:,}")
    return int(text)


def _flags(kind: type[Gemm] | type[Quantize], row: Mapping[str, str], defaults: _Defaults) -> dict[str, Any]:
    usual = {name: value for name, value in usual_flags(defaults.result).items() if name in kind.__dataclass_fields__}
    try:
        given = read_flags(kind, row.get("flags", ""))
    except ValueError as error:
        raise _Fault(str(error)) from None
    if given.get("result") == Result.INT32:
        usual |= {"scale_a": ScaleMode.NONE, "scale_b": ScaleMode.NONE}
    return usual | given


def _quantize(row: Mapping[str, str], m: int, n: int, defaults: _Defaults) -> Quantize:
    return Quantize(m, n, 0, 0, 0, 0, 0, **_flags(Quantize, row, defaults))


def _gemm(row: Mapping[str, str], m: int, n: int, k: int, defaults: _Defaults) -> Gemm:
    if m * n * k > MOST_MACS:
        raise _Fault(f"{m * n * k:.3g} multiply-accumulates in one GEMM: at most {MOST_MACS:.3g}")
    op = Gemm(m, n, k, m, n, k, 0, 0, 0, 0, 0, 0, **_flags(Gemm, row, defaults))
    # Where operands lie has no cost and is not in a list: only what the fields say is checked.
    around = Surroundings(Region(0, 1 << 62), Region(0, 128), Region(128, 128))
    if check_instruction(defaults.config, around, op, None) == ErrorCode.BAD_FIELD:
        raise _Fault(f"the controller refuses these flags: {ERROR_TEXT[ErrorCode.BAD_FIELD]}")
    if op.a_form == OperandA.PATCHES:
        _check_patches(op, defaults.config.bus_bytes)
    return op


def _check_patches(op: Gemm, bus: int) -> None:
    geometry = (
        "image_height",
        "image_width",
        "out_height",
        "out_width",
        "kernel_height",
        "kernel_width",
        "step",
    )
    missing = [name for name in (*geometry, "channels") if not getattr(op, name)]
    if missing:
        raise _Fault(f"patches need the flags {', '.join(missing)}")
    if op.channels % bus:
        raise _Fault(f"flag channels={op.channels}: patches need whole words of the port, a multiple of {bus}")
    if op.k != op.kernel_height * op.kernel_width * op.channels or op.m % (op.out_height * op.out_width):
        raise _Fault(
            "of patches k is kernel_height x kernel_width x channels, and m whole images of out_height x out_width"
        )
