"""A board as a device: programs run on the accelerator in its programmable logic, by PYNQ."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from systolora.hls.check import Region
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import INSTRUCTION_BYTES, ErrorCode
from systolora.hls.registers import Counters, Status
from systolora.programs.check import Misplaced, ProgramRegions
from systolora.sim.functional.device import Device, DeviceError, Program
from systolora.sim.functional.memory import BufferMisuseError

from .buffers import BoardBuffer, BoardMemory
from .queue import Job, ProgramQueue


@dataclass
class _Running:
    """What has to be ended when the device is closed, or dropped."""

    queue: ProgramQueue
    memory: BoardMemory
    session: Any
    closers: list[Callable[[], None]] = field(default_factory=list)
    open: bool = True
    ending: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """Ends everything, in the thread that owns the board, and waits for that. Again, if the wait was interrupted or all is over."""
        self.open = False
        owner = self.memory.owner
        if owner.is_elsewhere:
            return
        owner.post(self._begin_to_end)
        owner.join()
        if self.ending is not None and not owner.is_current:
            self.ending.result()

    def _begin_to_end(self) -> None:
        if self.ending is None:
            self.ending = asyncio.get_running_loop().create_task(self._end())

    async def _end(self) -> None:
        try:
            await self.queue.close()
            self.session.release()
            slots = self.memory.pool.drop()
            if self.memory.health.lost is not None:
                self.session.device.systolora_kept = [*getattr(self.session.device, "systolora_kept", []), *slots]
            for function in self.closers:
                function()
        finally:
            self.memory.owner.stop()


class BoardDevice(Device):
    """See `Device`. Made by `open_board`.

    Programs are queued: `submit` returns while up to two are in flight, and waits for room beyond that.

    Attributes:
        session: the design that is loaded, for reports.
    """

    def __init__(self, config: ArrayConfig, session: Any, memory: BoardMemory) -> None:
        self.name, self.config, self.session = memory.health.name, config, session
        self._memory = memory
        self._regions = ProgramRegions(config)
        self._queue = ProgramQueue(config, session, memory, self._regions)
        self._running = _Running(self._queue, memory, session)
        weakref.finalize(self, self._running.stop)

    def on_close(self, function: Callable[[], None]) -> None:
        """Has a function called when the device has been closed, in the thread that owned the board."""
        self._running.closers.append(function)

    def allocate(self, nbytes: int, label: str = "") -> BoardBuffer:
        """See `Device.allocate`."""
        self._require_open()
        return self._memory.allocate(nbytes, label)

    def submit(self, program: Program) -> Future[Status]:
        """See `Device.submit`.

        Raises:
            ValueError: if the code is not a whole number of instructions.
            BufferMisuseError: if a buffer is no handle of this board, or was freed.
            BoardLost: if the board does not answer any more.
        """
        self._require_open()
        if not program.code or len(program.code) % INSTRUCTION_BYTES:
            raise ValueError(
                f"a program of {len(program.code)} bytes: it must be a positive multiple of {INSTRUCTION_BYTES}"
            )
        reads, writes = self._handles(program.reads), self._handles(program.writes)
        misplaced = self._regions.find_misplaced(
            program.code, [buffer.region for buffer in reads], [buffer.region for buffer in writes]
        )
        if misplaced is not None:
            return self._refuse(program, misplaced)
        return self._queue.submit(Job(program, reads, writes))

    def _handles(self, buffers: tuple[Any, ...]) -> tuple[BoardBuffer, ...]:
        for buffer in buffers:
            if not isinstance(buffer, BoardBuffer):
                raise BufferMisuseError(
                    f"a {type(buffer).__name__} cannot be given to {self.name}: only buffers from its allocate() can"
                )
            buffer.require(self._memory)
        return buffers

    def _refuse(self, program: Program, misplaced: Misplaced) -> Future[Status]:
        index, region = misplaced.index, misplaced.region
        label = program.labels.get(index, "")
        text = (
            f"{self.name}: instruction {index}{f' ({label})' if label else ''} was not started: {_range(region)} "
            "is in no buffer that the program names as read or written; name the buffer, or mend the address"
        )
        future: Future[Status] = Future()
        future.set_exception(DeviceError(text, ErrorCode.WINDOW, index, label))
        return future

    @property
    def counters(self) -> Counters:
        """See `Device.counters`; programs that were stopped count as far as they came."""
        return self._queue.counters

    @property
    def retries(self) -> int:
        """Programs that were run again after the core had hung and was reset."""
        return self._queue.retries

    @property
    def bytes_in_use(self) -> int:
        """See `Device.bytes_in_use`; in whole slots, those of the queue included."""
        return self._memory.pool.bytes_held

    def close(self) -> None:
        """See `Device.close`. Waits for the programs in flight. Also happens when the device is dropped, or the process ends.

        The slots of a board that is lost stay with the pynq device until the process ends: the core may still write to them.
        """
        self._running.stop()

    def _require_open(self) -> None:
        if not self._running.open:
            raise DeviceError(f"{self.name}: the device is closed; open it again")
        self._memory.health.require()


def _range(region: Region) -> str:
    return f"{region.address:#x} to {region.address + region.size - 1:#x}"
