"""The accelerator as its AXI-Lite port shows it: registers with `ap_ctrl_hs` behaviour, and a run of a program behind AP_START.

Clear-on-read, toggle-on-write and the reserved offsets behave as Vitis HLS documents them (UG1399, "S_AXILITE Control Register
Map"), because drivers break on exactly these.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from systolora.hls.check import STATUS_BYTES
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import INSTRUCTION_BYTES
from systolora.hls.registers import ARGUMENTS, Status
from systolora.hls.regmap import predict_map
from systolora.programs.check import ProgramRegions

from .faults import Faults
from .memory import BusError, EmulatedMemory

CTRL, GIER, IER, ISR = 0x00, 0x04, 0x08, 0x0C
START, DONE, IDLE, READY, AUTO_RESTART, SOFT_RESET, INTERRUPT = 1, 2, 4, 8, 128, 256, 512


class Executor(Protocol):
    """Runs a program that lies in device memory as the hardware would, status block included."""

    def __call__(self, arguments: Mapping[str, int], progress: Callable[[int], None]) -> Status:
        """`arguments` are the top function's, by name; `progress` is told the index of each instruction before it is
        executed, where the executor can. Returns what the output registers show."""


class _Hang(Exception):
    """The injected hang was reached."""


@dataclass(frozen=True)
class KernelOptions:
    """How the core was built, and how long it takes.

    Attributes:
        latency: seconds that a program takes at least.
        clear_on_read: the interrupt status is cleared by reading it (Vitis flow) instead of toggled by writing (Vivado flow).
    """

    latency: float = 0.0
    clear_on_read: bool = False


class EmulatedKernel:
    """The core's register file.

    Attributes:
        programs: how many were executed to their end. busy_seconds: from their start to their end, together.
        failure: the bus error that stopped the core, or None.
    """

    def __init__(
        self,
        config: ArrayConfig,
        memory: EmulatedMemory,
        executor: Executor,
        faults: Faults,
        options: KernelOptions,
        on_change: Callable[[], None],
    ) -> None:
        self._config, self._memory, self._executor = config, memory, executor
        self._faults, self._options, self._on_change = faults, options, on_change
        layout = predict_map()
        self._words = {r.offset: r for r in layout.registers if r.argument}
        self._offsets = {name: offset for name, (offset, _) in layout.arguments.items()}
        self._lock = threading.RLock()
        self._abort = threading.Event()
        self._thread: threading.Thread | None = None
        self.programs = 0
        self.busy_seconds = 0.0
        self.failure: BusError | None = None
        self._reset_registers()

    def _reset_registers(self) -> None:
        self._values: dict[int, int] = {}
        self._running = self._done = self._ready = False
        self._global_enable = self._enable = self._status = 0
        self._lose_interrupt = False

    def read32(self, offset: int) -> int:
        """A 32-bit register. Raises BusError at a reserved offset."""
        with self._lock:
            value = self._read(offset)
        self._on_change()
        return value

    def _read(self, offset: int) -> int:
        if offset == CTRL:
            value = START * self._running | DONE * self._done | IDLE * (not self._running) | READY * self._ready
            self._done = self._ready = False
            return value | INTERRUPT * self.interrupt_line()
        if offset == GIER:
            return self._global_enable
        if offset == IER:
            return self._enable
        if offset == ISR:
            value = self._status
            if self._options.clear_on_read:
                self._status = 0
            return value
        if offset not in self._words:
            raise BusError(f"read of the reserved register 0x{offset:02x}: driver and bitstream differ")
        return self._values.get(offset, 0)

    def write32(self, offset: int, value: int) -> None:
        """Writes a 32-bit register. Raises BusError at a reserved offset, and for an argument while a program runs."""
        with self._lock:
            start = self._write(offset, value)
        self._on_change()
        if start:
            self._thread = threading.Thread(target=self._run, args=(self._abort,), daemon=True, name="emulated-kernel")
            self._thread.start()

    def _write(self, offset: int, value: int) -> bool:
        if offset == CTRL:
            if value & SOFT_RESET and not self._faults.hits("ignore_soft_reset"):
                self._stop()
            if value & START and not self._running:
                self._running = True
                self._done |= self._faults.hits("stale_done")
                return True
        elif offset == GIER:
            self._global_enable = value & 1
        elif offset == IER:
            self._enable = value & 3
        elif offset == ISR:
            if not self._options.clear_on_read:
                self._status ^= value & 3
        elif offset not in self._words or self._words[offset].access == "read-only":
            raise BusError(f"write to register 0x{offset:02x}, which is no input: driver and bitstream differ")
        elif self._running:
            raise BusError(f"argument register 0x{offset:02x} was written while a program runs")
        else:
            self._values[offset] = value
        return False

    def interrupt_line(self) -> bool:
        """The core's interrupt output."""
        return bool(self._global_enable and self._enable & self._status) and not self._lose_interrupt

    def power_off(self) -> None:
        """What a reload of the programmable logic does to a running core: it is gone."""
        with self._lock:
            self._stop()

    def _stop(self) -> None:
        self._abort.set()
        self._abort = threading.Event()
        self._reset_registers()

    def _arguments(self) -> dict[str, int]:
        values = {}
        for argument in ARGUMENTS:
            offset = self._offsets[argument.name]
            high = self._values.get(offset + 4, 0) if argument.bits > 32 else 0
            values[argument.name] = self._values.get(offset, 0) | high << 32
        return values

    def _run(self, abort: threading.Event) -> None:
        stop_at = self._faults.hang_at if self._faults.hits("hang") else None

        def progress(index: int) -> None:
            self._values[self._offsets["error_index"]] = index
            if index == stop_at:
                raise _Hang

        began = time.perf_counter()
        if abort.wait(self._options.latency):
            return
        try:
            if stop_at == 0:
                progress(0)
            status = self._execute(self._arguments(), progress)
        except _Hang:
            return
        except BusError as error:
            self.failure = error
            return
        with self._lock:
            if abort.is_set():
                return
            self.busy_seconds += time.perf_counter() - began
            self._finish(status)
        self._on_change()

    def _finish(self, status: Status) -> None:
        shown = self._faults.fingerprint or status.fingerprint
        for name, value in (
            ("error", int(status.error)),
            ("error_index", status.error_index),
            ("fingerprint", shown),
        ):
            self._values[self._offsets[name]] = value
        self.programs += 1
        self._lose_interrupt = self._faults.hits("lost_interrupt")
        self._running, self._done, self._ready = False, True, True
        self._status |= self._enable & 3

    def _execute(self, arguments: dict[str, int], progress: Callable[[int], None]) -> Status:
        if self._faults.hits("decode_error"):
            arguments = {**arguments, "program_address": arguments["program_address"] ^ 1 << 38}
        self._check_pointers(arguments)
        status = self._executor(arguments, progress)
        if self._faults.fingerprint:
            status = replace(status, fingerprint=self._faults.fingerprint)
            self._memory.device.view(arguments["status_address"], STATUS_BYTES)[:] = list(status.encode())
        if self._faults.hits("wrong_bits"):
            self._flip_bits(arguments)
        return status

    def _check_pointers(self, arguments: Mapping[str, int]) -> None:
        size = arguments["instruction_count"] * INSTRUCTION_BYTES
        self._memory.require_block(arguments["program_address"], size, "fetch of the program")
        self._memory.require_block(arguments["status_address"], STATUS_BYTES, "status block")
        window = arguments["window_address"]
        try:
            self._memory.device.view(window, arguments["window_size"])
        except ValueError as error:
            raise BusError(f"address window: {error}") from None
        for name in ("memory_program", "memory_input", "memory_weight", "memory_output"):
            if arguments[name] != window:
                raise BusError(f"{name} is {arguments[name]:#x}, not the window's address {window:#x}")

    def _flip_bits(self, arguments: Mapping[str, int]) -> None:
        start, count = arguments["program_address"], arguments["instruction_count"]
        code = self._memory.device.view(start, count * INSTRUCTION_BYTES).tobytes()
        for region in ProgramRegions(self._config).written(code):
            self._memory.device.view(region.address, 1)[0] ^= 1
