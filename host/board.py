"""`open_board`: from a bitstream to a device that has shown that it computes the right bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from systolora.hls.config import ArrayConfig

from .board_buffers import BoardMemory, SlotPool
from .board_cma import read_cma
from .board_device import BoardDevice
from .board_errors import BoardOpenError, Health
from .board_handshake import check_clock, check_design, check_results, check_root, load_design
from .board_thread import OwnerThread

OLDEST_PYNQ = (3, 0, 1)
_INSTALL = "pip install 'systolora[board]' (pynq 3.0.1 to 4.0, numpy below 2, setuptools up to 80)"


def open_design(bitfile: Path, config: ArrayConfig, clock_mhz: float, device: Any, timing: Any = None) -> BoardDevice:
    """Loads a bitstream onto a pynq device and checks it: design, registers, identity, clock, results.

    Args:
        config: the accelerator that the bitstream should hold. clock_mhz: of its programmable logic.
        device: a `pynq.Device`. timing: a `board_session.Timing`.

    Raises:
        BoardOpenError: for the first thing that does not fit, in one line.
    """
    require_pynq()
    import pynq

    from .board_session import Session, Timing

    check_root(device)
    owner = OwnerThread("systolora-board")
    session = Session(device, bitfile, config, timing or Timing())
    try:
        owner.call(load_design, session, bitfile)
        owner.call(check_design, session, config)
        owner.call(check_clock, clock_mhz)
        owner.call(session.attach)

        def allocate(size: int) -> Any:
            return pynq.allocate((size,), "u1", target=device, cacheable=1)

        memory = BoardMemory(owner, SlotPool(allocate, lambda: read_cma(device)), Health(f"board {device.name}"))
        board = BoardDevice(config, session, memory)
    except BaseException:
        owner.call(session.release)
        owner.close()
        raise
    try:
        check_results(board)
    except BaseException:
        board.close()
        raise
    return board


def require_pynq() -> None:
    """Raises BoardOpenError if pynq is missing or too old."""
    try:
        import pynq
    except ImportError as error:
        raise BoardOpenError("pynq", f"pynq cannot be imported ({error}): {_INSTALL}") from error
    found = tuple(int(part) for part in pynq.__version__.split(".")[:3] if part.isdigit())
    if found < OLDEST_PYNQ:
        raise BoardOpenError("pynq", f"pynq {pynq.__version__} is too old: {_INSTALL}")
