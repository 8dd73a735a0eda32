"""Provenance: all that a result depends on is in JSON and report, read from where it is used."""

from __future__ import annotations

import json
import shlex
import subprocess
from dataclasses import asdict, fields, replace
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
import typer
from systolora.cli.app import app
from systolora.cost import provenance as provenance_module
from systolora.cost.provenance import constants, provenance, source_commit
from systolora.cost.report import render_report
from systolora.cost.run import find_workload, run_simulate
from systolora.cost.settings import OUTPUTS, SimulateSettings, command_line
from systolora.cost.simulation import simulate_workload
from systolora.errors import UserError
from systolora.sim.cost import dram
from systolora.sim.cost.energy import technology


@pytest.fixture
def listed(tmp_path: Path) -> SimulateSettings:
    path = tmp_path / "list.csv"
    path.write_text("m,n,k\n64,64,64\n")
    return SimulateSettings(gemms=str(path))


def test_the_resolved_configuration_is_there(listed: SimulateSettings) -> None:
    settings = replace(listed, board="ultra96v2", latency_ns=500.0, technology="7nm")
    found = provenance(settings)
    machine = settings.machine()
    assert found["array"].items() >= asdict(machine.config).items()
    assert found["array"]["input_depth"] == machine.config.input_depth
    assert found["array"]["fingerprint_text"] == machine.config.fingerprint_text
    assert found["dram"] == asdict(machine.dram) and found["dram"]["latency"] == round(
        500 * machine.config.clock_mhz / 1000
    )
    assert found["energy"] == asdict(technology("7nm"))
    assert found["version"] == version("systolora") and found["libraries"]["torch"]
    assert found["settings"]["latency_ns"] == 500.0 and "rank" not in found["settings"]
    assert provenance(SimulateSettings())["settings"]["rank"] == 4
    json.dumps(found)


def test_constants_are_read_from_where_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    before = constants()
    for name in ("sim.cost.dram.READ_LATENCY_NS", "sim.cost.energy._NODES", "hls.isa.INSTRUCTION_BYTES"):
        assert name in before
    assert "sim.cost.events.TRACKS" not in before
    monkeypatch.setattr(dram, "READ_LATENCY_NS", 123.0)
    assert constants()["sim.cost.dram.READ_LATENCY_NS"] == 123.0


def test_a_new_constant_shows_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "from systolora.hls.isa import INSTRUCTION_BYTES, Gemm\nNEW, _OTHER = 1, 2.5\nlater = 3\nNAME: str = 'x'\nLIST = (1, 'a')\n"
    module = ModuleType("systolora.sim.cost.dram")
    exec(text, module.__dict__)
    monkeypatch.setattr(provenance_module.inspect, "getsource", lambda module: text)
    monkeypatch.setattr(provenance_module.importlib, "import_module", lambda name: module)
    assert constants() == {"hls.isa.INSTRUCTION_BYTES": 128, "sim.cost.dram.NEW": 1, "sim.cost.dram._OTHER": 2.5}


def test_the_command_makes_the_same_settings(tmp_path: Path) -> None:
    settings = SimulateSettings(
        workload="my model's folder",
        targets="all",
        rank=8,
        board="kv260",
        overlap=False,
        clock_mhz=187.5,
        packed_dsp="off",
    )
    words = shlex.split(command_line(settings))
    assert words[:2] == ["systolora", "simulate"]
    command = typer.main.get_command(app).get_command(None, "simulate")  # type: ignore[attr-defined,arg-type]
    context = command.make_context("simulate", words[2:])
    given = {name: value for name, value in context.params.items() if value is not None}
    names = {item.name for item in fields(SimulateSettings)}
    assert SimulateSettings(**{name: value for name, value in given.items() if name in names}) == settings


def test_the_commit_is_that_of_the_sources() -> None:
    root = Path(provenance_module.__file__).resolve().parents[2]
    found = source_commit()
    if not (root / ".git").exists():
        assert found is None or len(found) == 40
        return
    head = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert found in (head, f"{head}+")


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(
        provenance_module, "distribution", lambda name: type("D", (), {"read_text": lambda self, n: None})()
    )
    assert source_commit() is None


def test_json_and_report_have_it(listed: SimulateSettings) -> None:
    done = simulate_workload(listed, find_workload(listed))
    found = json.loads(json.dumps(done.as_dict()))
    assert found["provenance"] == json.loads(json.dumps(provenance(listed)))
    assert (found["workload"], found["targets"], found["rank"]) == (listed.gemms, None, None)
    page = render_report(done)
    for text in (
        "Where this comes from",
        "--gemms",
        version("systolora"),
        "input_<wbr>bytes",
        "REQUESTS_<wbr>IN_<wbr>FLIGHT",
    ):
        assert text in page


def test_a_trace_says_where_it_ends(listed: SimulateSettings, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    cut = run_simulate(replace(listed, trace=str(path), trace_events=3)).as_dict()["trace"]
    assert cut["events"] == 3 and not cut["complete"] and 0 < cut["cycles"] < cut["step_cycles"]
    assert json.loads(path.read_text())["metadata"]["complete"] is False
    whole = run_simulate(replace(listed, trace=str(path))).as_dict()["trace"]
    assert whole["complete"] and whole["events"] > 3
    assert json.loads(path.read_text())["metadata"]["command"].startswith("systolora simulate --gemms")
    exact = run_simulate(replace(listed, trace=str(path), trace_events=whole["events"])).as_dict()["trace"]
    assert exact["complete"]


@pytest.mark.parametrize("names", [("html", "csv"), ("csv", "trace"), ("html", "trace")])
def test_two_results_in_one_file_are_refused(listed: SimulateSettings, tmp_path: Path, names: tuple[str, str]) -> None:
    (tmp_path / "sub").mkdir()
    paths = (str(tmp_path / "same"), str(tmp_path / "sub" / ".." / "same"))
    with pytest.raises(UserError, match="give two names"):
        run_simulate(replace(listed, **dict(zip(names, paths, strict=True))))
    assert not (tmp_path / "same").exists() and set(names) <= set(OUTPUTS)
