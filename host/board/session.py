"""The design that is loaded on a board, and one start of it. Everything here runs in the thread that owns the board."""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Callable
from typing import Any

import pynq
import pynq.interrupt
from pynq.pl_server.device import Device as PynqDevice
from systolora.hls.check import STATUS_BYTES
from systolora.hls.design import KERNEL
from systolora.hls.isa import End, encode
from systolora.hls.registers import Status

from .design import BoardDesign
from .driver import SystoloraCore
from .lane import Start, Timing, make_lane, write_code
from .pool import SlotPool

_SHORTEST_POLL = 0.0002
_LONGEST_POLL = 0.005
_TOLERATED_LOSSES = 3


class NoStatus(RuntimeError):
    """The core says that a program is done, but its status block is not there."""


class Session:
    """One board with one design.

    Attributes:
        device: the pynq device. design: what is loaded on it. timing: how long things may take. overlay: pynq's object for what is loaded.
        lost_interrupts: programs that were done without an interrupt.
    """

    def __init__(self, device: Any, design: BoardDesign, timing: Timing) -> None:
        self.device, self.design, self.timing = device, design, timing
        self.overlay: Any = None
        self._core: SystoloraCore | None = None
        self.lost_interrupts = self._lost_in_a_row = 0

    def load(self) -> None:
        """Loads the bitstream. Raises what pynq raises."""
        self.release()
        PynqDevice.active_device = self.device
        if hasattr(pynq.Clocks, "set_device"):
            pynq.Clocks.set_device(self.device)
        self.overlay = pynq.Overlay(str(self.design.bitfile), device=self.device)

    def release(self) -> None:
        """Drops the design's driver, and what pynq keeps of it for the whole process: one Clocks object for all devices, and interrupt
        files registered with an event loop that may be gone."""
        if self._core is not None:
            self._core.release()
        self._core = self.overlay = None
        if "_real_instance" in vars(pynq.Clocks):
            del pynq.Clocks._real_instance
        pynq.interrupt._InterruptController._controllers.clear()
        pynq.interrupt._InterruptController._uio_devices.clear()

    @property
    def core(self) -> SystoloraCore:
        """The accelerator's registers. Raises RuntimeError if no design is loaded."""
        if self._core is None:
            raise RuntimeError("no design is loaded on the board")
        return self._core

    def attach(self) -> None:
        """Binds the driver to the core of the loaded design."""
        self._core = getattr(self.overlay, KERNEL)
        self.core.enable_interrupt()

    @property
    def polls(self) -> bool:
        """Whether completion is found by polling, because there is no interrupt or because interrupts got lost."""
        return not self.core.has_interrupt or self._lost_in_a_row >= _TOLERATED_LOSSES

    def begin(self, start: Start) -> bool:
        """Writes the arguments and starts; False if the core is still busy with something else."""
        if not self.core.take_control().idle:
            return False
        window = start.window
        arguments = dict.fromkeys(("memory_program", "memory_input", "memory_weight", "memory_output"), window.address)
        arguments |= {
            "window_address": window.address,
            "window_size": window.size,
            "program_address": start.lane.code.address,
            "instruction_count": start.count,
            "status_address": start.lane.status.address,
            "sequence": start.sequence,
        }
        self.core.write_arguments(arguments)
        self.core.start()
        return True

    async def finish(self, start: Start) -> Status | None:
        """The status of the program that was begun, or None if it does not finish in time.

        Raises:
            NoStatus: if the core is done but the status block is not that of this program.
        """
        end = time.monotonic() + self.timing.program
        pause = _SHORTEST_POLL
        while time.monotonic() < end:
            interrupted = False
            if self.polls:
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_POLL)
            else:
                interrupted = await self.core.wait_interrupt(self.timing.interrupt_check)
            status = self._look(start)
            if interrupted:
                self._lost_in_a_row = 0
            elif status is not None and not self.polls:
                await self._expect_interrupt()
            if interrupted or status is not None:
                self.core.acknowledge()
            if status is not None:
                return status
        return None

    def _look(self, start: Start) -> Status | None:
        control = self.core.take_control()
        if not (control.done or control.idle):
            return None
        status = self._read_status(start)
        if status is None and control.idle:
            raise NoStatus(
                f"the core is done (CTRL {control.raw:#x}) but the status block of program {start.sequence} is not at "
                f"{start.lane.status.address:#x}: its writes do not reach the processor. Load the bitstream again; if it "
                "stays so, the ports or the address map of the design are wrong"
            )
        return status

    async def _expect_interrupt(self) -> None:
        """The program is done, so the interrupt is on its way, or lost."""
        if await self.core.wait_interrupt(self.timing.interrupt_check):
            self._lost_in_a_row = 0
            return
        self.lost_interrupts += 1
        self._lost_in_a_row += 1
        if self.polls:
            warnings.warn(
                f"interrupts of {KERNEL} do not arrive; polling from now on. See docs/board.md, Interrupts",
                stacklevel=2,
            )

    def _read_status(self, start: Start) -> Status | None:
        """The status block, if it is that of this program: an old one has another sequence number."""
        start.lane.status.buffer.sync_from_device()
        try:
            status = Status.decode(start.lane.status.bytes[:STATUS_BYTES].tobytes())
        except ValueError:
            return None
        return status if status.sequence == start.sequence else None

    def probe(self, pool: SlotPool, sequence: int) -> bool:
        """Whether the core runs an empty program, within the time for a reset."""
        lane = make_lane(pool, "probe")
        write_code(lane, encode(End()))
        start = Start(lane, 1, pool.span, sequence)
        try:
            return self.begin(start) and self._poll(lambda: self._look_quietly(start))
        finally:
            pool.give(lane.code)
            pool.give(lane.status)

    def _look_quietly(self, start: Start) -> bool:
        control = self.core.take_control()
        self.core.acknowledge()
        status = self._read_status(start) if control.done or control.idle else None
        return status is not None and not status.error and status.fingerprint == self.design.config.fingerprint

    def _poll(self, test: Callable[[], bool]) -> bool:
        end = time.monotonic() + self.timing.reset
        while time.monotonic() < end:
            if test():
                return True
            time.sleep(_SHORTEST_POLL)
        return False
