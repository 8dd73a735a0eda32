"""Opens the device that programs run on, by the name of its backend."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from systolora.errors import UserError
from systolora.hls.config import ArrayConfig, board_config
from systolora.libraries import install_advice
from systolora.sim.functional.device import Device

BACKENDS: dict[str, tuple[str, str, str]] = {
    "emulator": ("systolora.sim.functional.emulator", "EmulatorDevice", "install systolora again"),
    "csim": (
        "systolora.sim.csim.device",
        "CsimDevice",
        "install systolora again, and a C++ compiler (apt install g++)",
    ),
    "board": ("systolora.board.opening", "open_board", f"on the board: {install_advice('board')} (docs/board.md)"),
}
"""Backend to (module, what opens it, how to get it)."""


class BackendError(RuntimeError):
    """A backend that does not exist or is not installed; the text says how to get it."""


def check_emulated_board(backend: str, board: str, emulated_board: str) -> None:
    """Holds the options that name an accelerator against each other, before anything is opened; "" is one that was not given.

    Raises:
        UserError: for an emulated board with another backend, or beside the preset of another array.
        ConfigError: for a preset that there is not.
    """
    if not emulated_board:
        return
    emulated = board_config(emulated_board)
    if backend != "board":
        raise UserError(f"--emulated-board {emulated_board} goes with --backend board, not {backend}")
    if board and board_config(board) != emulated:
        raise UserError(
            f"--emulated-board {emulated_board} with --board {board}: they name two arrays; leave --board out"
        )


def open_preset(backend: str, board: str, emulated_board: str) -> Device:
    """Opens the device that a backend, a board's preset and an emulated board name; "" is one that was not given.

    Raises:
        BackendError: as `open_device`.
        ConfigError: for a preset that there is not.
    """
    return open_device(backend, board_config(board) if board else None, emulated_board=emulated_board)


def open_device(
    backend: str = "emulator", config: ArrayConfig | None = None, *, emulated_board: str = "", **options: Any
) -> Device:
    """Opens a device; close it, or use it in a `with` statement.

    Args:
        backend: "emulator" (exact software on this computer), "csim" (the generated C++, compiled) or "board" (an FPGA).
        config: the accelerator; by default `ArrayConfig()`, and on a board what its bitstream was built for.
        emulated_board: with "board", the preset of a board that is emulated below the real driver.
        options: of the backend, such as `capacity_bytes` for emulator and csim.

    Raises:
        BackendError: for an unknown backend, one that is not installed (the text says how to get it), or two accelerators at once.
    """
    if backend not in BACKENDS:
        raise BackendError(f"backend {backend!r}: there are {', '.join(BACKENDS)}")
    if emulated_board and backend != "board":
        raise BackendError(f"emulated_board = {emulated_board!r} goes with backend 'board', not {backend!r}")
    if emulated_board and config is not None and config != board_config(emulated_board):
        raise BackendError(
            f"emulated_board = {emulated_board!r} and a configuration of another accelerator: give one of them"
        )
    module, opener, remedy = BACKENDS[backend]
    if emulated_board:
        module, opener = "systolora.emulated_board.opening", "open_emulated_board"
        options = {"board": emulated_board, **options}
    elif config is not None:
        options = {"config": config, **options}
    try:
        opens = getattr(import_module(module), opener)
    except (ImportError, AttributeError) as error:
        raise BackendError(f"backend {backend!r} is not installed ({error}): {remedy}") from error
    return opens(**options)
