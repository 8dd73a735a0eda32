"""C-simulation: the generated C++, compiled and run as a device. Proof that the hardware's source computes the contract."""

from __future__ import annotations

import ctypes
import threading
from concurrent.futures import Future
from functools import lru_cache
from pathlib import Path

import numpy as np
from systolora.hls.check import STATUS_BYTES, Region
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import INSTRUCTION_BYTES, ErrorCode
from systolora.hls.registers import Counters, Status

from .csim_build import build_library
from .device import Device, DeviceError, Program
from .memory import DEFAULT_CAPACITY, ArenaBuffer, DeviceMemory, check_buffer


class _Call(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "window_address",
            "window_size",
            "program_address",
            "instruction_count",
            "status_address",
            "sequence",
        )
    ]


class _Result(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("error", "error_index", "fingerprint")]


class Csim:
    """A compiled accelerator. Its on-chip memories are static in the library, so one program runs at a time."""

    def __init__(self, path: Path) -> None:
        self._run = ctypes.CDLL(str(path)).systolora_csim
        self._run.restype = None
        self._run.argtypes = [ctypes.c_void_p, ctypes.POINTER(_Call), ctypes.POINTER(_Result)]
        self._lock = threading.Lock()

    def start(
        self,
        memory: DeviceMemory,
        window: Region,
        program_address: int,
        count: int,
        status_address: int,
        sequence: int = 0,
    ) -> tuple[ErrorCode, int]:
        """What one start of the hardware does; the arguments are its registers.

        Returns:
            the registers `error` and `error_index`. The status block is in memory, if it could be written.

        Raises:
            ValueError: if the window is not inside the device memory (on hardware the driver guarantees it).
        """
        if not window.inside(memory.window):
            raise ValueError(f"the window {window} is not inside the device memory {memory.window}")
        call = _Call(window.address, window.size, program_address, count, status_address, sequence)
        result = _Result()
        with self._lock:
            self._run(memory.pointer + window.address - memory.base, ctypes.byref(call), ctypes.byref(result))
        return ErrorCode(result.error), result.error_index


@lru_cache(maxsize=64)
def open_csim(path: Path) -> Csim:
    """The library at `path`, opened once in a process: a second opening would share its memories without its lock."""
    return Csim(path)


class CsimDevice(Device):
    """Runs programs on the compiled hardware source, in the calling thread: `submit` returns a future that is done.

    Attributes:
        memory: the device memory.
    """

    name = "csim"

    def __init__(
        self,
        config: ArrayConfig | None = None,
        capacity_bytes: int = DEFAULT_CAPACITY,
        *,
        native: bool = True,
        ap_headers: Path | None = None,
    ) -> None:
        """Generates and compiles the hardware (about a second, once per configuration), then opens it.

        Args:
            config: the accelerator; by default `ArrayConfig()`.
            capacity_bytes: size of the device memory.
            native: plain integer types, fast. Otherwise ap_int: the same bits, slowly.
            ap_headers: folder with `ap_int.h`; by default that of an installed hls4ml.

        Raises:
            CsimBuildError: if there is no compiler, or no headers for ap_int.
        """
        self.config = config or ArrayConfig()
        self._csim = open_csim(build_library(self.config, native=native, ap_headers=ap_headers))
        self.memory = DeviceMemory(capacity_bytes)
        self._counters = Counters()
        self._status = self.memory.allocate(STATUS_BYTES, "status block")
        self._program = self.memory.allocate(INSTRUCTION_BYTES, "program")
        self._sequence = 0
        self._open = True

    def allocate(self, nbytes: int, label: str = "") -> ArenaBuffer:
        """See `Device.allocate`."""
        self._check_open()
        return self.memory.allocate(nbytes, label)

    def submit(self, program: Program) -> Future[Status]:
        """See `Device.submit`.

        Raises:
            ValueError: if the code is not a whole number of instructions.
            BufferMisuseError: if a buffer of the program was freed or belongs to another device.
        """
        self._check_open()
        future: Future[Status] = Future()
        status = self._run(program)
        if status.error:
            future.set_exception(DeviceError.from_status(self.name, status, program.labels))
        else:
            future.set_result(status)
        return future

    @property
    def counters(self) -> Counters:
        """See `Device.counters`; programs that were stopped count as far as they came."""
        return self._counters

    @property
    def bytes_in_use(self) -> int:
        """See `Device.bytes_in_use`."""
        return self.memory.bytes_in_use

    def close(self) -> None:
        """See `Device.close`. Views of buffers stay readable and hold zeros."""
        if self._open:
            self._open = False
            self.memory.discard()

    def _run(self, program: Program) -> Status:
        size = len(program.code)
        if size % INSTRUCTION_BYTES:
            raise ValueError(f"a program of {size} bytes: it must be a multiple of {INSTRUCTION_BYTES}")
        for buffer in (*program.reads, *program.writes):
            check_buffer(buffer, self.memory)
        if size > self._program.nbytes:
            self._program.free()
            self._program = self.memory.allocate(2 * size, "program")
        self._program.write()[:size] = np.frombuffer(program.code, np.uint8)
        self._status.write()[:] = 0
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        self._csim.start(
            self.memory,
            self.memory.window,
            self._program.address,
            size // INSTRUCTION_BYTES,
            self._status.address,
            self._sequence,
        )
        status = Status.decode(self._status.read().tobytes())
        if status.sequence != self._sequence or status.fingerprint != self.config.fingerprint:
            raise DeviceError(
                f"{self.name}: the status block is of program {status.sequence} of hardware {status.fingerprint:08x}, "
                f"not of program {self._sequence} of {self.config.fingerprint_text}"
            )
        self._counters = self._counters + status.counters
        return status

    def _check_open(self) -> None:
        if not self._open:
            raise DeviceError(f"{self.name}: the device is closed; open it again")
