"""Opens an emulated board: `--backend board --emulated-board kv260`."""

from __future__ import annotations

from pathlib import Path

from systolora.board.design import BoardDesign
from systolora.board.device import BoardDevice
from systolora.board.lane import Timing
from systolora.board.opening import open_design, require_pynq
from systolora.hls.boards import pl_clock
from systolora.hls.config import ArrayConfig, board_config
from systolora.hls.design import DESIGN

from .faults import Faults
from .hardware import BoardOptions, EmulatedBoard, temporary_design


def open_emulated_board(
    board: str | ArrayConfig,
    options: BoardOptions | None = None,
    faults: Faults | None = None,
    timing: Timing | None = None,
) -> BoardDevice:
    """The driver of a real board on an emulated one.

    Args:
        board: a preset's name, or any configuration.
        options: executor, size of its memory pool, latency of the core.
        faults: what is wrong with the board. timing: how long things may take.

    Raises:
        BoardOpenError: as `open_board` does, and if pynq is missing: it is the real pynq that runs.
        ConfigError: if there is no preset of that name.
    """
    config = board_config(board) if isinstance(board, str) else board
    require_pynq()
    from .device import EmulatedDevice

    emulated = EmulatedBoard(config, options, faults)
    files = temporary_design(config)
    try:
        design = BoardDesign(Path(files.name) / f"{DESIGN}.bit", config, pl_clock(config).mhz)
        device = open_design(design, EmulatedDevice(emulated), timing)
    except BaseException:
        emulated.close()
        files.cleanup()
        raise
    device.on_close(emulated.close)
    device.on_close(files.cleanup)
    return device
