"""Sweeps: the same figures as single calls, every combination once, and files that say what they are of."""

from __future__ import annotations

import base64
import csv
import json
import os
import re
import shlex
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from systolora.cli.options import make_console
from systolora.cli.sweep import print_sweep, run_sweeps
from systolora.cost import sweep as sweep_module
from systolora.cost.plots import draw_plot, drawn_panels
from systolora.cost.run import run_simulate
from systolora.cost.settings import SimulateSettings
from systolora.cost.sweep import Sweep, read_axes, shown, simulate_points, sweep_points
from systolora.cost.sweep_report import render_sweep, run_sweep
from systolora.errors import UserError

LIST = """name,operation,m,n,k,count,flags
q,gemm,512,320,320,2,transpose_b bias
x,quantize,512,320,,1,axis=row
up,gemm,77,640,4,8,transpose_b accumulate
"""


@pytest.fixture
def listed(tmp_path: Path) -> SimulateSettings:
    path = tmp_path / "list.csv"
    path.write_text(LIST)
    return SimulateSettings(gemms=str(path))


def swept(settings: SimulateSettings, *texts: str) -> Sweep:
    axes = read_axes(texts, settings)
    return Sweep(settings, axes, simulate_points(sweep_points(settings, axes), 1))


def test_a_sweep_is_its_single_calls(listed: SimulateSettings) -> None:
    found = run_sweep(listed, ["rows=16,32", "dataflow=ws,os,auto", "overlap=on,off"])
    assert len(found.points) == 12
    single = {}
    for rows in (16, 32):
        for flow in ("ws", "os", "auto"):
            for overlap in (True, False):
                settings = replace(listed, rows=rows, dataflow=flow, overlap=overlap)
                single[rows, flow, overlap] = run_simulate(settings).as_dict()["step"]
    assert {point.values: point.figures for point in found.points} == single
    assert [point.values for point in found.points] == list(single), "in the order of the axes, the last one fastest"
    assert len({figures["cycles"] for figures in single.values()}) > 6


def test_sweeps_over_memories_energy_and_lists(listed: SimulateSettings, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("m,n,k\n64,64,64\n")
    found = swept(replace(listed, gemms=""), f"gemms={listed.gemms},{other}", "technology=7nm,fpga16nm")
    energies = [point.figures["energy_j"] for point in found.points]
    assert len(set(energies)) == 4 and energies[0] < energies[1]
    memories = swept(listed, "input_bytes=4096,524288")
    assert memories.points[0].settings.array_config().input_bytes == 4096
    assert memories.points[0].figures["cycles"] > memories.points[1].figures["cycles"]


def test_processes_change_nothing(listed: SimulateSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    # Forked here: what goes to and from a process is the same, and it need not import torch first.
    monkeypatch.setattr(sweep_module, "get_context", lambda kind: get_context("fork"))
    texts = ["rows=16,32,64"]
    assert run_sweep(listed, texts, jobs=2).points == run_sweep(listed, texts).points


@pytest.mark.slow
def test_processes_as_they_are_started(listed: SimulateSettings) -> None:
    texts = ["rows=16,32,64"]
    assert run_sweep(listed, texts, jobs=2).points == run_sweep(listed, texts).points


def _die(work: Any) -> None:
    os._exit(9)


def test_a_process_that_ends_early_is_one_line(listed: SimulateSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_module, "get_context", lambda kind: get_context("fork"))
    monkeypatch.setattr(sweep_module, "_figures", _die)
    with pytest.raises(UserError, match="a process of --jobs 2 ended early"):
        run_sweep(listed, ["rows=16,32"], jobs=2)


def test_each_step_is_traced_once(listed: SimulateSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    find = sweep_module.find_workload

    def counted(settings: SimulateSettings) -> Any:
        read.append(settings.array_config().bus_bytes)
        return find(settings)

    monkeypatch.setattr(sweep_module, "find_workload", counted)
    swept(listed, "rows=16,32,64", "bus_bytes=16,32", "dataflow=ws,os")
    assert sorted(read) == [16, 32], "patches of a step depend on the width of a port, nothing else here does"


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["row=16"], "--sweep row=16: it is no setting that can be swept; those are workload, "),
        (["row=16"], "did you mean rows?"),
        (["html=a,b"], "it is no setting that can be swept"),
        (["rows"], "--sweep rows: give values with commas between them"),
        (["rows="], "give values with commas"),
        (["rows=16,,32"], "give values with commas"),
        (["rows=16,x"], "--sweep rows=16,x: rows = 'x': expected a whole number"),
        (["rows=1e9"], "expected a whole number"),
        (["rows=16,16"], "a value is given twice"),
        (["rows=16", "rows=32"], "--sweep rows is given twice"),
        (["rows=16,3"], "--sweep, at rows 3: rows = 3: allowed are 4 to 256"),
        (["rows=16,1000"], "--sweep, at rows 1000: --rows 1000: it must be at most 256"),
        (["clock_mhz=nan"], "--sweep, at clock_mhz nan: --clock-mhz nan: it must be a finite number"),
        (["dram_gbps=inf,1"], "--sweep, at dram_gbps inf: --dram-gbps inf: it must be a finite number"),
        (["dram_gbps=1e-9"], "--dram-gbps 1e-09: it must be at least 0.001"),
        (["latency_ns=-1"], "--latency-ns -1.0: it must not be negative"),
        (["overlap=perhaps"], "overlap = 'perhaps': allowed are on, off"),
        (["dataflow=is"], "--dataflow 'is': allowed are auto, ws, os"),
        (["board=kv260,nowhere"], "--sweep, at board nowhere: no board 'nowhere'"),
        (["energy=nowhere.yaml"], "--sweep, at energy nowhere.yaml: --energy nowhere.yaml: cannot be read"),
        ([f"rank={','.join(str(rank) for rank in range(1, 5000))}"], "--sweep: 4,999 combinations; at most 4,096"),
        (["bus_bytes=16,7"], "--sweep, at bus_bytes 7: bus_bytes = 7"),
    ],
)
def test_a_wrong_sweep_gets_one_line_before_any_work(
    texts: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_module, "find_workload", lambda settings: pytest.fail("that is work"))
    with pytest.raises(UserError) as error:
        run_sweep(SimulateSettings(), texts)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rows": 16}, "--sweep rows and --rows name the same setting"),
        ({"trace": "t.json"}, "--trace with --sweep"),
        ({"plot": "p.jpg"}, "--plot p.jpg: the name must end in .svg or .png"),
        ({"csv": "same", "html": "same"}, "--html and --csv are both same: give two names"),
    ],
)
def test_options_that_do_not_go_with_a_sweep(
    changes: dict, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(said)):
        run_sweep(replace(SimulateSettings(), **changes), ["rows=16,32"])
    assert not list(tmp_path.iterdir())


def test_a_plot_of_one_simulation_is_refused(listed: SimulateSettings) -> None:
    with pytest.raises(UserError, match="--plot goes with --sweep"):
        run_simulate(replace(listed, plot="p.svg"))


@pytest.mark.parametrize("name", ["points.csv", "report.html", "plot.svg", "plot.png"])
def test_files_are_written_again_and_over_no_other(listed: SimulateSettings, tmp_path: Path, name: str) -> None:
    option = {"points.csv": "csv", "report.html": "html"}.get(name, "plot")
    path = tmp_path / "new" / name
    settings = replace(listed, **{option: str(path)})
    run_sweep(settings, ["rows=16,32"])
    first = path.read_bytes()
    run_sweep(settings, ["rows=16,32"])
    assert path.read_bytes() == first
    path.write_text("mine")
    with pytest.raises(UserError, match=f"--{option} {path}: systolora did not write that file"):
        run_sweep(settings, ["rows=16,32"])
    assert path.read_text() == "mine"


def test_the_csv_has_a_line_a_point(listed: SimulateSettings, tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    found = run_sweep(replace(listed, csv=str(path)), ["dataflow=ws,os", "latency-ns=0,187.5"])
    rows = list(csv.DictReader(path.open()))
    assert list(rows[0])[:2] == ["dataflow", "latency_ns"]
    for row, point in zip(rows, found.points, strict=True):
        assert (row["dataflow"], float(row["latency_ns"])) == point.values
        assert (int(row["cycles"]), float(row["energy_j"])) == (point.figures["cycles"], point.figures["energy_j"])


def test_json_says_what_each_point_is(listed: SimulateSettings, capsys: pytest.CaptureFixture[str]) -> None:
    run_sweeps(listed, ["rows=16,48"], 1, json=True)
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert found["sweep"] == {"rows": [16, 48]}
    assert [point["array"]["rows"] for point in found["points"]] == [16, 48]
    # 48 lanes do not divide 512 KB: what the array really has is said.
    assert [point["array"]["input_bytes"] % (2 * 48) for point in found["points"]][1] == 0
    command = shlex.split(found["provenance"]["command"])
    assert command[:2] == ["systolora", "simulate"] and command[-2:] == ["--sweep", "rows=16,48"]


@pytest.mark.parametrize("columns", ["80", "60"])
def test_the_table_stands_in_the_terminal_with_nothing_cut(
    listed: SimulateSettings, columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    texts = ["rows=16,32", "bus_bytes=16", "latency_ns=0,300", "dataflow=ws", "technology=45nm,fpga16nm"]
    found = swept(listed, *texts)
    print_sweep(found, make_console())
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= int(columns)
    text = "\n".join(lines)
    assert "\u2026" not in text
    for point in found.points:
        for value in (f"{point.figures['seconds']:.4g}", f"{point.figures['energy_j']:.4g}", shown(point.values[-1])):
            assert value in text
    for name in (*(axis.name for axis in found.axes), "seconds", "energy J", "bottleneck"):
        assert name in text


def test_the_plot_has_a_line_for_each_other_combination(listed: SimulateSettings) -> None:
    found = swept(listed, "bus_bytes=16,32", "rows=16,32,64", "dataflow=ws,os")
    svg = draw_plot(found, ".svg").decode()
    assert [panel.key for panel in drawn_panels(found)] == ["seconds", "utilization", "energy_j", "dram_bytes"]
    for text in ("bus_bytes 16, dataflow ws", "bus_bytes 32, dataflow os", "Seconds of a step", ">rows<"):
        assert text in svg
    assert draw_plot(found, ".png").startswith(b"\x89PNG")
    assert draw_plot(found, ".svg").decode() == svg


def test_names_are_no_line(listed: SimulateSettings) -> None:
    svg = draw_plot(swept(listed, "board=kv260,ultra96v2"), ".svg").decode()
    assert "kv260" in svg and "legend" not in svg


def test_what_scalesim_does_not_model_has_no_panel(listed: SimulateSettings) -> None:
    found = swept(replace(listed, compat="scalesim"), "rows=16,32")
    assert [panel.key for panel in drawn_panels(found)] == ["seconds", "utilization"]
    assert "not modelled" in render_sweep(found)


def test_the_report_needs_nothing_from_elsewhere(listed: SimulateSettings) -> None:
    page = render_sweep(swept(listed, "rows=16,32"))
    assert not re.search(r'(src|href)="(?!data:)|https?://', page)
    pictures = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    assert len(pictures) == 4
    for picture in pictures:
        width = re.search(r'viewBox="0 0 ([\d.]+) ', base64.b64decode(picture).decode())
        assert width is not None and float(width[1]) < 442, "at 420 pixels its text is still readable"
    assert "rows=16,32" in page and "sim.<wbr>cost.<wbr>dram.<wbr>READ_<wbr>LATENCY_<wbr>NS" in page
