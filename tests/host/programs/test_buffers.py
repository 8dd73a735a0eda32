"""The pool of device buffers: reuse, ties to tensors, memory pressure, closing."""

from __future__ import annotations

import gc

import pytest
from systolora.programs.buffers import SMALLEST, BufferPool
from systolora.sim.functional.device import OutOfDeviceMemory
from systolora.sim.functional.emulator import EmulatorDevice


@pytest.fixture
def pool() -> BufferPool:
    return BufferPool(EmulatorDevice(capacity_bytes=1 << 16))


def test_the_last_one_back_is_the_first_one_out(pool: BufferPool) -> None:
    first, second = pool.lease(1000), pool.lease(1000)
    addresses = first.buffer.address, second.buffer.address
    first.release()
    second.release()
    second.release()
    again, more = pool.lease(900), pool.lease(1000)
    assert (again.buffer.address, more.buffer.address) == (addresses[1], addresses[0])


@pytest.mark.parametrize("nbytes", [0, 1, 255, 256, 257, 1000, 4097, 12289])
def test_a_lease_is_large_enough_and_wastes_little(pool: BufferPool, nbytes: int) -> None:
    size = pool.lease(nbytes).buffer.nbytes
    assert nbytes <= size <= max(SMALLEST, 1.25 * nbytes)


def test_a_lease_comes_back_when_it_is_forgotten(pool: BufferPool) -> None:
    address = pool.lease(500).buffer.address
    gc.collect()
    assert pool.lease(500).buffer.address == address


def test_a_lease_lives_as_long_as_the_storage_of_its_tensor(pool: BufferPool) -> None:
    lease = pool.lease(500)
    address = lease.buffer.address
    anchor = pool.keep(lease)
    del lease
    alias = anchor.detach()
    del anchor
    assert pool.kept(alias).buffer.address == address
    other = pool.lease(500)
    assert other.buffer.address != address
    copied = alias.clone()
    del alias
    with pytest.raises(RuntimeError, match="no longer in device memory"):
        pool.kept(copied)
    assert pool.lease(500).buffer.address == address


def test_idle_buffers_make_room(pool: BufferPool) -> None:
    for size in (20_000, 24_000):
        pool.lease(size).release()
    held = pool.lease(50_000)
    assert held.buffer.nbytes >= 50_000
    with pytest.raises(OutOfDeviceMemory, match="20000|20480"):
        pool.lease(20_000)


def test_a_closed_pool_frees_what_comes_back() -> None:
    device = EmulatorDevice(capacity_bytes=1 << 16)
    empty = device.bytes_in_use
    pool = BufferPool(device)
    held = pool.lease(1000)
    pool.lease(2000).release()
    pool.close()
    assert device.bytes_in_use > empty
    held.release()
    assert device.bytes_in_use == empty
