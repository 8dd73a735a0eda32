"""Reads a csynth report of Vitis HLS and compares it with what was predicted for the configuration.

The structure of both report forms (`csynth.xml` and the table of `csynth.rpt`) is as UG1399 documents it and public
projects parse it; no report of this design exists, for no vendor tool was at hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from xml.etree import ElementTree

from .boards import BOARD_TABLE, pl_clock
from .config import ArrayConfig
from .regmap import TOP
from .resources import KINDS, Resources, estimate

TOLERANCE = {"lut": 0.35, "ff": 0.35, "dsp": 0.15, "bram36": 0.25, "uram": 0.10}
"""By how much of the prediction a report may be above or below it. Logic around the array is judgement, hence a third."""

_REPORT_KINDS = {"lut": "LUT", "ff": "FF", "dsp": "DSP", "bram36": "BRAM_18K", "uram": "URAM"}


class ReportError(ValueError):
    """A file that is no csynth report, or lacks what the comparison needs."""


@dataclass(frozen=True)
class LoopReport:
    """One loop: its label, achieved initiation interval, and whether it is pipelined. `interval` is None if there is none."""

    name: str
    interval: int | None
    pipelined: bool


@dataclass(frozen=True)
class SynthesisReport:
    """What a csynth report says. Clocks in ns (None if the form does not give it), latency in cycles ("?" is None)."""

    top: str
    part: str
    target_clock: float | None
    estimated_clock: float | None
    worst_latency: int | None
    resources: Resources
    loops: tuple[LoopReport, ...]


def render_expected(config: ArrayConfig, intervals: Mapping[str, Sequence[int]]) -> str:
    """`report_expected.json`: part, clock period in ns, II of pipelined loops, resources and tolerances.

    Args:
        intervals: label of a loop -> those asked for, 0 for none (`intervals.pipelined_intervals`).
    """
    board = BOARD_TABLE.get(config.board)
    result = estimate(config, board.budget if board else None)
    document = {
        "origin": "estimated; no vendor tool was run here",
        "top": TOP,
        "part": config.part,
        "fingerprint": config.fingerprint_text,
        "clock_ns": round(1000 / pl_clock(config).mhz, 3),
        "intervals": {label: list(values) for label, values in intervals.items()},
        "resources": asdict(result.total),
        "parts": {name: asdict(part) for name, part in result.parts.items()},
        "tolerance": TOLERANCE,
    }
    return json.dumps(document, indent=1) + "\n"


def parse_report(text: str) -> SynthesisReport:
    """A report from the text of `csynth.xml` or `csynth.rpt`.

    Raises:
        ReportError: if it is neither, or has no resources of a top function.
    """
    if text.lstrip().startswith("<"):
        return _parse_xml(text)
    return _parse_table(text)


def compare_report(expected: str, report: SynthesisReport) -> list[str]:
    """One line per disagreement with the text of `report_expected.json`; empty if the report confirms the prediction."""
    wanted = json.loads(expected)
    lines = []
    if report.top != wanted["top"]:
        lines.append(f"top function: predicted {wanted['top']}, the report is of {report.top}")
    if wanted["part"] and report.part and report.part != wanted["part"]:
        lines.append(f"part: predicted {wanted['part']}, the report is for {report.part}")
    if report.estimated_clock is not None and report.estimated_clock > wanted["clock_ns"]:
        lines.append(f"clock: {wanted['clock_ns']} ns asked for, the report estimates {report.estimated_clock} ns")
    for loop in report.loops:
        lines.extend(_compare_interval(loop, wanted["intervals"]))
    for kind in KINDS:
        predicted, real = wanted["resources"][kind], getattr(report.resources, kind)
        slack = wanted["tolerance"][kind] * predicted
        if not predicted - slack <= real <= predicted + slack:
            lines.append(
                f"{kind.upper()}: predicted {predicted:,}, the report has {real:,} (more than {wanted['tolerance'][kind]:.0%} off)"
            )
    return lines


def _compare_interval(loop: LoopReport, intervals: Mapping[str, Sequence[int]]) -> list[str]:
    """The tool joins the labels of nested loops that it flattens ("rows_segments"); the innermost one has the pragma."""
    asked = [label for label in intervals if loop.name == label or loop.name.endswith("_" + label)]
    if not asked:
        good = not loop.pipelined or loop.interval == 1
        return [] if good else [f"loop {loop.name}: not predicted, and its II is {loop.interval}"]
    allowed = intervals[max(asked, key=len)]
    if (loop.interval if loop.pipelined else 0) in allowed:
        return []
    found = loop.interval if loop.pipelined else "no pipeline"
    wanted = " or ".join(str(value) for value in allowed if value)
    return [f"loop {loop.name}: predicted II = {wanted}, the report has {found}"]


def _parse_xml(text: str) -> SynthesisReport:
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ReportError(f"not readable as XML: {error}; give syn/report/csynth.xml of Vitis HLS") from None
    used = root.find(".//AreaEstimates/Resources")
    if used is None:
        raise ReportError("no AreaEstimates/Resources: give syn/report/csynth.xml of Vitis HLS")
    counts = {kind: _integer(used.findtext(name)) or 0 for kind, name in _REPORT_KINDS.items()}
    return SynthesisReport(
        top=_text(root, "TopModelName"),
        part=_text(root, "UserAssignments/Part"),
        target_clock=_decimal(_text(root, "TargetClockPeriod")),
        estimated_clock=_decimal(_text(root, "EstimatedClockPeriod")),
        worst_latency=_integer(_text(root, "SummaryOfOverallLatency/Worst-caseLatency")),
        resources=_resources(counts),
        loops=_all_loops(root),
    )


def _all_loops(root: ElementTree.Element) -> tuple[LoopReport, ...]:
    """The loops of all modules. The top function's stand in its own summary, and in that of its module once more."""
    own = root.find("PerformanceEstimates")
    modules = root.findall("ModuleInformation/Module")
    repeated = any(module.findtext("Name") == _text(root, "TopModelName") for module in modules)
    parts = [*([] if own is None or repeated else [own]), *modules]
    return tuple(
        loop for part in parts for summary in part.iter("SummaryOfLoopLatency") for loop in _xml_loops(summary)
    )


def _xml_loops(parent: ElementTree.Element) -> Iterable[LoopReport]:
    """Loops below a summary; nested ones stand inside. A loop is an element named by its label, or `Loop` with a `Name`."""
    for element in parent:
        if element.find("TripCount") is None and element.find("Latency") is None and element.find("PipelineII") is None:
            continue
        interval = _integer(element.findtext("PipelineII"))
        name = element.findtext("Name") or element.tag
        yield LoopReport(name, interval, interval is not None)
        yield from _xml_loops(element)


def _text(root: ElementTree.Element, path: str) -> str:
    return (root.findtext(f".//{path}") or "").strip()


_COLUMNS = (
    "name",
    "issue",
    "slack",
    "cycles",
    "ns",
    "iteration",
    "interval",
    "trips",
    "pipelined",
    "bram",
    "dsp",
    "ff",
    "lut",
    "uram",
)
_PART = re.compile(r"Target device:\s*(\S+)")
_CLOCK = re.compile(r"\|\s*ap_clk\s*\|\s*([\d.]+)(?: ns)?\s*\|\s*([\d.]+)(?: ns)?\s*\|")


def _parse_table(text: str) -> SynthesisReport:
    """The table `Performance & Resource Estimates`: '+' marks a module, 'o' a loop."""
    modules: list[dict[str, str]] = []
    loops: list[LoopReport] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) != len(_COLUMNS) or cells[0][:1] not in ("+", "o"):
            continue
        row = dict(zip(_COLUMNS, cells, strict=True))
        if row["name"].startswith("+"):
            modules.append(row)
        else:
            pipelined = row["pipelined"] not in ("no", "-")
            loops.append(LoopReport(row["name"].lstrip("o ").strip(), _integer(row["interval"]), pipelined))
    if not modules:
        raise ReportError("no table of modules and loops: give syn/report/csynth.rpt or csynth.xml of Vitis HLS")
    top = modules[0]
    columns = {"lut": "lut", "ff": "ff", "dsp": "dsp", "bram36": "bram", "uram": "uram"}
    clock, part = _CLOCK.search(text), _PART.search(text)
    return SynthesisReport(
        top=top["name"].lstrip("+ ").strip(),
        part=part.group(1) if part else "",
        target_clock=float(clock.group(1)) if clock else None,
        estimated_clock=float(clock.group(2)) if clock else None,
        worst_latency=_integer(top["cycles"]),
        resources=_resources({kind: _integer(top[column]) or 0 for kind, column in columns.items()}),
        loops=tuple(loops),
    )


def _resources(counts: dict[str, int]) -> Resources:
    """The tool counts BRAM in halves of 18 Kbit."""
    return Resources(**{**counts, "bram36": -(-counts["bram36"] // 2)})


def _integer(text: str | None) -> int | None:
    """The number at the start of a cell ("23 (1%)"); None for "-", "?" and nothing."""
    found = re.match(r"\s*(\d+)", text or "")
    return int(found.group(1)) if found else None


def _decimal(text: str) -> float | None:
    found = re.match(r"\s*([\d.]+)", text)
    return float(found.group(1)) if found else None
