"""How a board fails, by name. Each text says both sides of what does not fit, or what was seen, and what to do."""

from __future__ import annotations

from systolora.sim.device import DeviceError


class BoardOpenError(RuntimeError):
    """A board that cannot be used as it is.

    Attributes:
        check: which check failed: "pynq", "root", "files", "manifest", "registers", "fingerprint", "clock" or "self-test".
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
