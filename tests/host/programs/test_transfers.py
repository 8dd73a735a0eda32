"""Tensors in and out of device memory, int8 copies that layers share, and buffers that the host was lent."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from systolora.offloading.shared_inputs import SharedInputs, is_shared
from systolora.programs.buffers import BufferPool
from systolora.programs.tensors import DeviceMatrix, ElementType, matrix_bytes, row_stride
from systolora.programs.transfers import copy_result, take_result, upload
from systolora.sim.functional.emulator import EmulatorDevice
from systolora.sim.functional.memory import DeviceMemory


def matrix(pool: BufferPool, rows: int, cols: int, kind: ElementType) -> tuple[DeviceMatrix, object]:
    lease = pool.lease(matrix_bytes(rows, cols, kind, 16))
    return DeviceMatrix(lease.buffer, 0, rows, cols, row_stride(cols, kind, 16), kind), lease


@pytest.mark.parametrize("kind", [ElementType.FLOAT32, ElementType.BFLOAT16])
@pytest.mark.parametrize("cols", [5, 16])
def test_any_layout_arrives_in_order(kind: ElementType, cols: int) -> None:
    pool = BufferPool(EmulatorDevice(capacity_bytes=1 << 20))
    target, _ = matrix(pool, 24, cols, kind)
    x = torch.randn(2, cols, 3, 4, dtype=torch.float64)
    upload(x.permute(0, 2, 3, 1), target)
    dtype = torch.bfloat16 if kind is ElementType.BFLOAT16 else torch.float32
    assert torch.equal(copy_result(target), x.permute(0, 2, 3, 1).reshape(24, cols).to(dtype))


def test_a_result_that_was_taken_keeps_its_buffer_until_it_dies() -> None:
    pool = BufferPool(EmulatorDevice(capacity_bytes=1 << 20))
    source, lease = matrix(pool, 8, 16, ElementType.FLOAT32)
    upload(torch.ones(8, 16), source)
    result = take_result(source, lease)  # type: ignore[arg-type]
    address = source.buffer.address
    del lease
    view = result[2:].view(-1)
    del result
    gc.collect()
    assert pool.lease(512).buffer.address != address, "a view of the result is alive"
    assert view.eq(1).all()
    del view
    gc.collect()
    assert pool.lease(512).buffer.address == address


def test_a_closed_device_keeps_what_it_lent_and_drops_the_rest() -> None:
    memory = DeviceMemory(1 << 20)
    buffers = [memory.allocate(size) for size in (4096, 12288, 4096, 4096)]
    for buffer in buffers:
        buffer.write()[:] = 7
    buffers[1].lend()
    memory.discard()
    assert [int(buffer.read().min()) for buffer in buffers] == [0, 7, 0, 0]
    buffers[1].end_loan()
    buffers[1].end_loan()
    whole_pages = buffers[1].read()[(-memory.pointer - buffers[1].address + memory.base) % 4096 :][:4096]
    assert not np.any(whole_pages)


def test_copies_belong_to_a_tensor_as_it_is() -> None:
    shared, x = SharedInputs(), torch.randn(3, 4)
    copies = shared.copies(x)
    assert shared.copies(x) is copies
    assert shared.copies(x.clone()) is not copies
    x.add_(1)
    changed = shared.copies(x)
    assert changed is not copies
    x.data = torch.randn(3, 4)
    assert shared.copies(x) is not changed
    with torch.inference_mode():
        copies = shared.copies(x)
        assert shared.copies(x) is copies
        x.add_(1)
        assert shared.copies(x) is not copies


def test_copies_go_with_their_tensor_or_when_many_came_after() -> None:
    shared = SharedInputs()
    x = torch.randn(2)
    shared.copies(x)
    del x
    gc.collect()
    assert not shared._known
    many = [torch.randn(2) for _ in range(40)]
    first = shared.copies(many[0])
    for other in many[1:]:
        shared.copies(other)
    assert len(shared._known) < 40
    assert shared.copies(many[0]) is not first


def test_what_dropout_made_of_x_is_not_shared() -> None:
    assert is_shared("x_row") and is_shared("x_tensor")
    assert not is_shared("x_low_row") and not is_shared("saved")
