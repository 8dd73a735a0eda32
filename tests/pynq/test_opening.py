"""Opening a board: what does not fit is said in one line that names both sides and the remedy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from systolora.board.design import BoardDesign
from systolora.board.errors import BoardLost, BoardOpenError
from systolora.board.opening import open_design
from systolora.emulated_board.faults import Faults
from systolora.emulated_board.hardware import BoardOptions, EmulatedBoard, write_design
from systolora.hls.boards import pl_clock
from systolora.hls.config import ArrayConfig, board_config
from systolora.hls.regmap import predict_map


def refuse(tmp_path: Path, config: ArrayConfig, edit: Callable[[str], str] = str, **changes: Any) -> None:
    """Opens a board whose design files or hardware do not fit; the caller expects the error."""
    from systolora.emulated_board.device import EmulatedDevice

    board = EmulatedBoard(changes.get("hardware", config))
    bitfile = write_design(tmp_path, config, edit)
    changes.get("tamper", lambda path: None)(bitfile)
    try:
        open_design(BoardDesign(bitfile, config, pl_clock(config).mhz), EmulatedDevice(board))
    finally:
        board.close()


def message(caught: Any) -> str:
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("preset", ["kv260", "ultra96v2"])
def test_presets_open_and_pass_their_self_test(preset: str, open_board: Callable[..., Any]) -> None:
    device = open_board(board_config(preset))
    assert device.counters.busy_cycles > 0
    assert device.name == f"board {preset.upper()}"


def test_opening_sets_the_clock(open_board: Callable[..., Any], config: ArrayConfig) -> None:
    import pynq

    open_board(config.with_changes(clock_mhz=100.0))
    assert pynq.Clocks.fclk0_mhz == pytest.approx(100, rel=0.002)


def test_opening_sets_the_clock_on_an_image_with_another_pll(
    open_board: Callable[..., Any], config: ArrayConfig
) -> None:
    import pynq

    open_board(config.with_changes(clock_mhz=100.0), BoardOptions(pll_mhz=1000))
    assert pynq.Clocks.fclk0_mhz == pytest.approx(100, rel=0.002)


def test_wrong_register_map(tmp_path: Path, config: ArrayConfig) -> None:
    def shift(text: str) -> str:
        return text.replace('NAME="sequence"', 'NAME="sequel"')

    with pytest.raises(BoardOpenError, match="^board, registers: driver and bitstream") as caught:
        refuse(tmp_path, config, shift)
    place = predict_map().offset("sequence")
    assert f"argument sequence: predicted at 0x{place:02x}, the tool has none of that name" in message(caught)
    assert f"argument sequel: the tool has it at 0x{place:02x}, the prediction has none" in message(caught)
    assert "systolora bitstream build" in message(caught)


def test_design_of_another_project(tmp_path: Path, config: ArrayConfig) -> None:
    with pytest.raises(BoardOpenError, match=r"^board, registers: the design has no systolora_top_0 .* it has"):
        refuse(tmp_path, config, lambda text: text.replace("xilinx.com:hls:systolora_top", "xilinx.com:hls:conv"))


def test_wrong_fingerprint_names_both(tmp_path: Path, config: ArrayConfig) -> None:
    other = config.with_changes(rows=16)
    with pytest.raises(BoardOpenError, match="^board, fingerprint") as caught:
        refuse(tmp_path, config, hardware=other)
    assert other.fingerprint_text in message(caught)
    assert config.fingerprint_text in message(caught)


def test_core_that_reports_another_fingerprint_than_the_identity_register(
    open_board: Callable[..., Any], config: ArrayConfig
) -> None:
    faults = Faults()
    device = open_board(config, faults=faults)
    faults.fingerprint = 0xBAD0_CAFE
    with pytest.raises(BoardLost, match=f"bad0cafe, the driver {config.fingerprint_text}: another program has loaded"):
        run_empty(device)


def run_empty(device: Any) -> Any:
    from systolora.hls.isa import End, encode
    from systolora.sim.functional.device import Program

    return device.run(Program(encode(End())))


def test_stuck_clock(open_board: Callable[..., Any], config: ArrayConfig) -> None:
    with pytest.raises(BoardOpenError, match=r"^board, clock: the PL clock runs at 99\.999 MHz, .* built for 166\.665"):
        open_board(config, faults=Faults(stuck_clock_mhz=100.0))


def test_wrong_bits_are_found_by_the_self_test(open_board: Callable[..., Any]) -> None:
    with pytest.raises(
        BoardOpenError, match="^board, self-test: results are not those of the reference: quantize: 1 of"
    ):
        open_board(faults=Faults(wrong_bits=1))


def test_missing_flush_is_found_by_the_self_test(open_board: Callable[..., Any]) -> None:
    with pytest.raises(BoardOpenError, match="^board, self-test"):
        open_board(faults=Faults(missing_flush=-1))


def test_missing_invalidate_is_found_by_the_self_test(open_board: Callable[..., Any]) -> None:
    with pytest.raises(BoardOpenError, match=r"^board, self-test: .*status block of program \d+ is not at") as caught:
        open_board(faults=Faults(missing_invalidate=-1))
    message(caught)


@pytest.mark.parametrize("suffix", [".bit", ".hwh"])
def test_missing_file(tmp_path: Path, config: ArrayConfig, suffix: str) -> None:
    def remove(bitfile: Path) -> None:
        bitfile.with_suffix(suffix).unlink()

    with pytest.raises(BoardOpenError, match=rf"^board, files: .*{suffix} is not there"):
        refuse(tmp_path, config, tamper=remove)


def test_hand_off_file_of_a_block(tmp_path: Path, config: ArrayConfig) -> None:
    def without_processor(text: str) -> str:
        return text.replace('MODTYPE="zynq_ultra_ps_e"', 'MODTYPE="smartconnect"')

    with pytest.raises(BoardOpenError, match=r"^board, files: pynq could not load .* whole block design"):
        refuse(tmp_path, config, without_processor)


def test_a_board_opens_inside_a_running_event_loop(open_board: Callable[..., Any]) -> None:
    """As in Jupyter, and before `asyncio.run` as in a script: interrupts arrive in both."""

    async def inside() -> Any:
        return open_board()

    device = asyncio.run(inside())
    run_empty(device)
    assert device.session.lost_interrupts == 0


def test_boards_can_be_opened_one_after_the_other_and_side_by_side(open_board: Callable[..., Any]) -> None:
    first, second = open_board(), open_board()
    for device in (first, second, first):
        run_empty(device)
    first.close()
    run_empty(second)
    assert second.session.lost_interrupts == 0
