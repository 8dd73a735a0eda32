"""Every field of `ArrayConfig` is an option of `simulate`, also one that it gets tomorrow."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
from systolora.cost import array_options
from systolora.cost.array_options import array_config, array_names, with_array_options
from systolora.cost.run import run_simulate
from systolora.cost.settings import SimulateSettings, check_simulation
from systolora.errors import UserError
from systolora.hls.config import BOARDS, ArrayConfig, ConfigError
from systolora.options import rule_of, setting


def test_every_field_is_an_option() -> None:
    known = {item.name: item for item in fields(SimulateSettings)}
    assert {item.name for item in fields(ArrayConfig)} - {"board", "part"} == set(array_names()) <= set(known)
    assert all(rule_of(known[name]).group == "Array and memory" for name in array_names())
    assert SimulateSettings().array_config() == ArrayConfig()
    assert all(SimulateSettings(board=name).array_config() == config for name, config in BOARDS.items())


@pytest.mark.parametrize(
    ("changes", "name", "value"),
    [
        ({"input_bytes": 65536}, "input_bytes", 65536),
        ({"weight_bytes": 65536}, "weight_bytes", 65536),
        ({"output_bytes": 131072}, "output_bytes", 131072),
        ({"max_instructions": 99}, "max_instructions", 99),
        ({"packed_dsp": "off"}, "packed_dsp", False),
        ({"packed_dsp": "on", "board": "kv260"}, "packed_dsp", True),
        ({"rows": 48}, "input_bytes", 512 * 1024 // 96 * 96),
    ],
)
def test_an_option_changes_its_field(changes: dict, name: str, value: Any) -> None:
    config = SimulateSettings(**changes).array_config()
    assert getattr(config, name) == value


@pytest.mark.parametrize(
    ("changes", "board"),
    [
        ({"clock_mhz": 100.0, "dram_gbps": 9.0}, "kv260"),
        ({"input_bytes": 65536}, ""),
        ({"input_bytes": 768 * 1024}, "kv260"),
    ],
)
def test_another_array_is_no_board_s_any_more(changes: dict, board: str) -> None:
    config = SimulateSettings(board="kv260", **changes).array_config()
    assert (config.board, bool(config.part)) == (board, bool(board))


def test_ports_that_the_board_does_not_carry_are_refused() -> None:
    with pytest.raises(ConfigError, match="a memory port of Kria KV260 carries 16 bytes in each clock"):
        SimulateSettings(board="kv260", bus_bytes=64).array_config()
    with pytest.raises(ConfigError, match="memory ports of Kria KV260 take 333.33 MHz at most"):
        SimulateSettings(board="kv260", port_mhz=400.0).array_config()
    with pytest.raises(ConfigError, match="memory ports of Kria KV260 take 333.33 MHz at most"):
        SimulateSettings(board="kv260", clock_mhz=400.0).array_config()
    wide = SimulateSettings(board="kv260", bus_bytes=32, port_mhz=300.0).array_config()
    assert (wide.bus_bytes, wide.port_bytes, wide.board) == (32, pytest.approx(28.8, rel=1e-4), "")
    assert SimulateSettings(board="kv260", port_mhz=300.0).array_config().board == "kv260"
    assert SimulateSettings(bus_bytes=64).array_config().bus_bytes == 64
    assert SimulateSettings(board="kv260", bus_bytes=8).array_config().bus_bytes == 8


def test_a_new_field_is_a_new_option(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Tomorrow(ArrayConfig):
        lanes: int = 8
        flows: tuple[str, ...] = ("ws", "os")
        deep: bool = True
        kind: str = "chain"

    monkeypatch.setattr(array_options, "ArrayConfig", Tomorrow)

    @dataclass(frozen=True)
    @with_array_options
    class Settings:
        board: str = setting("", "x")

    settings = Settings(**{"lanes": 16, "flows": "ws", "deep": "off"})
    config = array_config(settings)
    assert vars(config).items() >= {"lanes": 16, "flows": ("ws",), "deep": False, "kind": "chain", "rows": 64}.items()
    assert array_config(Settings(**{"flows": "os+ws"})) == Tomorrow()
    monkeypatch.setattr(array_options, "board_config", lambda name: Tomorrow(board=name))
    assert array_config(Settings(**{"board": "kv260", "flows": "os,ws"})).board == "kv260", (
        "in another order it is the same"
    )
    assert array_config(Settings(**{"board": "kv260", "flows": "ws"})).board == ""
    helps = {item.name: rule_of(item).help for item in fields(Settings)}
    assert helps["lanes"].endswith("0 means the board's, or 8") and helps["flows"].endswith("or ws+os")
    with pytest.raises(UserError, match=r"--flows '\+': give names with \+ between them, such as ws\+os"):
        array_config(Settings(**{"flows": "+"}))


@pytest.mark.parametrize(
    "name", [item.name for item in fields(SimulateSettings) if isinstance(item.default, (int, float))]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, 10**30])
def test_no_number_is_endless_negative_or_huge(name: str, value: float) -> None:
    if isinstance(getattr(SimulateSettings(), name), bool):
        return
    if isinstance(value, float) and isinstance(getattr(SimulateSettings(), name), int):
        return  # the command line does not take it for a whole number
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} "):
        check_simulation(replace(SimulateSettings(), **{name: value}))


@pytest.mark.parametrize(
    "changes",
    [
        {"dram_gbps": 0.001, "latency_ns": 1e6, "in_flight": 1, "clock_mhz": 1000.0},
        {"dram_gbps": 1e6, "latency_ns": 0.0, "in_flight": 65_536, "clock_mhz": 1.0},
        {"rows": 4, "cols": 4, "bus_bytes": 4},
        {"rows": 256, "cols": 256, "bus_bytes": 64},
    ],
)
def test_what_is_allowed_at_the_edge_gives_figures(changes: dict, tmp_path: Any) -> None:
    path = tmp_path / "list.csv"
    path.write_text("operation,m,n,k,count\ngemm,4096,4096,4096,1000000\ngemm,1,1,1,\nquantize,4096,4096,,1000000\n")
    step = run_simulate(replace(SimulateSettings(gemms=str(path)), **changes)).as_dict()["step"]
    assert 0 < step["utilization"] <= 1 and step["seconds"] > 0 and step["cycles"] > 10**9
    moved = step["dram_bytes"] * (changes.get("clock_mhz", 200.0) / 1000) / changes.get("dram_gbps", 19.2)
    assert step["cycles"] >= moved


def test_memories_that_cannot_be_are_named() -> None:
    with pytest.raises(ConfigError, match="input_bytes = 7: two halves of whole words are needed"):
        SimulateSettings(input_bytes=7).array_config()
