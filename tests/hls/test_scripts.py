"""The scripts run in a plain tclsh whose vendor commands are recorded: no vendor tool is at hand."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from systolora.hls import BOARDS, ArrayConfig, ConfigError, board_config
from systolora.hls.boards import BOARD_TABLE, pl_clock
from systolora.hls.config import fitted_config
from systolora.hls.design import memory_ports
from systolora.hls.generate import GOLDEN_FILE, render_project
from systolora.hls.regmap import predict_map
from systolora.hls.scripts import ProjectFiles, missing_scripts, render_scripts

RECORDER = Path(__file__).with_name("vendor_recorder.tcl")
MET = "| Design Timing Summary\n\nAll user specified timing constraints are met.\n"
FILES = ProjectFiles(sources=("src/top.cpp", "src/second.cpp"), testbench=("tb/testbench.cpp", "tb/golden.hpp"))

needs_tclsh = pytest.mark.skipif(shutil.which("tclsh") is None, reason="tclsh is not installed (apt install tcl)")


def make_project(folder: Path, config: ArrayConfig) -> Path:
    for path, text in render_scripts(config, FILES).items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    core = "systolora_hls/solution/impl/ip"
    left = (f"{core}/component.xml", f"{core}/drivers/systolora_top_v1_0/src/xsystolora_top_hw.h")
    for path in (*FILES.sources, *FILES.testbench, *left, "systolora_hls/solution/syn/report/csynth.xml"):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    return folder


def run_script(
    project: Path, script: str, config: ArrayConfig, steps: str | None = None, **scenario: str
) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    board = BOARD_TABLE.get(config.board)
    values = {
        "masters": " ".join(port.master for port in memory_ports()),
        "high": str(int(board is not None and board.dram_mb > 2048)),
        "board_parts": "vendor.com:board:part0:1.0 vendor.com:board:part0:1.10 vendor.com:board:part0:1.9",
        "timing": MET,
        "progress": "100%",
        "clock": str(pl_clock(config).mhz),
        "port_clock": str(config.port_mhz),
        "port_taken": str(config.port_mhz),
        "port_bits": str(8 * config.bus_bytes),
        **scenario,
    }
    record = project / "record.txt"
    arguments = [item for pair in values.items() for item in pair]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SYSTOLORA_")}
    if steps is not None:
        environment["SYSTOLORA_STEPS"] = steps
    done = subprocess.run(
        ["tclsh", str(RECORDER), str(project / script), str(record), *arguments],
        capture_output=True, text=True, env=environment, cwd=project, timeout=60,
    )  # fmt: skip
    return done, read_record(record)


def read_record(record: Path) -> list[list[str]]:
    """Each recorded call as the list of its words, taken apart by Tcl itself."""
    program = "set f [open [lindex $argv 0]]; while {[gets $f line] >= 0} {puts [join $line \\x1f]}"
    text = subprocess.run(
        ["tclsh", "/dev/stdin", str(record)], input=program, capture_output=True, text=True, check=True
    ).stdout
    return [line.split("\x1f") for line in text.splitlines()]


def calls_of(calls: list[list[str]], command: str) -> list[list[str]]:
    return [call[1:] for call in calls if call[0] == command]


@needs_tclsh
@pytest.mark.parametrize("name", sorted(BOARDS))
def test_tcl_is_complete(tmp_path: Path, name: str) -> None:
    project = make_project(tmp_path, board_config(name))
    for script in ("scripts/run_hls.tcl", "vivado/build.tcl"):
        check = "set f [open [lindex $argv 0]]; puts [info complete [read $f]]"
        done = subprocess.run(
            ["tclsh", "/dev/stdin", str(project / script)], input=check, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "1"


@needs_tclsh
def test_hls_script_names_part_top_and_files(tmp_path: Path) -> None:
    config = board_config("kv260")
    project = make_project(tmp_path, config)
    done, calls = run_script(project, "scripts/run_hls.tcl", config)
    assert done.returncode == 0, done.stderr
    assert calls_of(calls, "set_part") == [[config.part]]
    assert calls_of(calls, "set_top") == [["systolora_top"]]
    assert calls_of(calls, "create_clock")[0][1] == "6.000"
    added = calls_of(calls, "add_files")
    design = [call[0] for call in added if call[0] != "-tb"]
    bench = [call[1] for call in added if call[0] == "-tb"]
    assert design == [str(project / file) for file in FILES.sources]
    assert bench == [str(project / file) for file in FILES.testbench]
    assert all(Path(file).exists() for file in design + bench)
    assert ["-m_axi_addr64=1"] in calls_of(calls, "config_interface")
    assert ["-s_axilite_sw_reset"] in calls_of(calls, "config_interface")
    order = [call[0] for call in calls if call[0] in ("csim_design", "csynth_design", "cosim_design", "export_design")]
    assert order == ["csim_design", "csynth_design", "export_design"]


@needs_tclsh
@pytest.mark.parametrize(
    ("steps", "expected"),
    [("csim", ["csim_design"]), ("csynth", ["csynth_design"]), ("cosim", ["csynth_design", "cosim_design"])],
)
def test_hls_steps(tmp_path: Path, steps: str, expected: list[str]) -> None:
    config = board_config("zcu104")
    done, calls = run_script(make_project(tmp_path, config), "scripts/run_hls.tcl", config, steps=steps)
    assert done.returncode == 0, done.stderr
    assert [call[0] for call in calls if call[0].endswith("_design")] == expected


@needs_tclsh
def test_hls_script_refuses_unknown_step_and_missing_file(tmp_path: Path) -> None:
    config = board_config("zcu104")
    project = make_project(tmp_path, config)
    done, _ = run_script(project, "scripts/run_hls.tcl", config, steps="synth")
    assert done.returncode == 1
    assert "allowed are csim, csynth, cosim and export" in done.stderr
    (project / "src/second.cpp").unlink()
    done, calls = run_script(project, "scripts/run_hls.tcl", config)
    assert done.returncode == 1
    assert "second.cpp is missing" in done.stderr
    assert not calls_of(calls, "open_project")


@needs_tclsh
@pytest.mark.parametrize("name", sorted(BOARDS))
def test_block_design(tmp_path: Path, name: str) -> None:
    """`pin` and `bus` of the script fail on a pin that its core does not have, so that a passing run has connected only
    pins that exist."""
    config = board_config(name)
    board = BOARD_TABLE[name]
    project = make_project(tmp_path, config)
    done, calls = run_script(project, "vivado/build.tcl", config)
    assert done.returncode == 0, done.stderr
    assert calls_of(calls, "create_project")[0][-1] == config.part
    assert ["board_part", "vendor.com:board:part0:1.10", "current_project"] in calls_of(calls, "set_property")
    assert calls_of(calls, "get_board_parts") == [["-quiet", board.board_part]]
    nets = [set(call) for call in calls_of(calls, "connect_bd_net")]
    assert {"systolora_top_0/interrupt", "interrupt_concat/In0"} in nets
    assert {"interrupt_concat/dout", "axi_intc_0/intr"} in nets
    assert {"axi_intc_0/irq", "zynq_ultra_ps_e_0/pl_ps_irq0"} in nets
    constants = [call[1] for call in calls_of(calls, "set_property") if call[0] == "-dict" and "CONST_VAL" in call[1]]
    assert any(f"0x{config.fingerprint_text}" in text for text in constants)
    assert any("0x53595354" in text for text in constants)
    assert (project / f"bitstreams/{name}/systolora.bit").read_text() == "bits\n"
    assert (project / f"bitstreams/{name}/systolora.hwh").read_text() == "handoff\n"
    assert (project / f"bitstreams/{name}/xsystolora_top_hw.h").exists()
    assert (project / f"bitstreams/{name}/reports/csynth.xml").exists()
    build = json.loads((project / f"bitstreams/{name}/build.json").read_text())
    assert build == {"vivado": "2024.1", "fingerprint": config.fingerprint_text, "wns_ns": -0.25}
    assert "validate_bd_design" in [call[0] for call in calls]


@needs_tclsh
@pytest.mark.parametrize("name", sorted(BOARDS))
def test_every_pin_that_must_be_driven_is(tmp_path: Path, name: str) -> None:
    _, calls = run_script(make_project(tmp_path, board_config(name)), "vivado/build.tcl", board_config(name))
    connected = {pin for call in calls_of(calls, "connect_bd_net") for pin in call}
    buses = [pin for call in calls_of(calls, "connect_bd_intf_net") for pin in call]
    assert len(buses) == len(set(buses)), "a bus is connected twice"
    for port in memory_ports(board_config(name).output_ports):
        assert f"systolora_top_0/{port.master}" in buses
        assert f"zynq_ultra_ps_e_0/{port.slave}" in buses
        assert f"zynq_ultra_ps_e_0/{port.clock}" in connected
    cells = {call[-1]: call[3] for call in calls_of(calls, "create_bd_cell")}
    clocks = {
        "smartconnect": ("aclk", "aresetn"),
        "clk_wiz": ("clk_in1", "reset", "locked"),
        "c_counter_binary": ("CLK", "SCLR"),
        "axi_intc": ("s_axi_aclk", "s_axi_aresetn"),
    }
    clocks |= {"axi_gpio": clocks["axi_intc"], "systolora_top": ("ap_clk", "ap_rst_n")}
    for cell, vlnv in cells.items():
        for pin in clocks.get(vlnv.split(":")[2], ()):
            assert f"{cell}/{pin}" in connected


FAST_PORTS = board_config("zcu102").with_changes(bus_bytes=32, port_mhz=300.0, output_ports=2)


@needs_tclsh
def test_ports_with_a_clock_of_their_own(tmp_path: Path) -> None:
    """The core, registers and one side of each SmartConnect run with PL0; the processor's ports and the other side with the MMCM's clock."""
    done, calls = run_script(make_project(tmp_path, FAST_PORTS), "vivado/build.tcl", FAST_PORTS)
    assert done.returncode == 0, done.stderr
    nets = calls_of(calls, "connect_bd_net")
    driven = {
        kind: {pin for source, pin in nets if source == kind}
        for kind in ("zynq_ultra_ps_e_0/pl_clk0", "port_clock/clk_out1")
    }
    slow, fast = driven.values()
    assert fast == {
        pin
        for port in memory_ports(FAST_PORTS.output_ports)
        for pin in (f"zynq_ultra_ps_e_0/{port.clock}", f"{port.argument}_connect/aclk1")
    }
    assert {f"{port.argument}_connect/aclk" for port in memory_ports()} < slow
    assert {
        "systolora_top_0/ap_clk",
        "port_clock/clk_in1",
        "port_clock_unlocked/CLK",
        "reset_0/slowest_sync_clk",
    } < slow
    assert not slow & fast
    # Nothing leaves reset without the lock, and the MMCM is reset as long as there is none.
    assert ["port_clock/locked", "reset_0/dcm_locked"] in nets
    assert ["port_clock/locked", "port_clock_unlocked/SCLR"] in nets
    assert ["port_clock_again/Dout", "port_clock/reset"] in nets
    wizard = next(call[1] for call in calls_of(calls, "set_property") if call[-1] == "port_clock")
    assert "CONFIG.CLKOUT1_REQUESTED_OUT_FREQ 300.0 " in wizard
    assert "CONFIG.PRIM_IN_FREQ 249.9975 " in wizard
    widths = [
        call[1] for call in calls_of(calls, "set_property") if call[-1].endswith("_connect") and "NUM_CLKS 2" in call[1]
    ]
    assert len(widths) == len(memory_ports())


@pytest.mark.parametrize(("count", "program"), [(1, "HP2"), (2, "HPC0")])
def test_no_two_busy_ports_share_one_of_the_memory_controller(count: int, program: str) -> None:
    """HP1 and HP2 do (UG1085). The port of programs is busy if odd rows of results go through it."""
    ports = {port.argument: port.name for port in memory_ports(count)}
    assert ports["memory_program"] == program
    assert len(set(ports.values())) == len(ports)
    busy = set(ports.values()) - ({program} if count == 1 else set())
    assert not busy >= {"HP1", "HP2"}


@needs_tclsh
@pytest.mark.parametrize("changes", [{}, {"port_mhz": 300.0}, {"bus_bytes": 32, "port_mhz": 250.0}])
def test_one_clock_where_another_brings_nothing(tmp_path: Path, changes: dict[str, float]) -> None:
    config = fitted_config(board_config("kv260"), {"clock_mhz": 250.0, **changes})
    done, calls = run_script(make_project(tmp_path, config), "vivado/build.tcl", config)
    assert done.returncode == 0, done.stderr
    assert not [call for call in calls_of(calls, "create_bd_cell") if "clk_wiz" in call[3]]


@needs_tclsh
@pytest.mark.parametrize(
    ("scenario", "message"),
    [
        (
            {"port_clock": "291.6"},
            "the memory ports would run at 291.6 MHz instead of 300.0: generate with another --port-mhz",
        ),
        (
            {"port_taken": "249.9975"},
            "zynq_ultra_ps_e_0/S_AXI_HPC0_FPD would run at 249.9975 MHz, not with the ports' clock, 300.0",
        ),
        ({"port_bits": "128"}, "systolora_top_0/m_axi_memory_program is 128 bits wide instead of 256"),
    ],
)
def test_what_vivado_took_of_the_ports_is_checked(tmp_path: Path, scenario: dict[str, str], message: str) -> None:
    done, calls = run_script(make_project(tmp_path, FAST_PORTS), "vivado/build.tcl", FAST_PORTS, **scenario)
    assert done.returncode == 1
    assert message in done.stderr
    assert not calls_of(calls, "launch_runs")


@needs_tclsh
@pytest.mark.parametrize("name", sorted(BOARDS))
def test_address_map(tmp_path: Path, name: str) -> None:
    _, calls = run_script(make_project(tmp_path, board_config(name)), "vivado/build.tcl", board_config(name))
    assigned = calls_of(calls, "assign_bd_address")
    memory = {(call[1], call[2]) for call in assigned if call[0] == "-target_address_space"}
    halves = ("LOW", "HIGH") if BOARD_TABLE[name].dram_mb > 2048 else ("LOW",)
    assert memory == {
        (f"systolora_top_0/Data_{port.master}", f"zynq_ultra_ps_e_0/SAXIGP{port.slot}/{port.name}_DDR_{half}")
        for port in memory_ports(board_config(name).output_ports)
        for half in halves
    }
    registers = {call[-1]: int(call[1], 16) for call in assigned if call[0] == "-offset"}
    assert registers == {
        "systolora_top_0/s_axi_control/Reg": 0xA0000000,
        "axi_intc_0/s_axi/Reg": 0xA0010000,
        "systolora_id/S_AXI/Reg": 0xA0020000,
    }


@needs_tclsh
def test_failing_timing_delivers_nothing(tmp_path: Path) -> None:
    config = board_config("kv260")
    project = make_project(tmp_path, config)
    done, _ = run_script(project, "vivado/build.tcl", config, timing="Timing constraints are not met.")
    assert done.returncode == 1
    assert "timing is not met (worst slack -0.250 ns)" in done.stderr
    assert not list(project.glob("bitstreams/**/*.bit"))


@needs_tclsh
@pytest.mark.parametrize(
    ("scenario", "message"),
    [
        ({"board_parts": ""}, "Vivado knows no board part"),
        ({"progress": "42%"}, "implementation did not finish: route_design ERROR"),
        ({"high": "0"}, "expected one segment zynq_ultra_ps_e_0/SAXIGP4/HP2_DDR_HIGH, found 0"),
        ({"clock": "199.998"}, "PL0 would run at 199.998 MHz instead of 166.665: the board's I/O PLL does not give it"),
        ({"masters": "m_axi_gmem"}, "expected one bus systolora_top_0/m_axi_memory_program, found 0"),
    ],
)
def test_vivado_failures_are_told(tmp_path: Path, scenario: dict[str, str], message: str) -> None:
    config = board_config("kv260")
    done, _ = run_script(make_project(tmp_path, config), "vivado/build.tcl", config, **scenario)
    assert done.returncode == 1
    assert message in done.stderr


@needs_tclsh
def test_vivado_needs_the_exported_core(tmp_path: Path) -> None:
    config = board_config("kv260")
    project = make_project(tmp_path, config)
    (project / "systolora_hls/solution/impl/ip/component.xml").unlink()
    done, calls = run_script(project, "vivado/build.tcl", config)
    assert done.returncode == 1
    assert "run ./build.sh export first" in done.stderr
    assert calls == []


def test_config_file_names_files_that_exist(tmp_path: Path) -> None:
    config = board_config("rfsoc4x2")
    project = make_project(tmp_path, config)
    lines: dict[str, list[str]] = {}

    class Keep(dict):  # type: ignore[type-arg]
        def __setitem__(self, key: str, value: object) -> None:
            if isinstance(value, list) and value and isinstance(value[0], str):
                lines.setdefault(key, []).append(value[0])
            super().__setitem__(key, value)

    parser = configparser.ConfigParser(strict=False, interpolation=None, dict_type=Keep)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string("[global]\n" + (project / "scripts/hls_config.cfg").read_text())
    assert parser["global"]["part"] == config.part
    assert parser["hls"]["syn.top"] == "systolora_top"
    assert parser["hls"]["clock"] == "4.000ns"
    names = lines["syn.file"] + lines["tb.file"]
    assert len(names) == 4
    assert all((project / "scripts" / name).exists() for name in names)


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_headers_say_what_was_not_run(name: str) -> None:
    scripts = render_scripts(board_config(name))
    for path in ("scripts/run_hls.tcl", "scripts/hls_config.cfg", "build.sh", "vivado/build.tcl"):
        assert "Not run here" in scripts[path].split("\n\n")[0], path


def test_default_files_are_those_that_the_generator_writes() -> None:
    files = ProjectFiles()
    rendered = set(render_project(board_config("kv260")))
    written = {*rendered, GOLDEN_FILE}
    assert {*files.sources, *files.testbench} <= written
    assert {path.split("/")[0] for path in rendered if path.endswith(".hpp")} == set(files.includes)
    assert set(render_scripts(board_config("kv260"))) <= rendered


def test_the_core_has_the_ports_that_the_design_connects() -> None:
    top = render_project(board_config("kv260"))["src/systolora_top.cpp"]
    for port in memory_ports():
        assert f"mode=m_axi port={port.argument} bundle={port.argument} " in top
    for name, (offset, _) in predict_map().arguments.items():
        assert f"mode=s_axilite port={name} bundle=control offset=0x{offset:02x}" in top


def test_without_a_board_there_is_no_vivado_script(tmp_path: Path) -> None:
    config = ArrayConfig(rows=8, cols=8)
    scripts = render_scripts(config)
    assert "vivado/build.tcl" not in scripts
    assert "stands in" in scripts["scripts/run_hls.tcl"]
    assert "generate with --board" in missing_scripts(config)
    assert missing_scripts(board_config("kv260")) == ""


def test_an_array_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"96 x 96 .* does not fit Kria KV260: it needs an estimated LUT [\d,]+ of"):
        render_scripts(
            board_config("kv260").with_changes(
                rows=96, cols=96, input_bytes=2 * 96 * 1024, weight_bytes=2 * 96 * 1024, output_bytes=2 * 384 * 256
            )
        )
