"""The generated code of every preset passes the project's own lint; one slip in it is found."""

from __future__ import annotations

from pathlib import Path

import pytest
from systolora.hls.config import BOARDS, ArrayConfig
from systolora.hls.generate import write_project
from systolora.sim.csim.golden import write_golden
from systolora.sim.lint.run import lint_folder

CONFIGS = {
    "default": ArrayConfig(),
    **BOARDS,
    "two output ports": ArrayConfig(bus_bytes=32, output_ports=2, port_mhz=300.0),
    "odd": ArrayConfig(rows=5, cols=7, input_bytes=8190, weight_bytes=8190, output_bytes=17920),
    "smallest memories": ArrayConfig(rows=16, cols=16, input_bytes=1024, weight_bytes=1024, output_bytes=4096),
}

TICK = "inline void tick(const SweepPlan &plan, Sweep &sweep)\n{\n#pragma HLS INLINE"


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_no_finding_in_the_generated_code(tmp_path: Path, name: str) -> None:
    write_project(CONFIGS[name], tmp_path)
    write_golden(CONFIGS[name], tmp_path)
    assert lint_folder(tmp_path) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "rule"),
    [
        ("array.hpp", "#pragma HLS PIPELINE II=1", "#pragma HLS PIPLINE II=1", "PRG"),
        ("array.hpp", "type=complete dim=1", "type=full dim=1", "PRG"),
        ("systolora_top.cpp", "#pragma HLS INTERFACE mode=s_axilite port=window_size", "// ", "IFC"),
        ("systolora_top.cpp", "bundle=memory_weight", "bundle=memory_input", "IFC09"),
        ("store.hpp", "memory.read_request(first, words);", "", "BRS01"),
        ("stored_input.hpp", "i < kAhead", "i < kRequestsInFlight + 1", "BRS04"),
        ("requests.hpp", "run.exists && run.words != 0", "run.exists", "BRS02"),
        ("store.hpp", "await_writes(memory, open);", "", "BRS03"),
        ("gemm.hpp", "a, memory_input, input_next", "a, memory_weight, input_next", "PAR01"),
        ("gemm.hpp", "output_done, counts.store", "output_now, counts.store", "PAR01"),
        ("gemm.hpp", "store(op, round.storing,", "if (round.storing.valid) store(op, round.storing,", "PAR01"),
        ("turn_input.hpp", "#pragma HLS BIND_STORAGE variable=ping type=ram_s2p impl=lutram", "", "MEM01"),
        ("turn_weight.hpp", "variable=pong type=ram_s2p impl=lutram", "variable=pong type=ram_s2p impl=bram", "MEM02"),
        (
            "store.hpp",
            "variable=factors.bias type=ram_s2p impl=lutram",
            "variable=factors.bias type=ram_s2p impl=auto",
            "MEM01",
        ),
        ("quantize.hpp", "#pragma HLS BIND_STORAGE variable=pong type=ram_s2p impl=bram", "", "MEM01"),
        ("compute.hpp", TICK, f"{TICK} off", "STA01"),
    ],
)
def test_one_slip_is_found(tmp_path: Path, file: str, old: str, new: str, rule: str) -> None:
    write_project(ArrayConfig(), tmp_path)
    write_golden(ArrayConfig(), tmp_path)
    source = tmp_path / "src" / file
    text = source.read_text()
    assert old in text
    source.write_text(text.replace(old, new, 1))
    assert any(finding.rule.startswith(rule) for finding in lint_folder(tmp_path))


def test_a_deep_ultraram_without_clocks_for_its_cascade_is_found(tmp_path: Path) -> None:
    write_project(BOARDS["kv260"], tmp_path)
    write_golden(BOARDS["kv260"], tmp_path)
    source = tmp_path / "src" / "systolora_top.cpp"
    text = source.read_text()
    assert "impl=uram latency=3" in text
    source.write_text(text.replace("impl=uram latency=3", "impl=uram latency=2", 1))
    assert [finding.rule for finding in lint_folder(tmp_path)] == ["MEM03"]


def test_a_progress_register_that_is_not_volatile_is_found(tmp_path: Path) -> None:
    write_project(ArrayConfig(), tmp_path)
    write_golden(ArrayConfig(), tmp_path)
    changed = [path for path in (tmp_path / "src").iterdir() if "volatile uint32_t &" in path.read_text()]
    assert {path.name for path in changed} == {"controller.hpp", "systolora_top.cpp", "systolora_top.hpp"}
    for path in changed:
        path.write_text(path.read_text().replace("volatile uint32_t &", "uint32_t &"))
    assert [finding.rule for finding in lint_folder(tmp_path)] == ["IFC10"]
