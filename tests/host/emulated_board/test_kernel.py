"""The emulated core's registers behave as UG1399 says of `ap_ctrl_hs`; no pynq is needed for this."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

import pytest
from systolora.emulated_board.faults import ALWAYS, Faults
from systolora.emulated_board.kernel import EmulatedKernel, KernelOptions
from systolora.emulated_board.logic import AddressDecoder, InterruptController, RegisterFile
from systolora.emulated_board.memory import DEFAULT_ADDRESS, PAGE, POISON, BusError, EmulatedMemory
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import ErrorCode
from systolora.hls.registers import Counters, Status
from systolora.hls.regmap import predict_map
from systolora.sim.functional.device import OutOfDeviceMemory

CONFIG = ArrayConfig(rows=8, cols=8, input_bytes=16384, weight_bytes=16384, output_bytes=32768)
CTRL, GIER, IER, ISR = 0x00, 0x04, 0x08, 0x0C
MAP = predict_map()


class Bench:
    """A core whose programs end when they are told to."""

    def __init__(self, clear_on_read: bool = False, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self.memory = EmulatedMemory(1 << 20, self.faults)
        self.end = threading.Event()
        self.seen: list[Mapping[str, int]] = []
        self.changed: dict[str, int] = {}
        options = KernelOptions(clear_on_read=clear_on_read)
        self.kernel = EmulatedKernel(CONFIG, self.memory, self._execute, self.faults, options, lambda: None)
        self.block = self.memory.allocate(PAGE)[0]

    def _execute(self, arguments: Mapping[str, int], progress: Callable[[int], None]) -> Status:
        self.seen.append(arguments)
        progress(0)
        self.end.wait(5)
        return Status(ErrorCode.NO_END, 3, 3, arguments["sequence"], CONFIG.fingerprint, Counters())

    def write(self, name: str, value: int, words: int = 2) -> None:
        value += self.changed.get(name, 0)
        for word in range(words):
            self.kernel.write32(MAP.offset(name) + 4 * word, value >> 32 * word & 0xFFFFFFFF)

    def start(self) -> None:
        for name in ("memory_program", "memory_input", "memory_weight", "memory_output", "window_address"):
            self.write(name, self.block)
        self.write("window_size", PAGE)
        self.write("program_address", self.block)
        self.write("instruction_count", 1, words=1)
        self.write("status_address", self.block + 1024)
        self.kernel.write32(CTRL, 1)

    def finish(self) -> None:
        self.end.set()
        deadline = time.monotonic() + 5
        while self.kernel.programs == 0:
            assert time.monotonic() < deadline
            time.sleep(0.001)


def test_done_is_cleared_by_reading_and_start_when_the_program_ends() -> None:
    bench = Bench()
    assert bench.kernel.read32(CTRL) == 4
    bench.start()
    assert [bench.kernel.read32(CTRL) for _ in range(2)] == [1, 1]
    bench.finish()
    assert bench.kernel.read32(CTRL) == 2 | 4 | 8
    assert bench.kernel.read32(CTRL) == 4
    assert bench.seen[0]["window_address"] == DEFAULT_ADDRESS, "64-bit arguments are two words, not 8-byte aligned"
    shown = {name: bench.kernel.read32(MAP.offset(name)) for name in ("error", "error_index", "fingerprint")}
    assert shown == {"error": ErrorCode.NO_END, "error_index": 3, "fingerprint": CONFIG.fingerprint}


def test_a_done_that_nobody_read_stays() -> None:
    bench = Bench()
    bench.start()
    bench.finish()
    bench.end.clear()
    bench.start()
    assert bench.kernel.read32(CTRL) == 1 | 2 | 8, "AP_DONE of the first program, while the second one runs"
    bench.end.set()


@pytest.mark.parametrize("clear_on_read", [False, True])
def test_interrupt_status_is_toggled_by_writing_or_cleared_by_reading(clear_on_read: bool) -> None:
    bench = Bench(clear_on_read)
    bench.kernel.write32(GIER, 1)
    bench.kernel.write32(IER, 1)
    bench.start()
    assert not bench.kernel.interrupt_line()
    bench.finish()
    assert bench.kernel.interrupt_line() and bench.kernel.read32(CTRL) & 512
    assert bench.kernel.read32(ISR) == 1
    assert bench.kernel.interrupt_line() is not clear_on_read
    bench.kernel.write32(ISR, 1)
    assert not bench.kernel.interrupt_line()
    if not clear_on_read:
        bench.kernel.write32(ISR, 1)
        assert bench.kernel.interrupt_line(), "writing toggles: a second write sets it again"


def test_no_interrupt_without_enables() -> None:
    bench = Bench()
    bench.start()
    bench.finish()
    assert bench.kernel.read32(ISR) == 0 and not bench.kernel.interrupt_line()


def test_reserved_registers_and_arguments_of_a_running_program() -> None:
    bench = Bench()
    reserved = MAP.offset("memory_program") + 8
    with pytest.raises(BusError, match=f"read of the reserved register 0x{reserved:02x}"):
        bench.kernel.read32(reserved)
    with pytest.raises(BusError, match="which is no input"):
        bench.kernel.write32(reserved, 0)
    with pytest.raises(BusError, match="which is no input"):
        bench.kernel.write32(MAP.offset("fingerprint"), 0)
    bench.start()
    with pytest.raises(BusError, match="was written while a program runs"):
        bench.write("sequence", 1, words=1)
    bench.finish()


def test_soft_reset_ends_a_program_and_clears_everything() -> None:
    bench = Bench()
    bench.start()
    bench.kernel.write32(CTRL, 256)
    assert bench.kernel.read32(CTRL) == 4
    assert bench.kernel.read32(MAP.offset("window_size")) == 0
    bench.end.set()
    for thread in threading.enumerate():
        if thread.name == "emulated-kernel":
            thread.join(5)
    assert bench.kernel.read32(CTRL) == 4, "the program that was reset must not report its end"
    stubborn = Bench(faults=Faults(ignore_soft_reset=ALWAYS))
    stubborn.start()
    stubborn.kernel.write32(CTRL, 256)
    assert stubborn.kernel.read32(CTRL) == 1
    stubborn.end.set()


@pytest.mark.parametrize(
    ("name", "offset", "reason"),
    [
        ("status_address", PAGE, "status block: 128 bytes at .* are in no allocated buffer"),
        ("program_address", -PAGE, "fetch of the program"),
        ("window_size", 1 << 40, "address window"),
        ("memory_weight", 64, "memory_weight is 0x840000040, not the window's address"),
    ],
)
def test_pointers_into_nowhere_stop_the_core_with_the_reason(name: str, offset: int, reason: str) -> None:
    bench = Bench()
    bench.end.set()
    bench.changed[name] = offset
    bench.start()
    deadline = time.monotonic() + 5
    while bench.kernel.failure is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    with pytest.raises(BusError, match=reason):
        raise bench.kernel.failure
    assert bench.kernel.read32(CTRL) == 1, "it hangs"


def test_memory_has_two_images_limits_and_a_pattern() -> None:
    memory = EmulatedMemory(1 << 20, Faults())
    address, size = memory.allocate(5000)
    assert size == 2 * PAGE and address % PAGE == 0
    assert set(memory.host_view(address, size)) == set(memory.device.view(address, size)) == {POISON}
    memory.host_view(address, 4)[:] = 1
    assert set(memory.device.view(address, 4)) == {POISON}
    memory.flush(address, 2)
    assert memory.device.view(address, 4).tolist() == [1, 1, POISON, POISON]
    assert memory.meminfo() == "CmaTotal:       1024 kB\nCmaFree:        1016 kB\n"
    with pytest.raises(OutOfDeviceMemory):
        memory.allocate(1 << 20)
    memory.free(address)
    memory.free(address)
    memory.allocate(1 << 20)


def test_interrupt_controller_and_decoder() -> None:
    changes: list[int] = []
    controller = InterruptController(lambda: changes.append(1))
    level = [False]
    controller.inputs[2] = lambda: level[0]
    for offset, value in ((0x10, 4), (0x1C, 3)):
        controller.write32(offset, value)
    assert not controller.output()
    level[0] = True
    assert controller.output() and controller.read32(0x04) == 4
    controller.write32(0x0C, 4)
    assert controller.output(), "an acknowledge of a level input has no effect while the level lasts"
    controller.write32(0x14, 4)
    assert not controller.output() and controller.read32(0x08) == 0 and len(changes) == 4
    bus = AddressDecoder()
    bus.attach(0xA000_0000, 0x100, RegisterFile({4: 7}))
    assert bus.read32(0xA000_0004) == 7
    with pytest.raises(BusError, match="nothing answers at bus address 0xa0000100"):
        bus.read32(0xA000_0100)
