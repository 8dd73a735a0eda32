"""`CsimDevice` behind the device seam."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import End, ErrorCode, Gemm, encode, encode_program
from systolora.sim.csim.device import CsimDevice
from systolora.sim.functional.device import DeviceError, Program
from systolora.sim.functional.memory import BufferMisuseError

CONFIG = ArrayConfig(rows=8, cols=16)


def product(device: CsimDevice, seed: int, size: int = 32, count: int = 1) -> bool:
    """Multiplies two random matrices on the device, `count` times; returns whether all results are right."""
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(-128, 128, (size, size)).astype(np.int8) for _ in range(2))
    buffers = [
        device.allocate(size * size, "a"),
        device.allocate(size * size, "b"),
        device.allocate(4 * size * size, "c"),
    ]
    buffers[0].write()[:] = a.view(np.uint8).reshape(-1)
    buffers[1].write()[:] = b.view(np.uint8).reshape(-1)
    op = Gemm(
        m=size,
        n=size,
        k=size,
        tile_m=size,
        tile_n=size,
        tile_k=size,
        a_address=buffers[0].address,
        b_address=buffers[1].address,
        c_address=buffers[2].address,
        a_stride=size,
        b_stride=size,
        c_stride=4 * size,
    )
    program = Program(encode_program([op, End()]), tuple(buffers[:2]), (buffers[2],), {0: "the product"})
    right = True
    for _ in range(count):
        buffers[2].write()[:] = 0
        device.run(program)
        right = right and np.array_equal(buffers[2].read().view(np.int32).reshape(size, size), a.astype(int) @ b)
    for buffer in buffers:
        buffer.free()
    return right


def test_product_and_counters() -> None:
    with CsimDevice(CONFIG, 1 << 20) as device:
        assert product(device, 0)
        in_use = device.bytes_in_use
        assert product(device, 1)
        assert device.bytes_in_use == in_use
        # 2 programs: 4 blocks of k, 2 of n, each 32 clocks apart, and kRows + 2 to leave.
        assert device.counters.array_cycles == 2 * (7 * 32 + 32 + 8 + 2)
        assert device.counters.program_words == 2 * 2 * 8


def test_two_devices_of_one_configuration_in_two_threads() -> None:
    """The library's memories are shared: programs must wait for each other."""

    def work(seed: int) -> bool:
        with CsimDevice(CONFIG, 1 << 20) as device:
            return product(device, seed, count=40)

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(work, range(4)))


def test_refused_instruction_is_named() -> None:
    with CsimDevice(CONFIG, 1 << 20) as device:
        bad = Program(bytes(128) + encode(End()), labels={0: "blank"})
        with pytest.raises(
            DeviceError, match=r"csim: instruction 0 \(blank\) stopped the program: BAD_OPCODE"
        ) as caught:
            device.run(bad)
        assert caught.value.code == ErrorCode.BAD_OPCODE
        assert product(device, 2)


def test_misuse() -> None:
    device = CsimDevice(CONFIG, 1 << 20)
    with pytest.raises(ValueError, match="a program of 100 bytes"):
        device.run(Program(bytes(100)))
    buffer = device.allocate(64)
    buffer.free()
    with pytest.raises(BufferMisuseError, match="used after it was freed"):
        device.run(Program(encode(End()), reads=(buffer,)))
    device.close()
    device.close()
    with pytest.raises(DeviceError, match="the device is closed"):
        device.run(Program(encode(End())))
