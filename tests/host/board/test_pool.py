"""Slots come back once, and to nobody else's cost: given twice, dropped, or still in use by a program."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from systolora.board.completion import Completion
from systolora.board.pool import Slot, SlotPool


class Memory(np.ndarray):
    """What `pynq.allocate` gives."""

    device_address: int


class Handle:
    """Anything that stands for a slot."""


@pytest.fixture
def pool() -> SlotPool:
    numbers = itertools.count(1)

    def allocate(size: int) -> Any:
        memory = np.zeros(size, np.uint8).view(Memory)
        memory.device_address = next(numbers) << 20
        return memory

    return SlotPool(allocate, lambda: None)


def held(pool: SlotPool, slot: Slot, user: Completion | None = None) -> Any:
    handle = Handle()
    pool.hold(handle, slot).user = user
    return handle


def test_giving_a_slot_twice_does_not_free_what_another_has_taken(pool: SlotPool) -> None:
    first = pool.take(100, "first")
    pool.give(first)
    second = pool.take(100, "second")
    assert second.address == first.address
    pool.give(first)
    assert pool.bytes_held == second.size
    assert pool.take(100, "third").address != second.address


def test_handing_back_twice_is_handing_back_once(pool: SlotPool) -> None:
    slot = pool.take(100, "slot")
    handle = Handle()
    holder = pool.hold(handle, slot)
    pool.hand_back(holder)
    pool.hand_back(holder)
    del handle
    assert pool.bytes_held == 0
    addresses = {pool.take(100, str(index)).address for index in range(3)}
    assert len(addresses) == 3 and slot.address in addresses


def test_a_dropped_handle_gives_its_slot_back(pool: SlotPool) -> None:
    slot = pool.take(100, "slot")
    handle = held(pool, slot)
    assert pool.bytes_held == slot.size
    del handle
    assert pool.bytes_held == 0
    assert pool.take(100, "next").address == slot.address


def test_a_handle_that_dies_in_a_cycle_gives_its_slot_back(pool: SlotPool) -> None:
    import gc

    handle = held(pool, pool.take(100, "slot"))
    handle.me = handle
    del handle
    gc.collect()
    assert pool.bytes_held == 0


def test_a_slot_waits_for_its_program(pool: SlotPool) -> None:
    program = Completion()
    slot = pool.take(100, "slot")
    handle = held(pool, slot, program)
    del handle
    assert pool.take(100, "meanwhile").address != slot.address
    program.finish()
    assert pool.take(100, "later").address == slot.address
