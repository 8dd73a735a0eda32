"""Interrupts of a thread that uses a device: wherever one comes, the next call has the right bits, and nothing is leaked or stuck."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from systolora.board.device import BoardDevice
from systolora.board.queue import IN_FLIGHT
from systolora.emulated_board.hardware import BoardOptions
from systolora.emulated_board.kernel import KernelOptions
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import End, Gemm, Result, encode_program
from systolora.programs.buffers import BufferPool
from systolora.sim.csim.device import CsimDevice
from systolora.sim.functional.device import Buffer, Device, Program
from systolora.sim.functional.emulator import EmulatorDevice

from .places import LIBRARIES, Interrupts
from .signals import RandomInterrupts

SIDE = 16
DRIVER = ("systolora.board", "systolora.programs.buffers", "systolora.sim.functional", *LIBRARIES)
INTERRUPTS = 80


def product_of(a: Buffer, b: Buffer, c: Buffer) -> Program:
    op = Gemm(*(SIDE,) * 6, a.address, b.address, c.address, SIDE, SIDE, 4 * SIDE, result=Result.INT32)
    return Program(encode_program([op, End()]), (a, b), (c,))


class Work:
    """What an offloaded layer does: leases buffers, writes operands, has programs run, reads, gives back; two programs at a time."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.pool = BufferPool(device)

    def __call__(self, seed: int) -> bool:
        """Whether both results are right."""
        rng = np.random.default_rng(seed)
        pairs = [rng.integers(-128, 128, (2, SIDE, SIDE)).astype(np.int8) for _ in range(2)]
        started = []
        for a, b in pairs:
            leases = [self.pool.lease(SIDE * SIDE), self.pool.lease(SIDE * SIDE), self.pool.lease(4 * SIDE * SIDE)]
            for lease, values in zip(leases, (a, b), strict=False):
                lease.buffer.write()[: SIDE * SIDE] = values.view(np.uint8).reshape(-1)
            started.append((leases, self.device.submit(product_of(*(lease.buffer for lease in leases)))))
        right = []
        for (a, b), (leases, future) in zip(pairs, started, strict=True):
            future.result()
            found = leases[2].buffer.read()[: 4 * SIDE * SIDE].view("<i4").reshape(SIDE, SIDE)
            right.append(np.array_equal(found, a.astype(np.int32) @ b.astype(np.int32)))
            for lease in leases:
                lease.release()
        return all(right)

    def bytes_held(self) -> int:
        """Device memory in use after all that is idle was freed; nothing waits for the garbage collector."""
        self.pool.trim()
        return self.device.bytes_in_use


def check_after(work: Work, seed: int, held: int, place: str, lost: int = 0) -> int:
    """The device is as it was, up to `lost` bytes. Returns the bytes that are held now."""
    assert work(seed), f"wrong bits after an interrupt at {place}"
    assert work(seed + 1), f"wrong bits in the second call after an interrupt at {place}"
    now = work.bytes_held()
    assert held <= now <= held + lost, f"memory leaked, or given back twice, after an interrupt at {place}"
    if isinstance(work.device, BoardDevice):
        assert len(work.device._queue._lanes) == IN_FLIGHT
        addresses = [slot.address for kept in work.device._memory.pool._free.values() for slot in kept]
        assert len(addresses) == len(set(addresses)), f"a slot came back twice after an interrupt at {place}"
    return now


def interrupt_at(device: Device, numbers: Callable[[int], list[int]], lost: int = 0) -> None:
    """Interrupts a call at check points, each time followed by a look at what is left.

    Args:
        numbers: from how many check points a call has to those to try.
        lost: bytes that each interrupt may cost.
    """
    work, interrupts = Work(device), Interrupts(DRIVER)
    assert work(0)
    held = work.bytes_held()
    assert interrupts.run(lambda: work(1))
    assert interrupts.passed > 100
    for number in numbers(interrupts.passed):
        if interrupts.run(lambda: work(2), at=number) is None:
            held = check_after(work, number, held, f"{number}, {interrupts.place}", lost)


def sample(seed: int, count: int) -> Callable[[int], list[int]]:
    return lambda points: random.Random(seed).sample(range(points), count)


def everywhere(points: int) -> list[int]:
    return list(range(points))


def board_with(open_board: Callable[..., Any], latency: float) -> Device:
    return open_board(options=BoardOptions(kernel=KernelOptions(latency=latency)))


@pytest.mark.parametrize("latency", [0.0, 0.01])
def test_an_interrupt_at_these_places_leaves_a_board_as_it_was(open_board: Callable[..., Any], latency: float) -> None:
    interrupt_at(board_with(open_board, latency), sample(1, 30))


@pytest.mark.slow
@pytest.mark.parametrize("latency", [0.0, 0.005])
def test_an_interrupt_at_any_place_leaves_a_board_as_it_was(open_board: Callable[..., Any], latency: float) -> None:
    interrupt_at(board_with(open_board, latency), everywhere)


@pytest.mark.parametrize("kind", [EmulatorDevice, CsimDevice])
def test_an_interrupt_at_any_place_does_no_harm_to_a_modelled_device(kind: Any, config: ArrayConfig) -> None:
    """Its programs run in the calling thread, and stop where they are interrupted. A buffer that is on its way to the caller is lost."""
    with kind(config, 1 << 24) as device:
        interrupt_at(device, sample(3, 150), lost=6 * 1024)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_random_interrupts_leave_a_board_as_it_was(open_board: Callable[..., Any], seed: int) -> None:
    work = Work(board_with(open_board, 0.002))
    assert work(0)
    held = work.bytes_held()
    began = time.perf_counter()
    assert work(1)
    interrupts = RandomInterrupts(seed, 1.2 * (time.perf_counter() - began))
    while interrupts.sent < INTERRUPTS:
        if interrupts.run(lambda: work(2)):
            check_after(work, interrupts.sent, held, f"a random instant, number {interrupts.sent}")
