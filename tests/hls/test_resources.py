from __future__ import annotations

import dataclasses

import pytest
from systolora.hls import BOARDS, ArrayConfig, ConfigError, board_config
from systolora.hls.boards import BOARD_TABLE, board_of
from systolora.hls.budget import MARGIN, boards_table, fits, largest_array, require_fit
from systolora.hls.config import fitted_config
from systolora.hls.resources import KINDS, Resources, array_resources, estimate, memories, share

KB = 1024


def test_array_counts_are_those_of_the_pes() -> None:
    single = array_resources(ArrayConfig(packed_dsp=False, dataflows=("ws",)))
    assert single.dsp == 4096
    assert single.lut == 7 * 64 * 32 + 64 * 8, "an adder a column behind each group below the first, and the skew"
    packed = array_resources(ArrayConfig(dataflows=("ws",)))
    assert packed.dsp == 2048
    assert packed.lut == single.lut + 9 * 32
    both = array_resources(ArrayConfig())
    assert both.dsp == 2048
    assert 2 * packed.lut < both.lut < 16 * 4096, (
        "output-stationary costs more than it adds to, and all is below 16 LUT a PE"
    )
    odd = array_resources(ArrayConfig(rows=4, cols=5, input_bytes=16 * KB, weight_bytes=10 * KB, output_bytes=40 * KB))
    assert odd.dsp == 4 * (2 + 1), "the last of an odd number of columns has a DSP for itself"


def test_urams_of_the_default_memories() -> None:
    """A 128-bit segment takes two URAM of 72 bits. They are 4,096 words deep: at 64 columns half of the output memory's lie
    idle, for a half is 2,048 words; at 32 columns none do."""
    config = ArrayConfig()
    assert {memory.name: memory.cost("uram").uram for memory in memories(config)} == {
        "input": 16,
        "weight": 16,
        "output": 64,
    }
    assert {memory.name: memory.cost("uram").uram for memory in memories(config.with_changes(cols=32))}["output"] == 32


@pytest.mark.parametrize(
    ("bits", "depth", "blocks"), [(128, 512, 2), (128, 4096, 15), (8, 4096, 1), (36, 1024, 1), (64, 8192, 16)]
)
def test_bram_takes_its_best_shape(bits: int, depth: int, blocks: int) -> None:
    memory = dataclasses.replace(memories(ArrayConfig())[0], arrays=1, bits=bits, depth=depth)
    assert memory.cost("bram") == Resources(bram36=2 * blocks)


def test_buffers_of_ports_hold_all_requests_in_flight() -> None:
    """512 words of 130 bits to read and 144 to write are two BRAM36 of 72 x 512 each; four ports read, two write too."""
    assert estimate(ArrayConfig()).parts["ports"].bram36 == 4 * 2 + 2 * 2
    assert estimate(ArrayConfig(bus_bytes=64)).parts["ports"].bram36 == 4 * 8 + 2 * 8


def test_ports_with_a_clock_of_their_own_cost_their_conversion() -> None:
    """Four SmartConnects that narrow 32 bytes and cross clocks: 55 LUT and 80 FF a byte each; none where clocks are equal."""
    equal, faster = (estimate(ArrayConfig(bus_bytes=32, port_mhz=mhz)).parts["ports"] for mhz in (200.0, 300.0))
    assert (faster.lut - equal.lut, faster.ff - equal.ff) == (4 * 32 * 55, 4 * 32 * 80)
    assert faster.bram36 == equal.bram36


def test_every_bit_has_a_place() -> None:
    for config in BOARDS.values():
        sizes = dict(
            zip(
                ("input", "weight", "output"),
                (config.input_bytes, config.weight_bytes, config.output_bytes),
                strict=True,
            )
        )
        for memory in memories(config):
            assert 2 * memory.arrays * memory.bits * memory.depth == 8 * sizes[memory.name]
            assert memory.cost("uram").uram * 72 * 4096 >= 8 * sizes[memory.name]
            assert memory.cost("bram").bram36 * 36 * 1024 >= 8 * sizes[memory.name]


def test_estimate_grows_with_the_configuration() -> None:
    small, large = estimate(ArrayConfig(rows=16, cols=16)).total, estimate(ArrayConfig(rows=32, cols=32)).total
    assert all(getattr(small, kind) <= getattr(large, kind) for kind in ("lut", "ff", "dsp"))
    narrow, wide = estimate(ArrayConfig(bus_bytes=8)).total, estimate(ArrayConfig(bus_bytes=32)).total
    assert narrow.lut < wide.lut
    assert narrow.dsp < wide.dsp


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_every_preset_fits_its_board(name: str) -> None:
    fit = require_fit(board_config(name))
    assert fit is not None
    assert fit.verdict == "fits", fit.shares
    assert max(fit.shares.values()) <= MARGIN


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_largest_array_fits_and_a_larger_does_not(name: str) -> None:
    board = BOARD_TABLE[name]
    largest = largest_array(board)
    fit = fits(largest)
    assert fit is not None
    assert fit.verdict == "fits"
    assert largest.rows * largest.cols >= BOARDS[name].rows * BOARDS[name].cols
    for packed in (True, False):
        small = {
            "input_bytes": 2 * 64 * (largest.rows + 8),
            "weight_bytes": 2 * 64 * (largest.cols + 8),
            "output_bytes": 2 * 256 * (largest.cols + 8),
        }
        grown = largest.with_changes(rows=largest.rows + 8, cols=largest.cols + 8, packed_dsp=packed, **small)
        larger = fits(grown)
        assert larger is not None
        assert larger.verdict != "fits"


def test_too_large_is_refused_with_numbers() -> None:
    config = board_config("ultra96v2").with_changes(rows=32, cols=32, input_bytes=256 * KB, weight_bytes=256 * KB)
    with pytest.raises(
        ConfigError,
        match=r"32 x 32 with 256 \+ 256 \+ 256 KB does not fit Ultra96-V2: .*DSP [\d,]+ of 360.*largest array that fits is \d+ x \d+",
    ):
        require_fit(config)


def test_memories_alone_can_be_too_large() -> None:
    config = board_config("ultra96v2").with_changes(output_bytes=2048 * KB)
    with pytest.raises(ConfigError, match=r"BRAM36 [\d,]+ of 216"):
        require_fit(config)


def test_tight_is_not_refused() -> None:
    fit = require_fit(fitted_config(board_config("rfsoc4x2"), {"rows": 64, "cols": 56, "packed_dsp": False}))
    assert fit is not None
    assert fit.verdict == "tight"
    assert fit.fullest == "dsp"


def test_without_a_board_nothing_is_refused() -> None:
    assert (
        require_fit(
            ArrayConfig(rows=256, cols=256, input_bytes=1024 * KB, weight_bytes=1024 * KB, output_bytes=1024 * KB)
        )
        is None
    )


def test_part_must_be_the_boards() -> None:
    with pytest.raises(ConfigError, match="part 'xczu3eg-sbva484-1-i' is not that of Kria KV260"):
        board_of(board_config("kv260").with_changes(part="xczu3eg-sbva484-1-i"))
    with pytest.raises(ConfigError, match="no board 'zc999': there are kr260, kv260"):
        board_of(ArrayConfig(board="zc999"))


def test_presets_name_the_parts_of_the_table() -> None:
    assert {name: config.part for name, config in BOARDS.items()} == {
        name: board.part for name, board in BOARD_TABLE.items()
    }
    assert {name: config.dram_gbps for name, config in BOARDS.items()} == {
        name: board.sustained_gbps for name, board in BOARD_TABLE.items()
    }


def test_memories_go_where_there_is_room() -> None:
    assert set(estimate(board_config("zcu102"), BOARD_TABLE["zcu102"].budget).storage.values()) == {"bram"}
    small = board_config("kv260").with_changes(cols=16, weight_bytes=512 << 10, output_bytes=512 << 10)
    assert set(estimate(small, BOARD_TABLE["kv260"].budget).storage.values()) == {"uram"}
    # All of it would fill the UltraRAM.
    kinds = estimate(board_config("kv260"), BOARD_TABLE["kv260"].budget).storage
    assert kinds == {"input": "uram", "weight": "uram", "output": "bram"}


def test_share() -> None:
    assert share(0, 0) == 0.0
    assert share(1, 4) == 0.25
    assert share(1, 0) == float("inf")


def test_table_of_boards() -> None:
    table = boards_table()
    assert [row["name"] for row in table] == list(BOARD_TABLE)
    for row in table:
        assert set(row["budget"]) == set(KINDS)  # type: ignore[call-overload]
        for key in ("preset", "largest"):
            entry = row[key]
            assert entry["verdict"] == "fits"  # type: ignore[index]
            assert entry["estimate"]["lut"] < row["budget"]["lut"]  # type: ignore[index]
