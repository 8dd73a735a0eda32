"""The model of device memory: allocation, reuse, and misuse that says what is wrong."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from systolora.hls.check import Region
from systolora.sim.functional.device import OutOfDeviceMemory
from systolora.sim.functional.memory import ALIGNMENT, ArenaBuffer, BufferMisuseError, DeviceMemory, check_buffer


def test_buffers_are_aligned_apart_and_of_the_size_asked_for() -> None:
    memory = DeviceMemory(1 << 20)
    buffers = [memory.allocate(size, f"b{size}") for size in (0, 1, 64, 65, 1000)]
    assert [buffer.nbytes for buffer in buffers] == [0, 1, 64, 65, 1000]
    assert all(buffer.address % ALIGNMENT == 0 for buffer in buffers)
    assert memory.bytes_in_use == 64 + 64 + 64 + 128 + 1024
    for value, buffer in enumerate(buffers):
        buffer.write()[:] = value
    assert all((buffer.read() == value).all() for value, buffer in enumerate(buffers))


def test_host_address_and_device_address_agree() -> None:
    memory = DeviceMemory(1 << 20, base=0x4000_0000)
    buffer = memory.allocate(100)
    buffer.write()[7] = 42
    assert memory.view(buffer.address + 7, 1)[0] == 42
    assert buffer.read().ctypes.data - memory.pointer == buffer.address - memory.base
    assert memory.window == Region(0x4000_0000, 1 << 20)


def test_what_is_read_cannot_be_written() -> None:
    buffer = DeviceMemory(1 << 20).allocate(8)
    with pytest.raises(ValueError, match="read-only"):
        buffer.read()[0] = 1


def test_the_default_capacity_takes_no_memory_until_it_is_touched() -> None:
    memory = DeviceMemory()
    assert memory.capacity == 8 << 30
    far = memory.allocate(memory.capacity)
    far.write()[-1] = 9
    assert far.read()[-1] == 9


def test_a_full_memory_says_what_is_free() -> None:
    memory = DeviceMemory(4096)
    memory.allocate(1024)
    gap = memory.allocate(1024)
    memory.allocate(1024)
    gap.free()
    text = "1500 bytes for x asked for, 2048 of 4096 free, the largest hole is 1024; use a smaller batch"
    with pytest.raises(OutOfDeviceMemory, match=text):
        memory.allocate(1500, "x")
    assert memory.allocate(1024).address == gap.address


def test_neighbouring_holes_are_joined() -> None:
    memory = DeviceMemory(64 * 6)
    buffers = [memory.allocate(64) for _ in range(6)]
    for index in (1, 3, 2, 0, 5, 4):
        buffers[index].free()
    assert memory.allocate(64 * 6).address == memory.base
    assert memory.peak_bytes == 64 * 6


def test_use_after_free_and_double_free() -> None:
    memory = DeviceMemory(4096)
    buffer = memory.allocate(10, "gone")
    buffer.free()
    for use in (buffer.read, buffer.write):
        with pytest.raises(BufferMisuseError, match="'gone' of 10 bytes at 0x10000000 was used after it was freed"):
            use()
    with pytest.raises(BufferMisuseError, match="was freed twice; free each buffer once"):
        buffer.free()
    assert memory.bytes_in_use == 0


def test_a_buffer_of_another_memory_is_told_apart() -> None:
    one, two = DeviceMemory(4096), DeviceMemory(4096)
    buffer = one.allocate(8, "mine")
    check_buffer(buffer, one)
    with pytest.raises(BufferMisuseError, match="'mine' of 8 bytes belongs to another device"):
        check_buffer(buffer, two)


@pytest.mark.parametrize(("capacity", "base"), [(0, 0), (4096, 1), (4096, -64)])
def test_an_impossible_memory_is_refused(capacity: int, base: int) -> None:
    with pytest.raises(ValueError, match="at least 64 bytes at a multiple of 64"):
        DeviceMemory(capacity, base)


def test_sizes_and_places_are_checked() -> None:
    memory = DeviceMemory(4096)
    with pytest.raises(ValueError, match="cannot be negative"):
        memory.allocate(-1)
    for address, size in ((memory.base - 1, 1), (memory.base + 4095, 2), (memory.base, -1)):
        with pytest.raises(ValueError, match="are not in device memory"):
            memory.view(address, size)


def test_discard_gives_pages_back_and_keeps_the_views() -> None:
    memory = DeviceMemory(1 << 20)
    view = memory.allocate(4096).write()
    view[:] = 1
    memory.discard()
    assert not view.any()


def test_a_finalizer_may_free_while_the_allocator_works() -> None:
    """The garbage collector runs anywhere, so also inside `allocate`, with its lock held by this very thread."""
    memory = DeviceMemory(4096)
    buffer = memory.allocate(64)
    with memory._lock:
        buffer.free()
    assert memory.bytes_in_use == 0


def test_threads_may_allocate_and_free_at_once() -> None:
    memory = DeviceMemory(1 << 20)

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        held: list[ArenaBuffer] = []
        for _ in range(300):
            if held and rng.integers(2):
                held.pop(int(rng.integers(len(held)))).free()
            else:
                held.append(memory.allocate(int(rng.integers(500))))
                held[-1].write()[:] = seed
        for buffer in held:
            assert (buffer.read() == seed).all()
            buffer.free()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    assert memory.bytes_in_use == 0
    assert memory.allocate(1 << 20).address == memory.base


class Allocations(RuleBasedStateMachine):
    """Random allocation and release against a plain list of what is held."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = DeviceMemory(64 * 64)
        self.held: list[ArenaBuffer] = []

    @rule(size=st.integers(0, 1500))
    def allocate(self, size: int) -> None:
        try:
            self.held.append(self.memory.allocate(size))
        except OutOfDeviceMemory:
            units = np.zeros(64, bool)
            for buffer in self.held:
                start = (buffer.address - self.memory.base) // 64
                units[start : start + max(1, -(-buffer.nbytes // 64))] = True
            runs = "".join("x" if taken else "." for taken in units).split("x")
            assert max(map(len, runs)) < max(1, -(-size // 64))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        self.held.pop(data.draw(st.integers(0, len(self.held) - 1))).free()

    @invariant()
    def nothing_overlaps(self) -> None:
        regions = sorted((buffer.address, buffer.address + max(1, buffer.nbytes)) for buffer in self.held)
        assert all(end <= start for (_, end), (start, _) in zip(regions, regions[1:], strict=False))
        assert all(self.memory.base <= a and b <= self.memory.base + self.memory.capacity for a, b in regions)
        assert self.memory.bytes_in_use == sum(max(64, -(-buffer.nbytes // 64) * 64) for buffer in self.held)


TestAllocations = Allocations.TestCase
TestAllocations.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
