"""The driver that pynq binds to the accelerator core, by its VLNV: registers, start, interrupt, reset. It knows no programs.

Every method is to be called from the thread that owns the board. CTRL has exactly one reader, `take_control`, because reading it
clears AP_DONE.
"""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pynq import DefaultIP
from systolora.hls.design import KERNEL_VLNV
from systolora.hls.registers import ARGUMENTS
from systolora.hls.regmap import RegisterMap, predict_map

_START, _DONE, _IDLE, _SOFT_RESET = 1, 2, 4, 256
_WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class Control:
    """What a read of CTRL said; the read has cleared `done`."""

    raw: int

    @property
    def done(self) -> bool:
        """A program has finished since the last read."""
        return bool(self.raw & _DONE)

    @property
    def idle(self) -> bool:
        """No program runs."""
        return bool(self.raw & _IDLE)


class SystoloraCore(DefaultIP):
    """The accelerator's registers."""

    bindto = [KERNEL_VLNV]

    def __init__(self, description: dict[str, Any]) -> None:
        device = description.get("device")
        if device is not None and device.has_capability("REMOTE"):
            # pynq cannot deliver interrupts over a network and raises if one is declared.
            description = {**description, "interrupts": {}}
        try:
            super().__init__(description=description)
        except OSError as error:  # an image without any UIO device; pynq itself handles one that lacks this interrupt's
            warnings.warn(f"no interrupts: {error}; polling. See docs/board.md, Interrupts", stacklevel=2)
            super().__init__(description={**description, "interrupts": {}})
        self._map: RegisterMap = predict_map()
        self._offsets = {name: self._map.offset(name) for name in ("CTRL", "GIER", "IP_IER", "IP_ISR")}
        self._offsets |= {argument.name: self._map.offset(argument.name) for argument in ARGUMENTS}
        self._bits = {argument.name: argument.bits for argument in ARGUMENTS}
        self._written: dict[int, int] = {}
        self._interrupt: Any = getattr(self, "interrupt", None)
        self._waiting: asyncio.Future[Any] | None = None
        # pynq keeps the interrupt controller in a list that any other overlay empties; without this it would be collected.
        self._controller = self._interrupt.parent() if self._interrupt is not None else None

    @property
    def has_interrupt(self) -> bool:
        """Whether the design wires an interrupt that reaches this process; without, poll."""
        return self._interrupt is not None

    def take_control(self) -> Control:
        """Reads CTRL, and with that clears its `done`."""
        return Control(self.mmio.read(self._offsets["CTRL"]))

    def enable_interrupt(self) -> None:
        """Lets the core raise its interrupt when a program is done."""
        self.mmio.write(self._offsets["GIER"], 1)
        self.mmio.write(self._offsets["IP_IER"], 1)

    def write_arguments(self, values: Mapping[str, int]) -> None:
        """Writes the top function's arguments; words that already hold their value are left out."""
        for name, value in values.items():
            words = [value & _WORD, value >> 32] if self._bits[name] > 32 else [value]
            for index, word in enumerate(words):
                offset = self._offsets[name] + 4 * index
                if self._written.get(offset) != word:
                    self.mmio.write(offset, int(word))
                    self._written[offset] = word

    def start(self) -> None:
        """Starts a program with the arguments as written."""
        self.mmio.write(self._offsets["CTRL"], _START)

    def read_argument(self, name: str) -> int:
        """A 32-bit register of the top function, by the argument's name."""
        return int(self.mmio.read(self._offsets[name]))

    def snapshot(self) -> dict[str, int]:
        """All registers by name, for a report. Clears AP_DONE, so it ends the wait for a program."""
        values = {"CTRL": self.take_control().raw}
        for name in ("GIER", "IP_IER", "IP_ISR"):
            values[name] = int(self.mmio.read(self._offsets[name]))
        for argument in ARGUMENTS:
            offset = self._offsets[argument.name]
            high = int(self.mmio.read(offset + 4)) << 32 if argument.bits > 32 else 0
            values[argument.name] = int(self.mmio.read(offset)) | high
        return values

    async def wait_interrupt(self, seconds: float) -> bool:
        """Waits for the interrupt; False if there was none within the time, and the next call goes on waiting.

        The wait is never cancelled: pynq would take the cancelled one for still waiting, and not arm the line again.
        """
        if self._waiting is None:
            self._waiting = asyncio.ensure_future(self._interrupt.wait())
        done, _ = await asyncio.wait({self._waiting}, timeout=seconds)
        if not done:
            return False
        waited, self._waiting = self._waiting, None
        waited.result()
        return True

    def acknowledge(self) -> None:
        """Clears the interrupt status, whether the core was built to clear it on read or to toggle it on write."""
        offset = self._offsets["IP_ISR"]
        if not self.has_interrupt:
            return
        if self.mmio.read(offset) & 1 and self.mmio.read(offset) & 1:
            self.mmio.write(offset, 1)

    def release(self) -> None:
        """Takes the interrupt's file out of the event loop, and breaks the cycle of controller and file, so that the file is closed now
        and in this thread: pynq's destructor needs the event loop."""
        if self._waiting is not None:
            self._waiting.cancel()
        parent = self._controller
        while parent is not None and not hasattr(parent, "uio"):
            parent = getattr(parent, "parent", None)
        if parent is not None:
            asyncio.get_running_loop().remove_reader(parent.uio)
            parent.wait_events = []
        self._controller = self._interrupt = None

    def soft_reset(self, seconds: float) -> bool:
        """Resets the core and its memory ports; True if it is idle within the time."""
        self._written.clear()
        self.mmio.write(self._offsets["CTRL"], _SOFT_RESET)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.take_control().idle:
                return True
            time.sleep(seconds / 100)
        return False
