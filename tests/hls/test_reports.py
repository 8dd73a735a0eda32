"""The two reports below are written by hand in the structure that UG1399 documents and public projects parse.
They are not the output of a tool: none was at hand."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from systolora.hls import board_config
from systolora.hls.generate import render_sources
from systolora.hls.intervals import pipelined_intervals
from systolora.hls.reports import (
    LoopReport,
    ReportError,
    SynthesisReport,
    compare_report,
    parse_report,
    render_expected,
)
from systolora.hls.resources import Resources

XML = """<?xml version="1.0" encoding="UTF-8"?>
<profile>
  <ReportVersion><Version>2024.1</Version></ReportVersion>
  <UserAssignments>
    <unit>ns</unit>
    <ProductFamily>zynquplus</ProductFamily>
    <Part>xck26-sfvc784-2LV-c</Part>
    <TopModelName>systolora_top</TopModelName>
    <TargetClockPeriod>5.33</TargetClockPeriod>
    <ClockUncertainty>0.67</ClockUncertainty>
  </UserAssignments>
  <PerformanceEstimates>
    <SummaryOfTimingAnalysis><unit>ns</unit><EstimatedClockPeriod>{clock}</EstimatedClockPeriod></SummaryOfTimingAnalysis>
    <SummaryOfOverallLatency>
      <Best-caseLatency>120</Best-caseLatency>
      <Worst-caseLatency>?</Worst-caseLatency>
    </SummaryOfOverallLatency>
    <SummaryOfLoopLatency>
      <instructions>
        <TripCount>?</TripCount><Latency>?</Latency>
        <tiles><PipelineII>{interval}</PipelineII><PipelineDepth>9</PipelineDepth><TripCount>64</TripCount></tiles>
      </instructions>
      <Loop><Name>clear</Name><TripCount>16</TripCount><Latency>16</Latency><PipelineII>1</PipelineII></Loop>
    </SummaryOfLoopLatency>
  </PerformanceEstimates>
  <AreaEstimates>
    <Resources><BRAM_18K>{bram}</BRAM_18K><DSP>{dsp}</DSP><FF>{ff}</FF><LUT>{lut}</LUT><URAM>{uram}</URAM></Resources>
    <AvailableResources><BRAM_18K>288</BRAM_18K><DSP>1248</DSP><FF>234240</FF><LUT>117120</LUT><URAM>64</URAM></AvailableResources>
  </AreaEstimates>
</profile>
"""

TABLE = """
== Vitis HLS Report for 'systolora_top'
* Target device:  xck26-sfvc784-2LV-c
+ Timing:
    |  Clock |  Target | Estimated| Uncertainty|
    |ap_clk  |  5.33 ns|  4.120 ns|     0.67 ns|

== Performance & Resource Estimates
    PS: '+' for module; 'o' for loop; '*' for dataflow
    |          Modules          | Issue|      | Latency | Latency | Iteration|         | Trip |          |         |           |            |            |         |
    |          & Loops          | Type | Slack| (cycles)|   (ns)  |  Latency | Interval| Count| Pipelined|  BRAM   |    DSP    |     FF     |    LUT     |   URAM  |
    |+ systolora_top            |     -|  0.00|        -|        -|         -|        -|     -|        no| 19 (6%)| 684 (54%)| 117600 (50%)| 85224 (72%)| 48 (75%)|
    | + run_array               |     -|  0.30|     1040| 5.54e+03|         -|     1040|     -|        no|        -| 512 (41%)|  53120 (22%)| 36864 (31%)|        -|
    |  o steps                  |     -|  3.90|     1038| 5.53e+03|         7|        2|  1024|       yes|        -|          -|            -|           -|        -|
"""


def expected() -> str:
    """The prediction for the KV260, of two loops."""
    return render_expected(board_config("kv260"), {"tiles": (1, 4), "clear": (1,)})


def numbers(**changes: object) -> str:
    wanted = json.loads(expected())["resources"]
    values = {
        "clock": "4.12",
        "interval": 1,
        "bram": 2 * wanted["bram36"],
        "dsp": wanted["dsp"],
        "ff": wanted["ff"],
        "lut": wanted["lut"],
        "uram": wanted["uram"],
    }
    return XML.format(**(values | changes))


def test_xml_is_read() -> None:
    report = parse_report(XML.format(clock="4.120", interval=2, bram=19, dsp=684, ff=117600, lut=85224, uram=48))
    assert report.top == "systolora_top"
    assert report.part == "xck26-sfvc784-2LV-c"
    assert report.target_clock == 5.33
    assert report.estimated_clock == 4.12
    assert report.worst_latency is None
    assert report.resources == Resources(lut=85224, ff=117600, dsp=684, bram36=10, uram=48)
    assert [(loop.name, loop.interval, loop.pipelined) for loop in report.loops] == [
        ("instructions", None, False),
        ("tiles", 2, True),
        ("clear", 1, True),
    ]


def test_table_is_read_to_the_same() -> None:
    report = parse_report(TABLE)
    same = parse_report(XML.format(clock="4.120", interval=2, bram=19, dsp=684, ff=117600, lut=85224, uram=48))
    assert (report.top, report.part, report.resources) == (same.top, same.part, same.resources)
    assert (report.target_clock, report.estimated_clock) == (same.target_clock, same.estimated_clock)
    assert [(loop.name, loop.interval, loop.pipelined) for loop in report.loops] == [("steps", 2, True)]


def test_agreement_is_silent() -> None:
    assert compare_report(expected(), parse_report(numbers())) == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"interval": 3}, "loop tiles: predicted II = 1 or 4, the report has 3"),
        ({"clock": "6.02"}, "clock: 6.0 ns asked for, the report estimates 6.02 ns"),
        ({"dsp": 1200}, r"DSP: predicted [\d,]+, the report has 1,200 \(more than 15% off\)"),
        ({"lut": 10}, r"LUT: predicted [\d,]+, the report has 10 \(more than 35% off\)"),
        ({"uram": 0}, r"URAM: predicted 48, the report has 0 \(more than 10% off\)"),
    ],
)
def test_disagreement_is_told(changes: dict[str, object], line: str) -> None:
    lines = compare_report(expected(), parse_report(numbers(**changes)))
    assert len(lines) == 1
    assert re.fullmatch(line, lines[0])


def test_intervals_are_read_from_pragmas() -> None:
    text = """constexpr int kBytes = 16;
constexpr int kWords = kBytes / 4;
rows:
    for (int i = 0; i < n; ++i) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=8
// Proof: a reason.
#pragma HLS PIPELINE II=kWords*2
    }
rows:
    for (int i = 0; i < n; ++i) {
    lanes:
        for (int j = 0; j < 4; ++j) {
#pragma HLS UNROLL
        }
    tail:
        while (left) {
#pragma HLS PIPELINE
        }
    }
"""
    assert pipelined_intervals({"a.hpp": text}) == {"rows": (0, 8), "tail": (1,)}
    with pytest.raises(ValueError, match="II=kOther: not a constant"):
        pipelined_intervals({"a.hpp": text.replace("kWords*2", "kOther")})


@pytest.mark.parametrize("name", ["kv260", "rfsoc4x2"])
def test_a_report_with_the_intervals_of_the_pragmas_is_silent(name: str) -> None:
    sources = render_sources(board_config(name))
    intervals = pipelined_intervals(sources)
    # Every pragma at a loop is found.
    pragmas = sum(text.count("#pragma HLS PIPELINE") for text in sources.values())
    functions = sum(
        len(re.findall(r"\)\n\{\n(?:#pragma[^\n]*\n)*#pragma HLS PIPELINE", text)) for text in sources.values()
    )
    loops = sum(
        len(re.findall(r"\n *\w+:\n *for [^\n]*\n(?:#pragma[^\n]*\n)*#pragma HLS PIPELINE", text))
        for text in sources.values()
    )
    assert loops == pragmas - functions and loops >= len(intervals)
    document = json.loads(render_expected(board_config(name), intervals))
    report = SynthesisReport(
        document["top"],
        document["part"],
        None,
        document["clock_ns"],
        None,
        Resources(**document["resources"]),
        tuple(LoopReport(label, value or None, value > 0) for label, values in intervals.items() for value in values),
    )
    assert compare_report(json.dumps(document), report) == []


@pytest.mark.parametrize(
    ("loop", "lines"),
    [
        (LoopReport("rows_tiles", 4, True), []),
        (LoopReport("rows_tiles", 2, True), ["loop rows_tiles: predicted II = 1 or 4, the report has 2"]),
        (LoopReport("clear", None, False), ["loop clear: predicted II = 1, the report has no pipeline"]),
        (LoopReport("VITIS_LOOP_7_1", 3, True), ["loop VITIS_LOOP_7_1: not predicted, and its II is 3"]),
        (LoopReport("VITIS_LOOP_7_1", 1, True), []),
        (LoopReport("steps", None, False), []),
    ],
)
def test_loops_are_compared_by_their_labels(loop: LoopReport, lines: list[str]) -> None:
    report = replace(parse_report(numbers()), loops=(loop,))
    assert compare_report(expected(), report) == lines


def test_a_loop_of_the_top_function_is_read_once() -> None:
    module = """<ModuleInformation><Module><Name>systolora_top</Name><PerformanceEstimates><SummaryOfLoopLatency>
      <tiles><Name>tiles</Name><PipelineII>1</PipelineII></tiles></SummaryOfLoopLatency></PerformanceEstimates></Module>
      <Module><Name>store</Name><PerformanceEstimates><SummaryOfLoopLatency>
      <rows><Name>rows</Name><PipelineII>2</PipelineII></rows></SummaryOfLoopLatency></PerformanceEstimates></Module>
    </ModuleInformation></profile>"""
    report = parse_report(numbers().replace("</profile>", module))
    assert [(loop.name, loop.interval) for loop in report.loops] == [("tiles", 1), ("rows", 2)]


def test_other_part_and_top_are_told() -> None:
    text = numbers().replace("xck26-sfvc784-2LV-c", "xczu9eg").replace("systolora_top", "vadd")
    lines = compare_report(expected(), parse_report(text))
    assert lines == [
        "top function: predicted systolora_top, the report is of vadd",
        "part: predicted xck26-sfvc784-2LV-c, the report is for xczu9eg",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<profile>", "not readable as XML"),
        ("<profile/>", "no AreaEstimates/Resources"),
        ("hello", "no table of modules"),
    ],
)
def test_other_files_are_refused(text: str, message: str) -> None:
    with pytest.raises(ReportError, match=message):
        parse_report(text)
