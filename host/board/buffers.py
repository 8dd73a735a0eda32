"""Device memory of a board: slots of contiguous memory, and handles that know which copy of their bytes is the right one.

The processor's cache and the accelerator do not see each other's writes. So a handle gives its bytes out only through `read` and
`write`, and its state says what has to be synchronised: `write` makes it HOST, a program that writes it makes it DEVICE, and the
synchronisation happens when the other side needs it. There is no other way to the bytes, hence no way to forget it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from systolora.hls.check import Region
from systolora.sim.functional.device import Buffer, DeviceError, OutOfDeviceMemory
from systolora.sim.functional.memory import BufferMisuseError

from .completion import Completion
from .errors import Health, describe
from .pool import Slot, SlotPool
from .thread import OwnerThread

T = TypeVar("T")


class State(Enum):
    """Where the valid copy of a buffer's bytes is."""

    CLEAN = "both copies are the same"
    HOST = "the processor has written"
    DEVICE = "a program has written, or is about to"
    LOST = "a program that should have written it was lost"
    FREED = "given back"


class BoardMemory:
    """The handles of one board."""

    def __init__(self, owner: OwnerThread, pool: SlotPool, health: Health) -> None:
        self.owner, self.pool, self.health = owner, pool, health
        self._lock = threading.RLock()

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Has the owner of the board call a function that uses pynq.

        Raises:
            BoardLost: if pynq or the connection to the board fails.
        """
        self.health.require()
        return self.owner.call(self._guard, function, *arguments)

    def _guard(self, function: Callable[..., T], *arguments: Any) -> T:
        """In the owner's thread: what fails here is the board, and not the thread that asked, nor an interrupt of it."""
        try:
            return function(*arguments)
        except (DeviceError, OutOfDeviceMemory, BufferMisuseError, ValueError):
            raise
        except Exception as error:
            raise self.health.lose(describe(error), error) from error

    def exclusive(self) -> AbstractContextManager[Any]:
        """Keeps other threads from changing handles meanwhile; `owner.settle` then ends what an interrupted one has left. The owner of
        the board never waits: it does one thing at a time, and the thread that holds the lock may be waiting for it."""
        return nullcontext() if self.owner.is_current else self._lock

    def allocate(self, nbytes: int, label: str) -> BoardBuffer:
        """A handle. Raises OutOfDeviceMemory."""
        if nbytes < 0:
            raise ValueError(f"allocate({nbytes}): a size in bytes cannot be negative")
        return self.call(self._new_handle, nbytes, label)

    def _new_handle(self, nbytes: int, label: str) -> BoardBuffer:
        return BoardBuffer(self, self.pool.take(nbytes, label), nbytes, label)


class BoardBuffer(Buffer):
    """A handle of device memory on a board; see `Buffer`. One that is no longer referenced is given back as by `free`."""

    def __init__(self, memory: BoardMemory, slot: Slot, nbytes: int, label: str) -> None:
        self.address, self.nbytes, self.label = slot.address, nbytes, label
        self._memory, self._slot = memory, slot
        self._holder = memory.pool.hold(self, slot)
        self._state = State.CLEAN
        self._lent: NDArray[np.uint8] | None = None
        self._writer: Completion | None = None

    @property
    def state(self) -> State:
        """Which copy of the bytes is valid."""
        return self._state

    @property
    def region(self) -> Region:
        """The device addresses that the handle stands for, its slot's slack included."""
        return Region(self.address, self._slot.size)

    def read(self) -> NDArray[np.uint8]:
        """See `Buffer.read`. Waits for the last program that writes the buffer.

        Raises:
            DeviceError: if that program was lost, and with it the bytes.
        """
        return self._when_free(lambda: self._writer, self._read)

    def write(self) -> NDArray[np.uint8]:
        """See `Buffer.write`. Waits for the last program that uses the buffer. The view becomes read-only when a program that uses
        the buffer is submitted: what is written later must come through a new view, or it would not be synchronised."""
        return self._when_free(lambda: self._holder.user, self._write)

    def _when_free(
        self, user: Callable[[], Completion | None], action: Callable[[], NDArray[np.uint8]]
    ) -> NDArray[np.uint8]:
        while True:
            self.require(self._memory)
            with self._memory.exclusive():
                self._memory.owner.settle()
                program = user()
                if program is None or program.done:
                    return action()
            self._wait_for(program)

    def _read(self) -> NDArray[np.uint8]:
        if self._state is State.LOST:
            raise DeviceError(f"{self._name}: its bytes were lost with a program that hung; run the program again")
        self._fetch()
        view = self._slot.bytes[: self.nbytes]
        view.flags.writeable = False
        return view

    def _write(self) -> NDArray[np.uint8]:
        self._fetch()
        view = self._lent = self._slot.bytes[: self.nbytes]
        self._state = State.HOST
        return view

    def free(self) -> None:
        """See `Buffer.free`. Never waits, and is safe in a finalizer: the slot is used again when no program needs it any more.

        Raises:
            BufferMisuseError: the second time.
        """
        if self._state is State.FREED:
            raise BufferMisuseError(f"{self._name} was freed twice; free each buffer once")
        # In this order: if an interrupt comes in between, the slot is on its way back, and coming back once more does no harm.
        self._memory.pool.hand_back(self._holder)
        self._state = State.FREED

    def require(self, memory: BoardMemory) -> None:
        """Raises BufferMisuseError if this buffer was freed or belongs to another board."""
        if self._state is State.FREED:
            raise BufferMisuseError(f"{self._name} was used after it was freed; allocate a new one")
        if memory is not self._memory:
            raise BufferMisuseError(f"{self._name} belongs to another device; allocate it on the device that uses it")

    def hand_over(self, program: Completion, written: bool) -> None:
        """Makes the bytes visible to a program that is about to be queued. Only in the thread that owns the board."""
        if self._state is State.HOST:
            self._slot.buffer.sync_to_device()
            self._state = State.CLEAN
        if self._lent is not None:
            self._lent.flags.writeable = False
            self._lent = None
        self._holder.user = program
        if written:
            self._writer, self._state = program, State.DEVICE

    def lose(self) -> None:
        """Says that a program which should have written the buffer was lost."""
        if self._state is not State.FREED:
            self._state = State.LOST

    def _fetch(self) -> None:
        if self._state is State.DEVICE:
            self._memory.call(self._slot.buffer.sync_from_device)
            self._state = State.CLEAN

    def _wait_for(self, program: Completion) -> None:
        if self._memory.owner.is_current:
            raise DeviceError(
                f"{self._name}: a callback of a program waited for another program, which can only start when the callback "
                "returns; read the buffer outside of callbacks"
            )
        program.wait()

    @property
    def _name(self) -> str:
        label = f" {self.label!r}" if self.label else ""
        return f"buffer{label} of {self.nbytes} bytes at {self.address:#x}"
