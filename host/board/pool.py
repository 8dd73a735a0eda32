"""Slots of contiguous device memory, kept for reuse by size. They know no states and no programs' contents."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from systolora.hls.check import Region, round_up
from systolora.sim.functional.device import OutOfDeviceMemory

from .cma import CmaState, cma_message
from .completion import Completion

_SMALLEST_SLOT = 4096


@dataclass(frozen=True, eq=False)
class Slot:
    """One pynq buffer while it is taken: each `take` gives another object, so that giving back what was taken is told from giving it
    back twice. Each is synchronised as a whole: pynq 3.1 and later would do so even if asked for a part.

    Attributes:
        buffer: what `pynq.allocate` gave. bytes: uint8 [size], the processor's view.
    """

    buffer: Any
    bytes: NDArray[np.uint8]
    address: int
    size: int


class Holder(weakref.ref[Any]):
    """Tells the pool when a handle of a slot is given back, or is no longer referenced.

    Attributes:
        slot: what the handle stands for. user: the last program that uses it, or None.
    """

    slot: Slot
    user: Completion | None = None


def slot_size(nbytes: int) -> int:
    """The size class of a request: four classes to an octave, so at most a quarter is unused."""
    if nbytes <= _SMALLEST_SLOT:
        return _SMALLEST_SLOT
    return round_up(nbytes, 1 << (nbytes - 1).bit_length() - 3)


class SlotPool:
    """Slots by size class. Slots that are given back are kept for the next request, because allocating contiguous memory is slow
    and breaks it into pieces. All methods but `hand_back` and `bytes_held` are for the thread that owns the board, which no interrupt
    reaches."""

    def __init__(self, allocate: Callable[[int], Any], cma: Callable[[], CmaState | None]) -> None:
        self._allocate, self._cma = allocate, cma
        self._free: dict[int, list[Slot]] = {}
        self._held: dict[int, tuple[Slot, str]] = {}
        self._holders: dict[Slot, Holder] = {}
        self._returned: deque[Holder] = deque()
        self._low, self._high = 1 << 64, 0

    @property
    def span(self) -> Region:
        """From the lowest to the highest address that any slot ever had."""
        return Region(self._low, max(0, self._high - self._low))

    @property
    def bytes_held(self) -> int:
        """Bytes of slots that are in use."""
        returned = {holder.slot for holder in tuple(self._returned)}
        return sum(slot.size for slot, _ in tuple(self._held.values()) if slot not in returned)

    def take(self, nbytes: int, label: str) -> Slot:
        """A slot of at least `nbytes` bytes.

        Raises:
            OutOfDeviceMemory: if there is no contiguous memory left, kept slots included.
        """
        self._collect()
        size = slot_size(nbytes)
        kept = self._free.get(size)
        slot = replace(kept.pop()) if kept else self._make(size, label)
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
            # PYNQ.remote's server answers an allocation that failed with an empty number and no error. There is nothing to give back:
            # pynq would try it whenever the garbage collector finds the buffer, which may be in a thread of gRPC, and hang.
            buffer.freed = True
            raise MemoryError("the remote board returned no buffer")
        return Slot(buffer, np.asarray(buffer), int(buffer.device_address), size)

    def give(self, slot: Slot) -> None:
        """Takes a slot back, for the next request of its size. A second time it does nothing, whoever has the memory by then."""
        held = self._held.get(slot.address)
        if held is not None and held[0] is slot:
            del self._held[slot.address]
            self._holders.pop(slot, None)
            self._free.setdefault(slot.size, []).append(slot)

    def hold(self, handle: object, slot: Slot) -> Holder:
        """Has the slot come back when the handle dies. That is an append, made by the interpreter itself: no interrupt and no garbage
        collection finds it half done."""
        holder = self._holders[slot] = Holder(handle, self._returned.append)
        holder.slot = slot
        return holder

    def hand_back(self, holder: Holder) -> None:
        """Takes a slot back when the last program that uses it has ended. From any thread, at any time, any number of times."""
        self._returned.append(holder)

    def _collect(self) -> None:
        for _ in range(len(self._returned)):
            holder = self._returned.popleft()
            if holder.user is None or holder.user.done:
                self.give(holder.slot)
            else:
                self._returned.append(holder)

    def trim(self) -> None:
        """Gives all kept slots back to the system."""
        self._free.clear()

    def drop(self) -> list[Slot]:
        """Forgets all slots and returns them; contiguous memory is given back when nothing refers to it."""
        slots = [slot for slot, _ in self._held.values()]
        slots += [slot for kept in self._free.values() for slot in kept]
        self._held.clear()
        self._holders.clear()
        self._returned.clear()
        self.trim()
        return slots
