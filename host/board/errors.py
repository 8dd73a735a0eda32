"""How a board fails, by name. Each text says both sides of what does not fit, or what was seen, and what to do."""

from __future__ import annotations

from systolora.sim.functional.device import DeviceError


class BoardOpenError(RuntimeError):
    """A board that cannot be used as it is.

    Attributes:
        check: which check failed: "pynq", "root", "connection", "files", "manifest", "registers", "fingerprint", "clock" or "self-test".
    """

    def __init__(self, check: str, text: str) -> None:
        super().__init__(f"board, {check}: {text}")
        self.check = check


class BoardTimeout(DeviceError):
    """A program that did not finish in time; the hardware was reset and works again, but this program was lost.

    Attributes:
        registers: what the core's registers showed, by name.
    """

    def __init__(self, text: str, registers: dict[str, int], index: int = 0, label: str = "") -> None:
        super().__init__(text, None, index, label)
        self.registers = registers


class BoardLost(DeviceError):
    """The board does not answer any more, or cannot be trusted: nothing can be submitted to this device again."""


def describe(error: BaseException) -> str:
    """An exception of pynq or of the connection, in one line."""
    code = getattr(error, "code", None)
    if callable(code) and hasattr(error, "details"):  # grpc.RpcError; grpc itself may not be installed
        return f"the connection failed ({code().name}: {error.details()})"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


class Health:
    """Whether a board still answers; shared by all that use it.

    Attributes:
        name: of the board. lost: why it cannot be used any more, or None.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.lost: BoardLost | None = None

    def lose(self, reason: str, cause: BaseException | None = None) -> BoardLost:
        """Marks the board as lost and returns the error that says so, to be raised."""
        self.lost = BoardLost(
            f"{self.name}: the board is lost: {reason}. Check power and connection, switch the board off and on, and go on "
            "from the last checkpoint with --resume"
        )
        self.lost.__cause__ = cause
        return self.lost

    def require(self) -> None:
        """Raises BoardLost if the board is lost."""
        if self.lost is not None:
            raise self.lost
