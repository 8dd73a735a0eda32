"""A pool of device buffers, so that a training step allocates nothing after the first one."""

from __future__ import annotations

import threading
import weakref
from collections import defaultdict
from itertools import count

import numpy as np
import torch
from systolora.sim.functional.device import Buffer, Device, OutOfDeviceMemory
from systolora.sim.functional.memory import ArenaBuffer
from torch import Tensor

SMALLEST = 256
"""Bytes of the smallest buffer that the pool hands out."""


class Lease:
    """A buffer on loan from a pool; given back by `release`, or when the lease is no longer referenced."""

    def __init__(self, pool: BufferPool, buffer: Buffer, size: int) -> None:
        self.buffer = buffer
        # Not `__del__`: at the interpreter's end that runs when the names of modules are gone.
        self._return = weakref.finalize(self, pool._take_back, buffer, size)
        self._return.atexit = False

    def release(self) -> None:
        """Gives the buffer back; a second call does nothing."""
        self._return()


class BufferPool:
    """Buffers of one device, kept for reuse by size.

    The buffer given back last is handed out first: a step that repeats the order of its leases gets the same buffers, so that
    its programs are the same bytes again.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._idle: dict[int, list[Buffer]] = defaultdict(list)
        self._kept: dict[int, Lease] = {}
        self._numbers = count(1)
        # Re-entrant: a lease may be collected, and so come back, while this thread is inside the pool.
        self._lock = threading.RLock()
        self._open = True

    def lease(self, nbytes: int, label: str = "") -> Lease:
        """A buffer of at least `nbytes` bytes with undefined contents.

        Raises:
            OutOfDeviceMemory: if there is no room even after all idle buffers were freed.
        """
        size = _size_class(nbytes)
        with self._lock:
            if self._idle[size]:
                return Lease(self, self._idle[size].pop(), size)
            try:
                buffer = self._device.allocate(size, label)
            except OutOfDeviceMemory:
                self.trim()
                buffer = self._device.allocate(size, label)
        return Lease(self, buffer, size)

    def keep(self, lease: Lease) -> Tensor:
        """A tensor, int64 [1], that keeps the lease: it may go when the tensor's storage dies.

        Given to `save_for_backward` it ties the buffer to what autograd saved: freed after the backward pass, kept with
        `retain_graph`, dropped and made again by gradient checkpointing.
        """
        number = next(self._numbers)
        anchor = np.array([number], np.int64)
        self._kept[number] = lease
        weakref.finalize(anchor, self._drop, number).atexit = False
        return torch.from_numpy(anchor)

    def kept(self, anchor: Tensor) -> Lease:
        """The lease that `keep` tied to the tensor.

        Raises:
            RuntimeError: if the buffer was given back, because something copied the saved tensors instead of keeping them.
        """
        lease = self._kept.get(int(anchor[0]))
        if lease is None:
            raise RuntimeError(
                "the activations of this layer are no longer in device memory: the offload was undone, or a hook on saved "
                "tensors (save_on_cpu and the like) copied them; use gradient checkpointing to save memory instead"
            )
        return lease

    def trim(self) -> None:
        """Frees all buffers that are not on loan."""
        with self._lock:
            for buffers in self._idle.values():
                while buffers:
                    buffers.pop().free()

    def close(self) -> None:
        """Frees all buffers that are not on loan; those on loan are freed when they come back."""
        with self._lock:
            self._open = False
            self._kept.clear()
            self.trim()

    def _drop(self, number: int) -> None:
        self._kept.pop(number, None)

    def _take_back(self, buffer: Buffer, size: int) -> None:
        if isinstance(buffer, ArenaBuffer):
            buffer.end_loan()
        with self._lock:
            if self._open:
                self._idle[size].append(buffer)
            else:
                buffer.free()


def _size_class(nbytes: int) -> int:
    """`nbytes`, raised to one of four sizes per power of two: at most a quarter is wasted, and few sizes exist."""
    if nbytes <= SMALLEST:
        return SMALLEST
    step = 1 << (nbytes - 1).bit_length() - 3
    return -(-nbytes // step) * step
