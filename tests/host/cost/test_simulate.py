"""Simulations: three policies that agree with each other and with the bounds, and reports that say what they found."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from systolora.cli.options import make_console
from systolora.cli.simulate import print_simulation, run_simulation
from systolora.cost.paper_gains import Gain, like_the_paper, two_sided, verdict
from systolora.cost.performance_page import render_page
from systolora.cost.policies import POLICIES, array_alone
from systolora.cost.report import render_report
from systolora.cost.run import run_simulate
from systolora.cost.settings import SimulateSettings
from systolora.cost.sharing import key_value_variants
from systolora.cost.simulation import Simulation, simulate_workload, step_program
from systolora.cost.svg import Bar, Dot, bar_chart, roofline
from systolora.cost.tracing import trace_workload
from systolora.cost.workloads import StepOptions, Workload
from systolora.errors import UserError
from systolora.hls.config import ArrayConfig, ConfigError
from systolora.hls.isa import INSTRUCTION_BYTES, Gemm, Result, decode
from systolora.programs.compiler import ProgramBuilder
from systolora.programs.tensors import DeviceMatrix, ElementType, matrix_bytes, row_stride
from systolora.programs.tiling import choose_tiling
from systolora.sim.cost.instruction_times import instruction_cycles
from systolora.sim.cost.unit_times import ArrayKind
from systolora.sim.functional.counts import count_instruction
from systolora.sim.functional.emulator import EmulatorDevice

EVERYTHING = {"targets": "all", "adapt": "kv", "attention_products": True}
"""All GEMMs of a step, as the paper places its adapter."""
PAGE = Path(__file__).parents[3] / "docs" / "performance.md"


@pytest.fixture(scope="module")
def key_value() -> Workload:
    return trace_workload("sd15", StepOptions())


@pytest.fixture(scope="module")
def everything() -> Workload:
    return trace_workload("sd15", StepOptions(**EVERYTHING))


@pytest.fixture(scope="module", params=["kv", "all"])
def simulation(request: pytest.FixtureRequest, key_value: Workload, everything: Workload) -> Simulation:
    workload = key_value if request.param == "kv" else everything
    options = EVERYTHING if request.param == "all" else {}
    return simulate_workload(SimulateSettings(**options, rows=64, cols=64), workload)


def test_the_choice_is_never_slower_on_any_gemm(simulation: Simulation) -> None:
    ws, os, auto = (simulation.policies[name].gemms for name in POLICIES)
    assert len(ws) == len(os) == len(auto) == len(simulation.workload.gemms)
    for one, other, best in zip(ws, os, auto, strict=True):
        assert best.cycles == min(one.cycles, other.cycles)
        assert {one.dataflow, other.dataflow} == {"ws", "os"}


def test_no_gemm_beats_bandwidth_or_peak(simulation: Simulation) -> None:
    per_clock = simulation.machine.dram.bytes_per_clock
    for policy in simulation.policies.values():
        for cost in policy.gemms:
            assert cost.cycles >= cost.dram_bytes / per_clock
            assert 0 < cost.utilization <= 1
            assert cost.cycles > cost.array_cycles


def test_traffic_is_that_of_the_instruction(simulation: Simulation) -> None:
    bus = simulation.machine.config.bus_bytes
    for cost in simulation.policies["auto"].gemms:
        assert cost.op is not None
        counted = count_instruction(simulation.machine.config, cost.op)
        assert cost.dram_bytes == bus * (counted.words_read + counted.words_written)
        assert cost.array_cycles == counted.array_cycles


def test_the_step_is_the_sum_of_its_instructions(simulation: Simulation) -> None:
    program, labels = step_program(simulation)
    assert len(labels) == len(program) - 1
    cycles = instruction_cycles(simulation.machine, program)
    assert sum(cycles[:-1]) == simulation.step_cycles()


def test_bytes_of_the_step_are_those_that_the_hardware_counts(simulation: Simulation) -> None:
    """QUANTIZE included, instruction by instruction; its energy is more than its share of device memory alone."""
    program, _ = step_program(simulation)
    config = simulation.machine.config
    counted = [count_instruction(config, op) for op in program[:-1]]
    step = simulation.as_dict()["step"]
    assert step["dram_bytes"] == config.bus_bytes * sum(c.words_read + c.words_written for c in counted)
    assert step["utilization"] == pytest.approx(
        simulation.workload.macs() / (config.rows * config.cols * step["cycles"]), abs=1e-6
    )
    gemms = simulation.policies["auto"]
    assert step["utilization"] < gemms.utilization
    floor = 1e-12 * simulation.technology.dram_byte * (step["dram_bytes"] - gemms.dram_bytes)
    assert step["energy_j"] > sum(gemms.energy().values()) + floor


def test_json_says_it_all(key_value: Workload, capsys: pytest.CaptureFixture[str]) -> None:
    run_simulation(SimulateSettings(rows=64, cols=64, rank=4, batch=1), json=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    found = json.loads(lines[0])
    assert set(found["policies"]) == set(POLICIES)
    for policy in found["policies"].values():
        gemms = policy["gemms"]
        assert policy["cycles"] == sum(gemm["count"] * gemm["cycles"] for gemm in gemms)
        assert policy["stall_cycles"] == sum(gemm["count"] * gemm["stall_cycles"] for gemm in gemms)
        assert policy["dram_bytes"] == sum(gemm["count"] * gemm["dram_bytes"] for gemm in gemms)
        assert policy["energy_j"] == pytest.approx(sum(gemm["count"] * gemm["energy_j"] for gemm in gemms))
        assert policy["utilization"] == pytest.approx(found["macs"]["total"] / policy["cycles"] / 4096, abs=1e-6)
    assert found["gemm_count"] == sum(gemm["count"] for gemm in found["policies"]["auto"]["gemms"]) == 192
    assert found["macs"] == key_value.macs_by_phase() | {"total": key_value.macs()}


def test_the_array_that_the_paper_seems_to_have_had(everything: Workload, key_value: Workload) -> None:
    """Figures of an independent closed form: 2R + C + T - 2 a fold, nothing overlapped."""
    cycles = array_alone(ArrayConfig(), ArrayKind.SERIAL_SKEWED, key_value.gemms)
    assert {name: round(value / 1e6, 3) for name, value in cycles.items()} == {"ws": 1.771, "os": 1.229, "auto": 1.139}
    overlapped = array_alone(ArrayConfig(), ArrayKind.OVERLAPPED, everything.gemms)
    assert everything.macs() / 4096 / overlapped["auto"] == pytest.approx(0.893, abs=0.001)


def test_without_overlap_everything_takes_longer(key_value: Workload) -> None:
    plain = simulate_workload(SimulateSettings(bus_bytes=64), key_value)
    serial = simulate_workload(SimulateSettings(bus_bytes=64, overlap=False), key_value)
    for name in POLICIES:
        assert serial.policies[name].cycles > plain.policies[name].cycles
    assert serial.ratios()["ws"] > plain.ratios()["ws"]


def test_scalesim_totals(key_value: Workload) -> None:
    settings = SimulateSettings(compat="scalesim", rows=64, cols=64)
    found = simulate_workload(settings, key_value).as_dict()["policies"]
    first = {name: policy["gemms"][0] for name, policy in found.items()}
    assert (first["ws"]["m"], first["ws"]["n"], first["ws"]["k"]) == (77, 320, 768)
    assert {name: gemm["cycles"] for name, gemm in first.items()} == {"ws": 16019, "os": 8939, "auto": 8939}
    assert found["auto"]["dram_bytes"] is None and found["auto"]["stall_cycles"] == 0


def test_wide_ports_bring_all_but_attention_products_to_ninety_percent() -> None:
    workload = trace_workload("sd15", StepOptions(**EVERYTHING, bus_bytes=64))
    auto = simulate_workload(SimulateSettings(**EVERYTHING, bus_bytes=64), workload).policies["auto"]
    rest = [cost for cost in auto.gemms if "products" not in cost.item.gemm.layer_class]
    assert sum(cost.item.macs for cost in rest) / 4096 / sum(cost.total_cycles for cost in rest) > 0.9
    scores = next(cost for cost in auto.gemms if cost.item.gemm.kind == "forward_scores")
    assert scores.bound == "store"
    assert scores.utilization < 0.2


def test_sharing_x_saves_traffic_step_by_step(key_value: Workload) -> None:
    variants = key_value_variants(SimulateSettings().machine(), key_value)
    traffic = [variant.dram_bytes for variant in variants]
    assert traffic[1] < traffic[0] and traffic[3] < traffic[2] and traffic[5] < traffic[4] < traffic[3]
    assert variants[2].cycles < variants[0].cycles
    assert [variant.expressible for variant in variants] == [True] * 4 + [False] * 2
    # The text is 77 x 768 bytes, loaded once instead of at least once for each of 64 GEMMs.
    assert traffic[0] - traffic[1] > 63 * 77 * 768


def test_the_compiler_emits_programs_that_load_x_once() -> None:
    """Projections of the same x, tiled to keep it: the second instruction reuses A, and the emulator reads that much less."""
    config = ArrayConfig()
    with EmulatorDevice(config, capacity_bytes=1 << 24) as device:

        def matrix(rows: int, cols: int, dtype: ElementType) -> DeviceMatrix:
            buffer = device.allocate(matrix_bytes(rows, cols, dtype, 16))
            return DeviceMatrix(buffer, 0, rows, cols, row_stride(cols, dtype, 16), dtype)

        x = matrix(77, 768, ElementType.INT8)
        x.write(np.ones((77, 768), np.int8))
        builder = ProgramBuilder(config)
        for width in (320, 640, 1280):
            weight, y = matrix(width, 768, ElementType.INT8), matrix(77, width, ElementType.INT32)
            weight.write(np.full((width, 768), 2, np.int8))
            tiling = choose_tiling(config, 77, width, 768, transpose_b=True, result=Result.INT32, keep_a=True)
            builder.gemm(x, weight, y, transpose_b=True, tiling=tiling)
        program = builder.build()
        ops = [decode(program.code[i : i + INSTRUCTION_BYTES]) for i in range(0, len(program.code), INSTRUCTION_BYTES)]
        assert [op.reuse_a for op in ops if isinstance(op, Gemm)] == [False, True, True]
        status = device.run(program)
        assert status.counters.input_words == 77 * 768 // 16
        assert (y.read() == 2 * 768).all()


def test_an_a_that_is_too_large_cannot_be_kept() -> None:
    with pytest.raises(ValueError, match="does not fit the input memory as one tile"):
        choose_tiling(ArrayConfig(), 4096, 320, 320, keep_a=True)


def test_settings_name_the_array() -> None:
    config = SimulateSettings(board="ultra96v2", dram_gbps=4.0).array_config()
    assert (config.board, config.dram_gbps) == ("ultra96v2", 4.0)
    changed = SimulateSettings(board="ultra96v2", rows=32).array_config()
    assert (changed.rows, changed.board) == (32, "")
    assert SimulateSettings(rows=8, cols=8, clock_mhz=100.0).array_config().peak_tops == pytest.approx(0.0128)
    with pytest.raises(ConfigError, match="no board 'nothing'"):
        SimulateSettings(board="nothing").array_config()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"technology": "3nm"}, "--technology '3nm': allowed are 45nm"),
        ({"compat": "gem5"}, "--compat 'gem5': allowed are scalesim"),
        ({"result": "int8"}, "--result 'int8': allowed are float32, bfloat16"),
        ({"in_flight": 0}, "--in-flight 0: it must be at least 1"),
        ({"latency_ns": -1.0}, "--latency-ns -1.0"),
        ({"compat": "scalesim", "trace": "x.json"}, "leave one of them out"),
    ],
)
def test_mistakes_are_named(changes: dict, text: str) -> None:
    with pytest.raises(UserError, match=re.escape(text)):
        run_simulate(replace(SimulateSettings(), **changes))


def test_a_step_that_is_too_large_for_whole_numbers_of_64_bits_is_refused(key_value: Workload) -> None:
    with pytest.raises(UserError, match=r"m = 274,877,906,944, .* give smaller sizes \(--batch, --resolution"):
        run_simulate(SimulateSettings(targets="all", batch=65536, resolution=16384))
    item = key_value.gemms[0]
    huge = replace(item, gemm=replace(item.gemm, op=replace(item.gemm.op, m=1 << 40)))
    with pytest.raises(
        UserError, match=r"a GEMM of m = 1,099,511,627,776, .* give smaller sizes \(--batch, --resolution"
    ):
        simulate_workload(SimulateSettings(), replace(key_value, gemms=(huge,)))


def test_report_and_trace_are_written(tmp_path: Path) -> None:
    html, trace = tmp_path / "report.html", tmp_path / "trace.json"
    done = run_simulate(SimulateSettings(html=str(html), trace=str(trace)))
    text = html.read_text()
    assert text.count("<svg") == text.count("</svg>") == 6
    assert not re.search(r"(src|href)=|https?://", text), "the report needs nothing from elsewhere"
    assert f"{done.policies['auto'].cycles:,}" in text
    events = json.loads(trace.read_text())["traceEvents"]
    last = max(event["ts"] + event["dur"] for event in events if event["ph"] == "X")
    assert last == pytest.approx(done.step_seconds() * 1e6, rel=1e-4)
    assert any("forward_base: down_blocks.0" in event["name"] for event in events)


def test_a_trace_ends_where_it_is_told_to(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    run_simulate(SimulateSettings(trace=str(trace), trace_events=50))
    events = json.loads(trace.read_text())["traceEvents"]
    assert sum(event["ph"] == "X" for event in events) == 50


def test_charts_escape_their_texts_and_scale_their_bars() -> None:
    chart = bar_chart([Bar("<a>", (2.0,), ("2 & 3",)), Bar("b", (1.0,), ("1",))], 2.0)
    assert "<a>" not in chart.replace("&lt;a&gt;", "") and "2 &amp; 3" in chart
    widths = [float(width) for width in re.findall(r'<rect class="s0"[^>]* width="([0-9.]+)"', chart)]
    assert widths[0] == pytest.approx(2 * widths[1], rel=0.01)
    dots = [Dot(10.0, 0.1, 1.0, 0, "low"), Dot(1000.0, 1.0, 0.2, 1, "high")]
    roof = roofline(dots, 1.6, [("memory", 19.2)], ["one", "two"])
    places = {
        note: (float(x), float(y)) for x, y, note in re.findall(r'cx="([\d.]+)" cy="([\d.]+)".*?<title>(\w+)', roof)
    }
    assert places["low"][0] < places["high"][0] and places["low"][1] > places["high"][1]


def _drawn_texts(chart: str) -> list[tuple[float, float, str]]:
    """Of each text its left and right end, by the width of its letters."""
    found = []
    for tag, text in re.findall(r"<text ([^>]*)>([^<]*)</text>", chart):
        x, width = float(re.search(r'x="([\d.]+)"', tag)[1]), 6.3 * len(text)  # type: ignore[index]
        shift = {"middle": width / 2, "end": width}.get((re.search('anchor="([a-z]+)"', tag) or "  ")[1], 0.0)
        found.append((x - shift, x - shift + width, text))
    return found


def test_charts_are_as_narrow_as_a_phone_and_no_text_leaves_them(everything: Workload) -> None:
    done = simulate_workload(SimulateSettings(**EVERYTHING), everything)
    page = render_report(done)
    charts = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(charts) == 6
    for chart in charts:
        assert 'viewBox="0 0 440 ' in chart, "at 420 pixels the text of 11 is still one of 10"
        for left, right, text in _drawn_texts(chart):
            assert left >= -2 and right <= 442, text
    assert "e+0" not in page


def test_a_long_name_in_a_chart_is_shortened_and_all_there_in_its_note() -> None:
    name = "".join(f"layer{index}." for index in range(30))
    chart = bar_chart([Bar(name, (1.0,), ("1",))], 1.0, [name])
    roof = roofline([Dot(10.0, 0.1, 1.0, 0, "low")], 1.6, [("memory", 19.2)], [name])
    for drawn in (chart, roof):
        assert all(right <= 442 for _, right, _ in _drawn_texts(drawn))
        assert "layer0." in drawn and "layer29." in drawn
    assert f"<title>{name}: 1</title>" in chart


def test_each_line_of_the_roofline_is_named_by_a_sample_of_itself() -> None:
    dots = [Dot(10.0, 0.1, 1.0, 0, "low")]
    roof = roofline(dots, 1.6, [("memory", 19.2), ("ports", 9.6)], ["one"])
    names = re.findall(r'<line class="(roof r\d)"[^>]*/>\n?<text[^>]*>([^<]*)</text>', roof)
    assert names == [("roof r0", "memory"), ("roof r1", "ports")]
    lines = dict(re.findall(r'<polyline class="(roof r\d)".*?<title>(\w+)</title>', roof))
    assert lines == dict(names)


def test_the_tables_stand_in_80_columns_with_nothing_cut(
    everything: Workload, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = simulate_workload(SimulateSettings(**EVERYTHING), everything)
    print_simulation(done, make_console())
    text = capsys.readouterr().out
    assert "\u2026" not in text and "forward_context" in text
    tables = text[text.index("dataflow") : text.index("step:")]
    assert all(len(line) <= 80 for line in tables.splitlines())
    assert f"{done.policies['auto'].cycles / 1e6:,.2f}" in tables


@pytest.mark.parametrize("option", ["html", "trace"])
def test_results_go_over_our_own_files_and_over_no_other(tmp_path: Path, option: str) -> None:
    for kind in ("thesis", "folder", "file/below", "device"):
        path = tmp_path / kind
        if kind == "thesis":
            path.write_text("mine")
        elif kind == "folder":
            path.mkdir()
        elif kind == "device":
            path = Path("/dev/null")
        else:
            path.parent.write_text("mine")
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(UserError, match=f"--{option} {path}: "):
            run_simulate(replace(SimulateSettings(), **{option: str(path)}))
        assert sorted(tmp_path.rglob("*")) == before and not Path("/dev/null").is_file()
    assert (tmp_path / "thesis").read_text() == (tmp_path / "file").read_text() == "mine"
    ours = tmp_path / "new" / "result"
    for _ in range(2):
        run_simulate(replace(SimulateSettings(trace_events=20), **{option: str(ours)}))
    assert ours.stat().st_size > 500


def test_the_page_names_only_rows_that_have_both_gains() -> None:
    rows = [
        Gain("one", "all", {"ws": 128, "os": 126, "auto": 100}),
        Gain("other", "kv", {"ws": 155, "os": 108, "auto": 100}),
    ]
    assert like_the_paper(rows) == ["one, all (1.28 and 1.26)"]


def test_the_page_says_that_no_row_has_both_gains_of_the_paper_two_sided() -> None:
    """0.28 over weight-stationary is 127 % of the paper's 0.22: too much to be called the same."""
    far = Gain("far", "kv", {"ws": 155, "os": 108, "auto": 100})
    near = Gain("near", "all", {"ws": 128, "os": 126, "auto": 100})
    assert near.shares == pytest.approx((0.28 / 0.22, 0.26 / 0.27)) and near.distance == pytest.approx(0.06 / 0.22)
    assert two_sided([far, near]) == [] and like_the_paper([far, near]) == [str(near)]
    text = verdict([far, near])
    assert text.startswith("No row has both gains of the paper.")
    assert "nearest row is near, all (1.28 and 1.26)" in text and "127% and 96% of the paper's" in text
    same = Gain("same", "all", {"ws": 120, "os": 131, "auto": 100})
    assert two_sided([far, near, same]) == ["same, all (1.20 and 1.31)"]
    assert verdict([far, same]).startswith("Rows in which both are the paper's: same, all (1.20 and 1.31).")


@pytest.mark.slow
def test_docs_are_what_the_model_says() -> None:
    assert render_page() == PAGE.read_text(), "renew it: python -m systolora.cost.performance_page docs/performance.md"
