"""Device memory of a board: slots of contiguous memory, and handles that know which copy of their bytes is the right one.

The processor's cache and the accelerator do not see each other's writes. So a handle gives its bytes out only through `read` and
`write`, and its state says what has to be synchronised: `write` makes it HOST, a program that writes it makes it DEVICE, and the
synchronisation happens when the other side needs it. There is no other way to the bytes, hence no way to forget it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_futures
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from systolora.hls.check import Region, round_up
from systolora.sim.functional.device import Buffer, DeviceError, OutOfDeviceMemory
from systolora.sim.functional.memory import BufferMisuseError

from .cma import CmaState, cma_message
from .errors import Health, describe
from .thread import OwnerThread

T = TypeVar("T")

_SMALLEST_SLOT = 4096


class State(Enum):
    """Where the valid copy of a buffer's bytes is."""

    CLEAN = "both copies are the same"
    HOST = "the processor has written"
    DEVICE = "a program has written, or is about to"
    LOST = "a program that should have written it was lost"
    FREED = "given back"


@dataclass(frozen=True)
class Slot:
    """One pynq buffer. Each is synchronised as a whole: pynq 3.1 and later would do so even if asked for a part.

    Attributes:
        buffer: what `pynq.allocate` gave. bytes: uint8 [size], the processor's view.
    """

    buffer: Any
    bytes: NDArray[np.uint8]
    address: int
    size: int


def slot_size(nbytes: int) -> int:
    """The size class of a request: four classes to an octave, so at most a quarter is unused."""
    if nbytes <= _SMALLEST_SLOT:
        return _SMALLEST_SLOT
    return round_up(nbytes, 1 << (nbytes - 1).bit_length() - 3)


class SlotPool:
    """Slots by size class. Slots that are given back are kept for the next request, because allocating contiguous memory is slow
    and breaks it into pieces. All methods but `hand_back` and `bytes_held` are for the thread that owns the board."""

    def __init__(self, allocate: Callable[[int], Any], cma: Callable[[], CmaState | None]) -> None:
        self._allocate, self._cma = allocate, cma
        self._free: dict[int, list[Slot]] = {}
        self._held: dict[int, tuple[Slot, str]] = {}
        self._returned: deque[tuple[Slot, Future[Any] | None]] = deque()
        self._low, self._high = 1 << 64, 0

    @property
    def span(self) -> Region:
        """From the lowest to the highest address that any slot ever had."""
        return Region(self._low, max(0, self._high - self._low))

    @property
    def bytes_held(self) -> int:
        """Bytes of slots that are in use."""
        returned = sum(slot.size for slot, _ in tuple(self._returned))
        return sum(slot.size for slot, _ in tuple(self._held.values())) - returned

    def take(self, nbytes: int, label: str) -> Slot:
        """A slot of at least `nbytes` bytes.

        Raises:
            OutOfDeviceMemory: if there is no contiguous memory left, kept slots included.
        """
        self._collect()
        size = slot_size(nbytes)
        kept = self._free.get(size)
        slot = kept.pop() if kept else self._make(size, label)
        self._held[slot.address] = (slot, label)
        return slot

    def _make(self, size: int, label: str) -> Slot:
        try:
            slot = self._allocate_slot(size)
        except (RuntimeError, MemoryError, OSError):
            self.trim()
            try:
                slot = self._allocate_slot(size)
            except (RuntimeError, MemoryError, OSError) as error:
                own = [(name, held.size) for held, name in self._held.values()]
                raise OutOfDeviceMemory(cma_message(size, label, self._cma(), own)) from error
        self._low, self._high = min(self._low, slot.address), max(self._high, slot.address + size)
        return slot

    def _allocate_slot(self, size: int) -> Slot:
        buffer = self._allocate(size)
        if getattr(buffer, "buffer_id", "local") in ("", None):
            # PYNQ.remote's server answers an allocation that failed with an empty number and no error.
            raise MemoryError("the remote board returned no buffer")
        return Slot(buffer, np.asarray(buffer), int(buffer.device_address), size)

    def give(self, slot: Slot) -> None:
        """Takes a slot back, for the next request of its size."""
        if self._held.pop(slot.address, None):
            self._free.setdefault(slot.size, []).append(slot)

    def hand_back(self, slot: Slot, user: Future[Any] | None) -> None:
        """Takes a slot back when the last program that uses it has ended. From any thread, at any time."""
        self._returned.append((slot, user))

    def _collect(self) -> None:
        for _ in range(len(self._returned)):
            slot, user = self._returned.popleft()
            if user is None or user.done():
                self.give(slot)
            else:
                self._returned.append((slot, user))

    def trim(self) -> None:
        """Gives all kept slots back to the system."""
        self._free.clear()

    def drop(self) -> list[Slot]:
        """Forgets all slots and returns them; contiguous memory is given back when nothing refers to it."""
        slots = [slot for slot, _ in self._held.values()]
        slots += [slot for kept in self._free.values() for slot in kept]
        self._held.clear()
        self._returned.clear()
        self.trim()
        return slots


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
        try:
            return self.owner.call(function, *arguments)
        except (DeviceError, OutOfDeviceMemory, ValueError):
            raise
        except Exception as error:
            raise self.health.lose(describe(error), error) from error

    def exclusive(self) -> AbstractContextManager[Any]:
        """Keeps other threads from changing handles meanwhile. The owner of the board never waits: it does one thing at a time, and
        the thread that holds the lock may be waiting for it."""
        return nullcontext() if self.owner.is_current else self._lock

    def allocate(self, nbytes: int, label: str) -> BoardBuffer:
        """A handle. Raises OutOfDeviceMemory."""
        if nbytes < 0:
            raise ValueError(f"allocate({nbytes}): a size in bytes cannot be negative")
        return BoardBuffer(self, self.call(self.pool.take, nbytes, label), nbytes, label)


class BoardBuffer(Buffer):
    """A handle of device memory on a board; see `Buffer`."""

    def __init__(self, memory: BoardMemory, slot: Slot, nbytes: int, label: str) -> None:
        self.address, self.nbytes, self.label = slot.address, nbytes, label
        self._memory, self._slot = memory, slot
        self._state = State.CLEAN
        self._lent: NDArray[np.uint8] | None = None
        self._writer: Future[Any] | None = None
        self._user: Future[Any] | None = None

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
        self.require(self._memory)
        self._wait_for(self._writer)
        with self._memory.exclusive():
            if self._state is State.LOST:
                raise DeviceError(f"{self._name}: its bytes were lost with a program that hung; run the program again")
            self._fetch()
            view = self._slot.bytes[: self.nbytes]
        view.flags.writeable = False
        return view

    def write(self) -> NDArray[np.uint8]:
        """See `Buffer.write`. Waits for the last program that uses the buffer. The view becomes read-only when a program that uses
        the buffer is submitted: what is written later must come through a new view, or it would not be synchronised."""
        self.require(self._memory)
        self._wait_for(self._user)
        with self._memory.exclusive():
            self._fetch()
            self._state = State.HOST
            self._lent = self._slot.bytes[: self.nbytes]
            return self._lent

    def free(self) -> None:
        """See `Buffer.free`. Never waits, and is safe in a finalizer: the slot is used again when no program needs it any more.

        Raises:
            BufferMisuseError: the second time.
        """
        if self._state is State.FREED:
            raise BufferMisuseError(f"{self._name} was freed twice; free each buffer once")
        self._state = State.FREED
        self._memory.pool.hand_back(self._slot, self._user)

    def require(self, memory: BoardMemory) -> None:
        """Raises BufferMisuseError if this buffer was freed or belongs to another board."""
        if self._state is State.FREED:
            raise BufferMisuseError(f"{self._name} was used after it was freed; allocate a new one")
        if memory is not self._memory:
            raise BufferMisuseError(f"{self._name} belongs to another device; allocate it on the device that uses it")

    def hand_over(self, future: Future[Any], written: bool) -> None:
        """Makes the bytes visible to a program that is about to be queued. Only in the thread that owns the board."""
        if self._state is State.HOST:
            self._slot.buffer.sync_to_device()
            self._state = State.CLEAN
        if self._lent is not None:
            self._lent.flags.writeable = False
            self._lent = None
        self._user = future
        if written:
            self._writer, self._state = future, State.DEVICE

    def lose(self) -> None:
        """Says that a program which should have written the buffer was lost."""
        if self._state is not State.FREED:
            self._state = State.LOST

    def _fetch(self) -> None:
        if self._state is State.DEVICE:
            self._memory.call(self._slot.buffer.sync_from_device)
            self._state = State.CLEAN

    def _wait_for(self, future: Future[Any] | None) -> None:
        if future is None or future.done():
            return
        if self._memory.owner.is_current:
            raise DeviceError(
                f"{self._name}: a callback of a program waited for another program, which can only start when the callback "
                "returns; read the buffer outside of callbacks"
            )
        wait_futures([future])

    @property
    def _name(self) -> str:
        label = f" {self.label!r}" if self.label else ""
        return f"buffer{label} of {self.nbytes} bytes at {self.address:#x}"
