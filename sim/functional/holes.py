"""The free parts of a device memory: best fit, lowest address first."""

from __future__ import annotations

from bisect import bisect_left, insort


class Holes:
    """Free memory: best fit, lowest address first; neighbouring holes are joined."""

    def __init__(self, address: int, size: int) -> None:
        self._by_size: list[tuple[int, int]] = []
        self._start: dict[int, int] = {}
        self._end: dict[int, int] = {}
        self._insert(address, size)

    @property
    def largest(self) -> int:
        """Bytes in the largest hole."""
        return self._by_size[-1][0] if self._by_size else 0

    def take(self, size: int) -> int | None:
        """Address of `size` bytes that are no longer free, or None if no hole is large enough."""
        place = bisect_left(self._by_size, (size, 0))
        if place == len(self._by_size):
            return None
        hole, address = self._by_size[place]
        self._remove(address, hole)
        if hole > size:
            self._insert(address + size, hole - size)
        return address

    def put(self, address: int, size: int) -> None:
        """Makes `size` bytes free and joins them with the holes at either side."""
        before = self._end.get(address)
        if before is not None:
            self._remove(before, address - before)
            size += address - before
            address = before
        after = self._start.get(address + size)
        if after is not None:
            self._remove(address + size, after)
            size += after
        self._insert(address, size)

    def _insert(self, address: int, size: int) -> None:
        insort(self._by_size, (size, address))
        self._start[address] = size
        self._end[address + size] = address

    def _remove(self, address: int, size: int) -> None:
        del self._by_size[bisect_left(self._by_size, (size, address))]
        del self._start[address]
        del self._end[address + size]
