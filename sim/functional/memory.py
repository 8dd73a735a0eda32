"""A model of device memory: one arena of bytes behind device addresses, and its allocator.

It knows nothing of instructions, so the emulator, C-simulation and the emulated board share it.
"""

from __future__ import annotations

import mmap
import threading
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from systolora.hls.check import Region, round_up

from .device import Buffer, OutOfDeviceMemory
from .holes import Holes

ALIGNMENT = 64
"""Every buffer starts at a multiple of this many bytes: the widest bus word, and a cache line of the host."""

DEFAULT_BASE = 0x1000_0000
DEFAULT_CAPACITY = 8 << 30

_MAP_NORESERVE = 0x4000
"""Linux: pages are not charged before they are touched. The name is missing from older Pythons' mmap module."""


class BufferMisuseError(RuntimeError):
    """A buffer that was freed, or that belongs to another device."""


class DeviceMemory:
    """Bytes of device memory with an allocator; the operating system commits pages when they are first touched.

    Attributes:
        base: device address of the first byte.
        capacity: size in bytes.
        bytes: uint8 [capacity], all of it, as the host sees it.
        pointer: host address of the first byte, for compiled code.
    """

    def __init__(self, capacity: int = DEFAULT_CAPACITY, base: int = DEFAULT_BASE) -> None:
        """Raises ValueError if the capacity is not positive or the base not aligned to 64 bytes."""
        if capacity < ALIGNMENT or base < 0 or base % ALIGNMENT:
            raise ValueError(
                f"device memory of {capacity} bytes at {base:#x}: at least {ALIGNMENT} bytes at a multiple of {ALIGNMENT} "
                "are needed"
            )
        self.base = base
        self.capacity = capacity // ALIGNMENT * ALIGNMENT
        arena = mmap.mmap(-1, self.capacity, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
        _prefer_huge_pages(arena)
        self._arena = arena
        self.bytes: NDArray[np.uint8] = np.frombuffer(arena, np.uint8)
        self.pointer: int = self.bytes.ctypes.data
        self._holes = Holes(base, self.capacity)
        self._blocks: dict[int, _Block] = {}
        self._returned: deque[_Block] = deque()
        self._whole = True
        self._lent: dict[int, int] = {}
        self._discarded = False
        self._lock = threading.Lock()
        self._in_use = 0
        self._peak = 0

    @property
    def window(self) -> Region:
        """All of the memory as an address window."""
        return Region(self.base, self.capacity)

    @property
    def bytes_in_use(self) -> int:
        """Bytes that are allocated, rounded up to the alignment."""
        with self._lock:
            self._take_back()
            return self._in_use

    @property
    def peak_bytes(self) -> int:
        """Most bytes that were allocated at once."""
        return self._peak

    def allocate(self, nbytes: int, label: str = "") -> ArenaBuffer:
        """A buffer of `nbytes` bytes (more may lie behind it), aligned to 64. Its contents are whatever lay there.

        Raises:
            OutOfDeviceMemory: if no hole is large enough.
        """
        if nbytes < 0:
            raise ValueError(f"allocate({nbytes}): a size in bytes cannot be negative")
        size = max(ALIGNMENT, round_up(nbytes, ALIGNMENT))
        with self._lock:
            self._take_back()
            self._whole = False
            address = self._holes.take(size)
            if address is not None:
                block = self._blocks[address] = _Block(address, size)
                self._in_use += size
                self._peak = max(self._peak, self._in_use)
            self._whole = True
        if address is None:
            raise OutOfDeviceMemory(self._full(nbytes, label))
        return ArenaBuffer(self, block, nbytes, label)

    def release(self, block: _Block) -> None:
        """Gives an allocation back, for the next one that looks for room; a second time does nothing. Never waits, so it is safe in a
        finalizer."""
        self._returned.append(block)

    def view(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        """The bytes at a device address, to read and to write.

        Raises:
            ValueError: if they do not lie in this memory.
        """
        start = address - self.base
        if start < 0 or nbytes < 0 or start + nbytes > self.capacity:
            raise ValueError(
                f"{nbytes} bytes at {address:#x} are not in device memory, {self.base:#x} to {self.base + self.capacity:#x}"
            )
        return self.bytes[start : start + nbytes]

    def discard(self) -> None:
        """Gives the pages back to the operating system: all bytes are zero afterwards, but for buffers that are lent.

        Allocations stay valid.
        """
        with self._lock:
            self._discarded = True
            start = 0
            for address, size in sorted(self._lent.copy().items()):
                self._drop_pages(start, address - self.base)
                start = address - self.base + size
            self._drop_pages(start, self.capacity)

    def lend(self, address: int, nbytes: int) -> None:
        """The host uses these bytes as its own: `discard` spares them until `take_back_loan`."""
        self._lent[address] = nbytes

    def take_back_loan(self, address: int) -> None:
        """The host no longer uses what it was lent; a second call does nothing."""
        size = self._lent.pop(address, None)
        if size is not None and self._discarded:
            start = address - self.base
            self._drop_pages(start, start + size)

    def _drop_pages(self, start: int, end: int) -> None:
        """Gives back the whole pages between two offsets."""
        first, last = round_up(start, mmap.PAGESIZE), end // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first:
            self._arena.madvise(mmap.MADV_DONTNEED, first, last - first)

    def _take_back(self) -> None:
        if not self._whole:
            self._find_holes()
        self._whole = False
        while self._returned:
            block = self._returned[0]
            if self._blocks.get(block.address) is block:
                del self._blocks[block.address]
                self._in_use -= block.size
                self._holes.put(block.address, block.size)
            self._returned.popleft()
        self._whole = True

    def _find_holes(self) -> None:
        """Makes the holes anew from what is allocated: an interrupt (Ctrl-C) came in the middle of a change."""
        holes = Holes(self.base, self.capacity)
        holes.take(self.capacity)
        start = self.base
        for address, block in sorted(self._blocks.items()):
            if address > start:
                holes.put(start, address - start)
            start = address + block.size
        if start < self.base + self.capacity:
            holes.put(start, self.base + self.capacity - start)
        self._holes, self._in_use = holes, sum(block.size for block in self._blocks.values())

    def _full(self, nbytes: int, label: str) -> str:
        what = f" for {label}" if label else ""
        free = self.capacity - self._in_use
        return (
            f"device memory is full: {nbytes} bytes{what} asked for, {free} of {self.capacity} free, the largest hole "
            f"is {self._holes.largest}; use a smaller batch or resolution, or open the device with more memory"
        )


@dataclass(frozen=True, eq=False)
class _Block:
    """An allocation. Each is an object of its own, so that giving it back twice is not giving back what lies there by then."""

    address: int
    size: int


class ArenaBuffer(Buffer):
    """A buffer of a `DeviceMemory`."""

    def __init__(self, memory: DeviceMemory, block: _Block, nbytes: int, label: str) -> None:
        self._memory = memory
        self._block = block
        self.address = block.address
        self.nbytes = nbytes
        self.label = label
        self._alive = True

    def read(self) -> NDArray[np.uint8]:
        """See `Buffer.read`. Raises BufferMisuseError after `free`."""
        view = self.write()
        view.flags.writeable = False
        return view

    def write(self) -> NDArray[np.uint8]:
        """See `Buffer.write`. Raises BufferMisuseError after `free`."""
        self._check_alive()
        start = self.address - self._memory.base
        return self._memory.bytes[start : start + self.nbytes]

    def free(self) -> None:
        """See `Buffer.free`. Raises BufferMisuseError if it was freed before."""
        if not self._alive:
            raise BufferMisuseError(f"{self._name} was freed twice; free each buffer once")
        self._memory.release(self._block)
        self._alive = False

    def lend(self) -> None:
        """Marks the bytes as in use by the host: they outlive the closing of the device. See `DeviceMemory.lend`."""
        self._memory.lend(self.address, self.nbytes)

    def end_loan(self) -> None:
        """The host no longer uses the bytes; does nothing if they were not lent."""
        self._memory.take_back_loan(self.address)

    def belongs_to(self, memory: DeviceMemory) -> bool:
        """Whether the buffer lies in this memory.

        Raises:
            BufferMisuseError: if it was freed.
        """
        self._check_alive()
        return memory is self._memory

    def _check_alive(self) -> None:
        if not self._alive:
            raise BufferMisuseError(f"{self._name} was used after it was freed; allocate a new one")

    @property
    def _name(self) -> str:
        label = f" {self.label!r}" if self.label else ""
        return f"buffer{label} of {self.nbytes} bytes at {self.address:#x}"


def check_buffer(buffer: Buffer, memory: DeviceMemory) -> None:
    """Raises BufferMisuseError if a buffer was freed or does not lie in this memory."""
    if not (isinstance(buffer, ArenaBuffer) and buffer.belongs_to(memory)):
        raise BufferMisuseError(
            f"buffer {buffer.label!r} of {buffer.nbytes} bytes belongs to another device; allocate it on the one that uses it"
        )


def _prefer_huge_pages(arena: mmap.mmap) -> None:
    # Fewer page faults: on virtual machines the first touch of a page costs more than filling it.
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is None:
        return
    try:
        arena.madvise(advice)
    except OSError:
        return  # a kernel without transparent huge pages: small pages work as well
