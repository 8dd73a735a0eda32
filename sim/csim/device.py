"""C-simulation: the generated C++, compiled and run as a device. Proof that the hardware's source computes the contract."""

from __future__ import annotations

import ctypes
import threading
from functools import lru_cache
from pathlib import Path

from systolora.hls.check import Region
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import ErrorCode
from systolora.hls.registers import Status
from systolora.sim.functional.device import DeviceError, Program
from systolora.sim.functional.memory import DEFAULT_CAPACITY, DeviceMemory
from systolora.sim.functional.memory_device import MemoryDevice

from .build import build_library


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


class CsimDevice(MemoryDevice):
    """Runs programs on the compiled hardware source, in the calling thread."""

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
        super().__init__(config, capacity_bytes)
        self._csim = open_csim(build_library(self.config, native=native, ap_headers=ap_headers))

    def _start(self, program: Program, count: int) -> Status:
        self._status.write()[:] = 0
        self._csim.start(
            self.memory, self.memory.window, self._program.address, count, self._status.address, self._sequence
        )
        status = Status.decode(self._status.read().tobytes())
        if status.sequence != self._sequence or status.fingerprint != self.config.fingerprint:
            raise DeviceError(
                f"{self.name}: the status block is of program {status.sequence} of hardware {status.fingerprint:08x}, "
                f"not of program {self._sequence} of {self.config.fingerprint_text}"
            )
        return status
