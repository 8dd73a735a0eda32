"""`open_board`: from a bitstream to a device that has shown that it computes the right bits."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from systolora.hls.config import ArrayConfig
from systolora.libraries import install_advice

from .buffers import BoardMemory
from .cma import read_cma
from .design import BoardDesign, find_design
from .device import BoardDevice
from .errors import BoardOpenError, Health
from .handshake import check_clock, check_design, check_results, check_root, load_design
from .lane import Timing
from .pool import SlotPool
from .thread import OwnerThread

OLDEST_PYNQ = (3, 0, 1)
_INSTALL = f"{install_advice('board')} (pynq 3.0.1 to 4.0, numpy below 2, setuptools up to 80)"


def open_board(
    config: ArrayConfig | None = None,
    *,
    bitstream: str | Path | None = None,
    board: str | None = None,
    device: Any = None,
    remote: str = "",
    timing: Timing | None = None,
) -> BoardDevice:
    """The board that this computer is, or one on the network, with a bitstream of this project loaded and checked.

    Args:
        config: the accelerator that the bitstream must hold; None takes what its manifest says.
        bitstream: a `.bit`, an `.xsa` or a folder with a manifest; None searches by the board's name.
        board: preset name, where pynq does not know what board it runs on.
        device: a `pynq.Device`; None takes pynq's active one.
        remote: "host" or "host:port" of a board with PYNQ.remote; several with commas between them, one for each process of a
            data-parallel run. Empty takes the environment variable SYSTOLORA_REMOTE.
        timing: how long things may take.

    Raises:
        BoardOpenError: for the first thing that does not fit, in one line that names both sides and the remedy.
    """
    require_pynq()
    remote = remote or os.environ.get("SYSTOLORA_REMOTE", "")
    if remote:
        address = assigned_address(remote, int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
        return _open_remote(address, config, bitstream, board, timing)
    device = device if device is not None else _local_device()
    check_root(device)
    design = find_design(bitstream, board, device.name, config)
    return open_design(design, device, timing)


def assigned_address(addresses: str, rank: int, world: int) -> str:
    """The board of one of several processes: the first of them has the first address, and so on.

    Raises:
        BoardOpenError: if there are fewer boards than processes.
    """
    boards = [address.strip() for address in addresses.split(",") if address.strip()]
    if len(boards) < world:
        raise BoardOpenError(
            "connection",
            f"{world} processes and {len(boards)} boards ({addresses}): a board serves one process; give one address for each, or start "
            "fewer processes",
        )
    if len(boards) > world and rank == 0:
        warnings.warn(
            f"{len(boards)} boards ({addresses}) and {world} process{'es' if world > 1 else ''}: a process uses one board, so "
            f"{len(boards) - world} of them stay idle; docs/remote.md says how to start one process for each",
            stacklevel=2,
        )
    return boards[rank]


def _open_remote(
    address: str, config: ArrayConfig | None, bitstream: str | Path | None, board: str | None, timing: Timing | None
) -> BoardDevice:
    try:
        from .remote import connect, renamed_design

        device = connect(address)
    except ImportError as error:
        raise BoardOpenError("pynq", f"PYNQ.remote needs pynq 3.1 or later ({error}): {_INSTALL}") from error
    except (RuntimeError, ValueError) as error:
        raise BoardOpenError(
            "connection",
            f"no PYNQ.remote server answers at {address} ({error}): does the board run a remote image, is the port (7967) forwarded, "
            "see docs/remote.md",
        ) from error
    design = find_design(bitstream, board, device.name, config)
    folder = renamed_design(design.bitfile)
    copied = next(Path(folder.name).glob(f"*{design.bitfile.suffix}"))
    try:
        opened = open_design(replace(design, bitfile=copied), device, timing)
    except BaseException:
        folder.cleanup()
        raise
    opened.on_close(folder.cleanup)
    return opened


def _local_device() -> Any:
    import pynq

    try:
        return pynq.Device.active_device
    except RuntimeError as error:
        raise BoardOpenError(
            "pynq",
            f"pynq finds no board here ({error}): run this on the board, in its pynq environment (docs/board.md); or give the address "
            "of a board, or --emulated-board kv260",
        ) from error


def open_design(design: BoardDesign, device: Any, timing: Timing | None = None) -> BoardDevice:
    """Loads a bitstream onto a pynq device and checks it: design, registers, identity, clock, results.

    Raises:
        BoardOpenError: for the first thing that does not fit, in one line.
    """
    import pynq

    from .session import Session

    owner = OwnerThread("systolora-board")
    session = Session(device, design, timing or Timing())
    try:
        owner.start()
        owner.call(load_design, session, design.bitfile)
        owner.call(check_design, session, design.config)
        owner.call(check_clock, design.clock_mhz)
        owner.call(session.attach)

        def allocate(size: int) -> Any:
            return pynq.allocate((size,), "u1", target=device, cacheable=1)

        memory = BoardMemory(owner, SlotPool(allocate, lambda: read_cma(device)), Health(f"board {device.name}"))
        board = BoardDevice(design.config, session, memory)
    except BaseException:
        owner.close(session.release)
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
