"""Handles on a memory with a cache that nobody keeps coherent: whatever the order of reads, writes and programs, the bytes are right."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from systolora.board.pool import slot_size
from systolora.emulated_board.hardware import BoardOptions
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import End, Gemm, Result, encode_program
from systolora.sim.functional.device import Buffer, Device, Program
from systolora.sim.functional.emulator import EmulatorDevice
from systolora.sim.functional.memory import BufferMisuseError

SIDE = 16
ACTIONS = st.lists(
    st.tuples(st.sampled_from("wpr"), st.integers(0, 3), st.integers(0, 3), st.integers(0, 255)), max_size=25
)


def product_of(a: Buffer, b: Buffer, c: Buffer) -> Program:
    """C += A B on 16 x 16 matrices; int8 in A and B, int32 in C, so the same kind of buffer serves for all."""
    shape, strides = (SIDE,) * 6, (SIDE, SIDE, 4 * SIDE)
    op = Gemm(*shape, a.address, b.address, c.address, *strides, result=Result.INT32, accumulate=True)
    return Program(encode_program([op, End()]), (a, b, c), (c,))


def play(device: Device, actions: list[tuple[str, int, int, int]]) -> list[bytes]:
    """Plays actions on four buffers and returns what was read, all of it at the end included."""
    buffers = [device.allocate(4 * SIDE * SIDE, f"matrix {index}") for index in range(4)]
    for index, buffer in enumerate(buffers):
        buffer.write()[:] = index + 1
    seen, last = [], None
    for action, i, j, value in actions:
        if action == "w":
            buffers[i].write()[value : value + 300] = value
        elif action == "r":
            seen.append(buffers[i].read().tobytes())
        elif len({i, j, (i + j + 1) % 4}) == 3:
            last = device.submit(product_of(buffers[i], buffers[j], buffers[(i + j + 1) % 4]))
    if last is not None:
        last.result()
    seen += [buffer.read().tobytes() for buffer in buffers]
    for buffer in buffers:
        buffer.free()
    return seen


def test_any_order_of_actions_gives_the_bytes_of_a_coherent_device(
    config: ArrayConfig, open_board: Callable[..., Any]
) -> None:
    board = open_board(config)

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(actions=ACTIONS)
    def check(actions: list[tuple[str, int, int, int]]) -> None:
        with EmulatorDevice(config, 1 << 22) as emulator:
            assert play(board, actions) == play(emulator, actions)

    check()


def test_the_memory_shows_a_missing_synchronisation(open_board: Callable[..., Any]) -> None:
    """The test of the test: with pynq's own buffers and no synchronisation the programmable logic sees something else."""
    import pynq

    board = open_board()
    device = board.session.device
    raw = pynq.allocate((64,), np.uint8, target=device)
    raw[:] = 7
    image = device.board.memory.device.view(raw.device_address, 64)
    assert set(image) == {0xA5}
    raw.sync_to_device()
    assert set(image) == {7}
    image[:] = 9
    assert set(raw) == {7}
    raw.sync_from_device()
    assert set(raw) == {9}


def test_only_what_is_dirty_is_synchronised(open_board: Callable[..., Any]) -> None:
    board = open_board()
    traffic = board.session.device.board.memory.traffic
    a, b, c = (board.allocate(4 * SIDE * SIDE) for _ in range(3))
    for buffer in (a, b, c):
        buffer.write()[:] = 1
    program = product_of(a, b, c)

    def count(action: Callable[[], object]) -> tuple[int, int]:
        before = (traffic.flushes, traffic.invalidates)
        action()
        return traffic.flushes - before[0], traffic.invalidates - before[1]

    assert count(lambda: board.run(program)) == (1 + 3, 1), "the program and three operands; the status block"
    assert count(lambda: board.run(program)) == (1, 1), "resident operands stay where they are"
    assert count(a.read) == (0, 0)
    assert count(c.read) == (0, 1)
    assert count(c.read) == (0, 0)
    assert count(c.write) == (0, 0)
    assert count(lambda: board.run(program)) == (1 + 1, 1)
    assert count(c.write) == (0, 1), "a part may be written: the rest must be the program's result"
    assert count(lambda: b.write()[:1].fill(3)) == (0, 0)
    assert count(lambda: board.run(program)) == (1 + 2, 1)


def test_a_view_that_is_no_longer_synchronised_refuses_to_be_written(open_board: Callable[..., Any]) -> None:
    board = open_board()
    a, b, c = (board.allocate(4 * SIDE * SIDE) for _ in range(3))
    view = a.write()
    view[:] = 1
    board.run(product_of(a, b, c))
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 2
    with pytest.raises(ValueError, match="read-only"):
        a.read()[0] = 2
    a.write()[0] = 2


def test_torch_shares_the_memory_of_a_buffer(open_board: Callable[..., Any]) -> None:
    torch = pytest.importorskip("torch")
    board = open_board()
    a, b, c = (board.allocate(4 * SIDE * SIDE) for _ in range(3))
    x = torch.randint(-128, 128, (SIDE, SIDE), dtype=torch.int8, generator=torch.Generator().manual_seed(0))
    for buffer in (a, b):
        view = buffer.write()
        tensor = torch.from_numpy(view)
        assert tensor.data_ptr() == view.ctypes.data
        tensor[: SIDE * SIDE].view(torch.int8).copy_(x.flatten())
    torch.from_numpy(c.write()).zero_()
    board.run(product_of(a, b, c))
    result = torch.from_numpy(c.read().view(np.int32).reshape(SIDE, SIDE).copy())
    assert torch.equal(result, x.int() @ x.int())


def test_only_handles_of_this_board_are_accepted(open_board: Callable[..., Any], config: ArrayConfig) -> None:
    board, other = open_board(), open_board()
    a, b, c = (board.allocate(4 * SIDE * SIDE) for _ in range(3))
    foreign = other.allocate(64)
    raw = np.zeros(64, np.uint8)
    good = product_of(a, b, c)
    with pytest.raises(
        BufferMisuseError, match="a ndarray cannot be given to board KV260: only buffers from its allocate"
    ):
        board.submit(Program(good.code, (raw, b), (c,)))  # type: ignore[arg-type]
    with pytest.raises(BufferMisuseError, match="belongs to another device"):
        board.submit(Program(good.code, (foreign, b), (c,)))
    with EmulatorDevice(config, 1 << 22) as emulator, pytest.raises(BufferMisuseError, match="a ArenaBuffer cannot"):
        board.submit(Program(good.code, (emulator.allocate(64),), (c,)))
    a.free()
    with pytest.raises(BufferMisuseError, match="used after it was freed"):
        board.submit(good)
    with pytest.raises(BufferMisuseError, match="used after it was freed"):
        a.read()
    with pytest.raises(BufferMisuseError, match="freed twice"):
        a.free()


def test_slots_are_recycled_and_their_waste_is_bounded(open_board: Callable[..., Any]) -> None:
    board = open_board()
    memory = board.session.device.board.memory
    first = board.allocate(100_000)
    address, live = first.address, memory.live_blocks
    first.free()
    second = board.allocate(99_000)
    assert (second.address, memory.live_blocks) == (address, live)
    for nbytes in (1, 4096, 4097, 65_536, 65_537, 1_000_000, 123_456_789):
        assert nbytes <= slot_size(nbytes) <= max(4096, 1.25 * nbytes + 1024)


def test_a_view_keeps_the_memory_of_a_closed_board(open_board: Callable[..., Any]) -> None:
    board = open_board(options=BoardOptions(cma_mb=4))
    memory = board.session.device.board.memory
    buffer = board.allocate(64)
    view = buffer.write()
    view[:] = 5
    board.close()
    del buffer
    gc.collect()
    assert memory.live_blocks == 1
    assert set(view) == {5}
