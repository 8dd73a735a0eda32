"""What devices on a modelled device memory share: buffers, program and status block, counters. How a program runs is theirs."""

from __future__ import annotations

from abc import abstractmethod
from concurrent.futures import Future

import numpy as np
from systolora.hls.check import STATUS_BYTES
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import INSTRUCTION_BYTES
from systolora.hls.registers import Counters, Status

from .device import Device, DeviceError, Program
from .memory import ArenaBuffer, DeviceMemory, check_buffer


class MemoryDevice(Device):
    """Runs programs in the calling thread: the future that `submit` returns is already done.

    Attributes:
        memory: the device memory.
    """

    def __init__(self, config: ArrayConfig | None, capacity_bytes: int) -> None:
        """A device with `capacity_bytes` of memory, of which only what is used is taken from the computer.

        Args:
            config: the accelerator; None is `ArrayConfig()`.
        """
        self.config = config or ArrayConfig()
        self.memory = DeviceMemory(capacity_bytes)
        self._counters = Counters()
        self._status = self.memory.allocate(STATUS_BYTES, "status block")
        self._program = self.memory.allocate(INSTRUCTION_BYTES, "program")
        self._sequence = 0
        self._open = True

    @abstractmethod
    def _start(self, program: Program, count: int) -> Status:
        """Runs the `count` instructions at `_program`, with the window all of memory; writes the block at `_status`."""

    def allocate(self, nbytes: int, label: str = "") -> ArenaBuffer:
        """See `Device.allocate`."""
        self._check_open()
        return self.memory.allocate(nbytes, label)

    def submit(self, program: Program) -> Future[Status]:
        """See `Device.submit`.

        Raises:
            ValueError: if the code is not a whole number of instructions.
            BufferMisuseError: if a buffer of the program was freed or belongs to another device.
        """
        self._check_open()
        future: Future[Status] = Future()
        status = self._run(program)
        if status.error:
            future.set_exception(DeviceError.from_status(self.name, status, program.labels))
        else:
            future.set_result(status)
        return future

    @property
    def counters(self) -> Counters:
        """See `Device.counters`; programs that were stopped count as far as they came."""
        return self._counters

    @property
    def bytes_in_use(self) -> int:
        """See `Device.bytes_in_use`."""
        return self.memory.bytes_in_use

    def close(self) -> None:
        """See `Device.close`. Views of buffers stay readable and hold zeros, but for those of lent ones."""
        if self._open:
            self._open = False
            self.memory.discard()

    def _run(self, program: Program) -> Status:
        size = len(program.code)
        if size % INSTRUCTION_BYTES:
            raise ValueError(f"a program of {size} bytes: it must be a multiple of {INSTRUCTION_BYTES}")
        for buffer in (*program.reads, *program.writes):
            check_buffer(buffer, self.memory)
        if size > self._program.nbytes:
            smaller, self._program = self._program, self.memory.allocate(2 * size, "program")
            smaller.free()
        self._program.write()[:size] = np.frombuffer(program.code, np.uint8)
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        status = self._start(program, size // INSTRUCTION_BYTES)
        self._counters = self._counters + status.counters
        return status

    def _check_open(self) -> None:
        if not self._open:
            raise DeviceError(f"{self.name}: the device is closed; open it again")
