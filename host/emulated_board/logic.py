"""What stands around the accelerator on an emulated board: address decoder, interrupt controller, ID register and clocks."""

from __future__ import annotations

import os
import pty
import threading
import tty
from collections.abc import Callable
from typing import Protocol

from .faults import Faults
from .memory import BusError

PS_CLOCK_MHZ = 33.333


class Peripheral(Protocol):
    """Anything that answers on the AXI-Lite bus, by 32-bit registers."""

    def read32(self, offset: int) -> int:
        """The register at a byte offset."""

    def write32(self, offset: int, value: int) -> None:
        """Writes the register at a byte offset."""


class RegisterFile:
    """Registers that keep what is written: the processing system's control blocks, an AXI GPIO of constants."""

    def __init__(self, values: dict[int, int] | None = None) -> None:
        self.values = dict(values or {})

    def read32(self, offset: int) -> int:
        """The register at a byte offset; zero if it was never written."""
        return self.values.get(offset, 0)

    def write32(self, offset: int, value: int) -> None:
        """Writes the register at a byte offset."""
        self.values[offset] = value


class ClockControl(RegisterFile):
    """CRL_APB of a Zynq UltraScale+ (UG1087): PLLs at the image's rate, PL0..PL3 divided from them."""

    PL0 = 0xC0

    def __init__(self, faults: Faults, pll_mhz: int) -> None:
        self._factor = round(2 * pll_mhz / PS_CLOCK_MHZ)
        pll = self._factor << 8 | 1 << 16  # FBDIV, DIV2: 33.333 MHz * 90 / 2 are 1,500
        off = 1 << 24 | 1 << 16 | 15 << 8
        super().__init__({0x20: pll, 0x30: pll, 0xC0: off, 0xC4: off, 0xC8: off, 0xCC: off})
        self._faults = faults

    def read32(self, offset: int) -> int:
        """The register; PL0's divisors are those of the stuck rate, if the clock is stuck."""
        stuck = self._faults.stuck_clock_mhz
        if offset == self.PL0 and stuck:
            return 1 << 24 | 1 << 16 | round(PS_CLOCK_MHZ * self._factor / 2 / stuck) << 8
        return super().read32(offset)


class InterruptController:
    """AXI INTC (PG099) as PYNQ drives it: level inputs, one output."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._enabled = self._master = 0
        self.inputs: dict[int, Callable[[], bool]] = {}
        self._on_change = on_change

    def _levels(self) -> int:
        return sum(1 << line for line, level in self.inputs.items() if level())

    def output(self) -> bool:
        """The line to the processor."""
        return bool(self._levels() & self._enabled and self._master & 1)

    def read32(self, offset: int) -> int:
        """ISR, IPR, IER and MER; others read as zero."""
        levels = self._levels()
        return {0x00: levels, 0x04: levels & self._enabled, 0x08: self._enabled, 0x1C: self._master}.get(offset, 0)

    def write32(self, offset: int, value: int) -> None:
        """IER, SIE, CIE and MER; an acknowledge (IAR) of a level input has no effect while the level lasts."""
        if offset == 0x08:
            self._enabled = value
        elif offset == 0x10:
            self._enabled |= value
        elif offset == 0x14:
            self._enabled &= ~value
        elif offset == 0x1C:
            self._master = value
        self._on_change()


class InterruptFile:
    """A /dev/uioN made of a pseudo terminal, so that PYNQ's own UIO reader runs against it.

    As the kernel's generic UIO driver: a write arms the line, an interrupt disarms it and makes four bytes readable.
    """

    def __init__(self, level: Callable[[], bool]) -> None:
        self._level, self._armed, self._lock = level, False, threading.Lock()
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        self.path = os.ttyname(self._slave)
        self._thread = threading.Thread(target=self._serve, daemon=True, name="emulated-uio")
        self._thread.start()

    def _serve(self) -> None:
        try:
            while os.read(self._master, 4):
                self._armed = True
                self.fire()
        except OSError:
            pass  # hung up: all users of the file have closed it
        with self._lock:
            self._armed = False
            os.close(self._master)

    def fire(self) -> None:
        """Delivers an interrupt if the line is armed and high."""
        with self._lock:
            if not (self._armed and self._level()):
                return
            self._armed = False
            os.write(self._master, b"\x01\x00\x00\x00")

    def close(self) -> None:
        """Gives up its own end; the serving thread ends when pynq has closed the file too."""
        with self._lock:
            self._armed = False
            os.close(self._slave)


class AddressDecoder:
    """Finds the peripheral of a bus address."""

    def __init__(self) -> None:
        self._places: list[tuple[int, int, Peripheral]] = []

    def attach(self, base: int, size: int, peripheral: Peripheral) -> None:
        """Places a peripheral at `base`, `size` bytes."""
        self._places.append((base, size, peripheral))

    def clear(self) -> None:
        """Removes all peripherals."""
        self._places = []

    def _find(self, address: int) -> tuple[Peripheral, int]:
        for base, size, peripheral in self._places:
            if base <= address < base + size:
                return peripheral, address - base
        raise BusError(f"nothing answers at bus address {address:#x}")

    def read32(self, address: int) -> int:
        """A 32-bit read. Raises BusError where nothing answers."""
        peripheral, offset = self._find(address)
        return peripheral.read32(offset) & 0xFFFFFFFF

    def write32(self, address: int, value: int) -> None:
        """A 32-bit write. Raises BusError where nothing answers."""
        peripheral, offset = self._find(address)
        peripheral.write32(offset, value & 0xFFFFFFFF)
