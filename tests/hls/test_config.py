"""One configuration: what it allows, what follows from it, and what its fingerprint depends on."""

from __future__ import annotations

from math import gcd

import pytest
from hypothesis import given
from hypothesis import strategies as st
from systolora.hls.boards import BOARD_TABLE, board_of
from systolora.hls.check import input_words, weight_words
from systolora.hls.config import BOARDS, MAX_K, ArrayConfig, ConfigError, board_config, fitted_config
from systolora.hls.isa import Dataflow


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"rows": 3}, "rows = 3: allowed are 4 to 256; give --rows in that range"),
        ({"cols": 257}, "cols = 257: allowed are 4 to 256"),
        ({"bus_bytes": 12}, "bus_bytes = 12: allowed are 4, 8, 16, 32 and 64"),
        ({"input_bytes": 1000}, "input_bytes = 1000: two halves of whole words.*the next larger is 2048"),
        ({"weight_bytes": 512 * 1024 + 1}, "weight_bytes = 524289: .*the next larger is 524416"),
        ({"output_bytes": 0}, "output_bytes = 0: .*at least 8192; the next larger is 8192"),
        ({"rows": 4, "input_bytes": 2 * 4 * 65537}, "65536"),
        ({"clock_mhz": 0.5}, "clock_mhz = 0.5: allowed are 1 to 1000"),
        ({"dram_gbps": 0}, "dram_gbps = 0: it must be positive"),
        ({"quantize_lanes": 3}, "quantize_lanes = 3: allowed with 64 columns and a bus of 16 bytes are 0, 1, 2, 4, 8 "),
        ({"epilogue_lanes": 16}, "epilogue_lanes = 16: .* a bus word holds at most 8 values.; 0 takes the rule, 8"),
        ({"quantize_lanes": 8, "cols": 4}, "quantize_lanes = 8: allowed with 4 columns .* are 0, 1, 2, 4 "),
        ({"output_ports": 3}, "output_ports = 3: allowed are 1 and 2"),
        ({"port_mhz": 0.5}, "port_mhz = 0.5: allowed are 1 to 1000, and 0 for the array's clock"),
        ({"port_mhz": float("nan")}, "port_mhz = nan: allowed are"),
        ({"max_instructions": 0}, "max_instructions = 0: allowed are 1 to 16777216"),
    ],
)
def test_what_cannot_be_built_is_refused(changes: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        ArrayConfig().with_changes(**changes)


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_ports_that_a_board_cannot_carry_are_refused(name: str) -> None:
    """A wider port needs to be told the clock of the processor's, which is limited; whether that clock is fast is the model's business."""
    wide = board_config(name).with_changes(bus_bytes=32, port_mhz=0.0)
    with pytest.raises(
        ConfigError,
        match="bus_bytes = 32: .* 16 bytes in each clock of its own; give that clock, --port-mhz up to 333,",
    ):
        board_of(wide)
    with pytest.raises(
        ConfigError, match="port_mhz = 350, .*: memory ports of .* take 333.33 MHz at most; give --port-mhz 300"
    ):
        board_of(wide.with_changes(port_mhz=350.0))
    with pytest.raises(
        ConfigError, match="clock_mhz = 400: memory ports .* give --port-mhz 300 .0 is the array's clock"
    ):
        board_of(wide.with_changes(bus_bytes=16, clock_mhz=400.0, quantize_lanes=0, epilogue_lanes=0))
    assert board_of(wide.with_changes(board="", part="")) is None
    for mhz in (100.0, 300.0, 1000 / 3):
        assert board_of(wide.with_changes(port_mhz=mhz)) is BOARD_TABLE[name]


@pytest.mark.parametrize(
    ("bus", "clock", "port", "sustained", "own"),
    [
        (32, 166.67, 300.0, 1.8 * 16, True),
        (32, 250.0, 300.0, 19.2, True),
        (32, 250.0, 250.0, 16, False),  # equal clocks: exactly the processor's width
        (32, 250.0, 200.0, 12.8, True),
        (32, 125.0, 300.0, 32, True),  # no more than the array's port has
        (16, 250.0, 300.0, 16, False),
        (16, 400.0, 300.0, 12, True),
        (8, 125.0, 0.0, 8, False),
        (64, 200.0, 0.0, 64, False),  # no processor behind it
    ],
)
def test_what_a_port_sustains(bus: int, clock: float, port: float, sustained: float, own: bool) -> None:
    config = ArrayConfig(bus_bytes=bus, clock_mhz=clock, port_mhz=port)
    assert config.port_bytes == pytest.approx(sustained, rel=1e-4)
    assert config.has_port_clock == own


@pytest.mark.parametrize(
    "changes",
    [{"rows": 4}, {"cols": 256}, {"rows": 7, "input_bytes": 14 * 64}, {"bus_bytes": 64}, {"max_instructions": 1 << 24}],
)
def test_the_limits_themselves_are_allowed(changes: dict[str, object]) -> None:
    assert ArrayConfig().with_changes(**changes)


@pytest.mark.parametrize("dataflows", [(), ("os",), ("ws", "is"), ("ws", "ws")])
def test_only_dataflows_that_can_be_built(dataflows: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="dataflows = .*: allowed are ws and os,ws; output-stationary alone"):
        ArrayConfig(dataflows=dataflows)


def test_dataflows_have_no_order() -> None:
    """A manifest gives them back as a list."""
    assert ArrayConfig(dataflows=["ws", "os"]) == ArrayConfig()  # type: ignore[arg-type]
    assert ArrayConfig().output_stationary and not ArrayConfig(dataflows=("ws",)).output_stationary


@pytest.mark.parametrize(
    ("rows", "bus", "chain", "groups", "band", "standing"),
    [(4, 16, 4, 1, 4, 4), (7, 16, 4, 2, 4, 4), (8, 16, 8, 1, 8, 8), (17, 16, 8, 3, 8, 16), (24, 16, 8, 3, 8, 24)]
    + [(32, 8, 8, 4, 16, 32), (48, 16, 8, 6, 16, 48), (64, 32, 8, 8, 32, 64), (250, 64, 8, 32, 8, 248)],
)
def test_chains_and_bands(rows: int, bus: int, chain: int, groups: int, band: int, standing: int) -> None:
    config = ArrayConfig(rows=rows, bus_bytes=bus, input_bytes=2 * rows * 4096)
    assert (config.chain, config.groups, config.band_rows, config.stationary_rows) == (chain, groups, band, standing)
    # A segment of the input memory never crosses a band, and a bus word is whole parts of one.
    assert config.band_rows % config.input_segment == 0


def test_derived_sizes() -> None:
    config = ArrayConfig(rows=24, cols=40, input_bytes=48 * 100, weight_bytes=80 * 50, output_bytes=320 * 20)
    assert (config.input_depth, config.weight_depth, config.output_depth) == (100, 50, 20)
    assert config.quantize_limit == 800
    assert (config.input_segment, config.weight_segment) == (8, 8)
    assert config.peak_tops == pytest.approx(2 * 24 * 40 * 200e6 / 1e12)


@pytest.mark.parametrize(
    ("rows", "cols", "bus_bytes", "lanes"),
    [
        (32, 48, 16, 8),
        (64, 64, 16, 8),  # one for 256 PEs would be 16: more than a bus word holds
        (64, 64, 32, 16),
        (64, 96, 64, 16),  # 24 is no power of two
        (16, 8, 8, 4),
        (8, 12, 16, 4),
        (64, 7, 16, 1),
    ],
)
def test_lanes_by_rule(rows: int, cols: int, bus_bytes: int, lanes: int) -> None:
    config = fitted_config(ArrayConfig(), {"rows": rows, "cols": cols, "bus_bytes": bus_bytes})
    assert (config.quantize_width, config.epilogue_width) == (lanes, lanes)
    assert config.output_segment == min(lanes, bus_bytes // 4)
    said = config.with_changes(quantize_lanes=lanes, epilogue_lanes=lanes)
    assert said.fingerprint == config.fingerprint, "the same hardware"


def test_lanes_of_a_preset_are_cut_to_what_another_array_can_have() -> None:
    base = ArrayConfig(bus_bytes=32, quantize_lanes=16, epilogue_lanes=8)
    assert fitted_config(base, {"cols": 40}).with_changes(board="") == fitted_config(
        base, {"cols": 40, "quantize_lanes": 8, "epilogue_lanes": 8}
    )
    assert fitted_config(base, {"bus_bytes": 8}).quantize_lanes == 4
    assert fitted_config(ArrayConfig(), {"cols": 40}).quantize_lanes == 0
    with pytest.raises(ConfigError, match="quantize_lanes = 16: allowed with 40 columns"):
        fitted_config(base, {"cols": 40, "quantize_lanes": 16})


def test_the_longest_contraction_is_the_longest_that_cannot_overflow() -> None:
    assert MAX_K * 2**14 <= 2**31 - 1 < (MAX_K + 1) * 2**14


def test_the_fingerprint_depends_on_the_hardware_and_on_nothing_else() -> None:
    config = ArrayConfig()
    hardware = {
        "rows": 32,
        "cols": 32,
        "input_bytes": 256 * 1024,
        "weight_bytes": 256 * 1024,
        "output_bytes": 512 * 1024,
        "quantize_lanes": 4,
        "epilogue_lanes": 2,
        "bus_bytes": 32,
        "output_ports": 2,
        "packed_dsp": False,
        "dataflows": ("ws",),
        "max_instructions": 100,
    }
    prints = {config.with_changes(**{name: value}).fingerprint for name, value in hardware.items()}
    assert len(prints) == len(hardware)
    assert config.fingerprint not in prints
    for name, value in {
        "board": "mine",
        "part": "xc7z020",
        "clock_mhz": 100.0,
        "port_mhz": 300.0,
        "dram_gbps": 1.0,
    }.items():
        assert config.with_changes(**{name: value}).fingerprint == config.fingerprint
    assert {*hardware, "board", "part", "clock_mhz", "port_mhz", "dram_gbps"} == set(ArrayConfig.__dataclass_fields__)


def test_the_fingerprint_is_the_same_in_every_process() -> None:
    assert ArrayConfig().fingerprint_text == f"{ArrayConfig().fingerprint:08x}"
    assert 0 <= ArrayConfig().fingerprint < 2**32
    assert ArrayConfig(rows=64).fingerprint == ArrayConfig().fingerprint


@pytest.mark.parametrize("name", ["kv260", "KV260", "Ultra96-V2", "rfsoc_4x2", "zcu104"])
def test_presets_by_name(name: str) -> None:
    config = board_config(name)
    assert config is BOARDS[config.board]
    assert config.part


def test_an_unknown_board_lists_those_that_exist() -> None:
    with pytest.raises(ConfigError, match="no board 'pynq-z9': there are kr260, kv260.*or give --rows and --cols"):
        board_config("pynq-z9")


@given(st.integers(4, 256), st.integers(4, 256), st.sampled_from([4, 8, 16, 32, 64]), st.integers(0, 500))
def test_every_size_in_range_can_be_built(rows: int, cols: int, bus: int, more: int) -> None:
    """The least memories hold the least tile, bus x bus, in both dataflows; so every GEMM can be tiled."""
    lanes = min(rows, cols)
    # Output-stationary A's tile takes whole bands, so a little more where bands do not fill the rows.
    chain = 8 if rows >= 8 else 4
    band = max(chain, gcd(rows, max(16, bus)))
    bands = -(-bus // (rows // band * band)) * -(-bus // band) * band
    depth = max(16, -(-bus // lanes) * bus, bands) + more
    config = ArrayConfig(
        rows=rows,
        cols=cols,
        bus_bytes=bus,
        input_bytes=2 * rows * depth,
        weight_bytes=2 * cols * depth,
        output_bytes=8 * cols * depth,
    )
    assert config.input_depth == config.weight_depth == config.output_depth == depth
    for dataflow in Dataflow:
        assert input_words(config, dataflow, bus, bus) <= config.input_depth
    assert weight_words(config, bus, bus) <= min(config.weight_depth, config.output_depth)
