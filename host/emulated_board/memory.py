"""Device memory of an emulated board: a limited contiguous pool behind a cache that nobody keeps coherent.

Two images hold the same addresses: what the processor sees through its cache, and what the programmable logic sees in DRAM. Only
`flush` and `invalidate` copy between them, so a forgotten synchronisation gives wrong numbers here exactly where it does on a
Zynq UltraScale+ high-performance port, which no cache snoops. Fresh memory holds a pattern instead of zeros, as on a board.
"""

from __future__ import annotations

import bisect
import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from systolora.hls.check import round_up
from systolora.sim.functional.memory import ArenaBuffer, DeviceMemory

from .faults import Faults

PAGE = 4096
POISON = 0xA5
DEFAULT_ADDRESS = 0x8_4000_0000
"""Above 4 GiB, where XRT puts buffers on boards with more than 2 GiB: an address cut to 32 bits does not survive here."""


class BusError(RuntimeError):
    """What ends in a bus error or a locked interconnect on a board."""


@dataclass
class Traffic:
    """Cache maintenance that was done, in calls and bytes."""

    flushes: int = 0
    flushed_bytes: int = 0
    invalidates: int = 0
    invalidated_bytes: int = 0


class EmulatedMemory:
    """Contiguous memory that the processor and the programmable logic see differently.

    Attributes:
        device: the programmable logic's image, with the allocator of the contiguous pool (CMA).
        traffic: cache maintenance so far.
    """

    def __init__(self, capacity: int, faults: Faults, address: int = DEFAULT_ADDRESS) -> None:
        self.device = DeviceMemory(round_up(capacity, PAGE), address)
        self._host = DeviceMemory(round_up(capacity, PAGE), address)
        self.traffic = Traffic()
        self._faults = faults
        self._blocks: dict[int, ArenaBuffer] = {}
        self._lock = threading.Lock()

    def allocate(self, nbytes: int) -> tuple[int, int]:
        """Address and size of whole pages.

        Raises:
            OutOfDeviceMemory: if the pool has no hole that is large enough.
        """
        size = max(PAGE, round_up(nbytes, PAGE))
        block = self.device.allocate(size)
        with self._lock:
            self._blocks[block.address] = block
        self.device.view(block.address, size)[:] = POISON
        self._host.view(block.address, size)[:] = POISON
        return block.address, size

    def free(self, address: int) -> None:
        """Gives pages back; unknown addresses are ignored, as by the kernel driver of a board."""
        block = self._blocks.pop(address, None)
        if block is not None:
            block.free()

    @property
    def live_blocks(self) -> int:
        """Allocations that were not given back."""
        return len(self._blocks)

    def host_pointer(self, address: int) -> int:
        """Process address of the processor's image of a device address."""
        return self._host.pointer + address - self._host.base

    def host_view(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        """The processor's image."""
        return self._host.view(address, nbytes)

    def flush(self, address: int, nbytes: int) -> None:
        """Processor to DRAM."""
        self.traffic.flushes += 1
        self.traffic.flushed_bytes += nbytes
        if not self._faults.hits("missing_flush"):
            self.device.view(address, nbytes)[:] = self._host.view(address, nbytes)

    def invalidate(self, address: int, nbytes: int) -> None:
        """DRAM to processor."""
        self.traffic.invalidates += 1
        self.traffic.invalidated_bytes += nbytes
        if not self._faults.hits("missing_invalidate"):
            self._host.view(address, nbytes)[:] = self.device.view(address, nbytes)

    def require_block(self, address: int, nbytes: int, what: str) -> None:
        """Raises BusError unless the bytes lie in one allocation."""
        with self._lock:
            starts = sorted(self._blocks)
            place = bisect.bisect_right(starts, address) - 1
            if place >= 0:
                block = self._blocks[starts[place]]
                if address + nbytes <= block.address + block.nbytes:
                    return
        raise BusError(f"{what}: {nbytes} bytes at {address:#x} are in no allocated buffer")

    def meminfo(self) -> str:
        """The two lines of /proc/meminfo that a board's kernel has about its pool."""
        total, used = self.device.capacity, self.device.bytes_in_use
        return f"CmaTotal:       {total // 1024} kB\nCmaFree:        {(total - used) // 1024} kB\n"
