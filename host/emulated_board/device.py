"""The emulated board as a `pynq.Device`: all that pynq 3.0.1 to 4.0.0 calls on a device, and nothing of pynq is changed.

Three things that are not methods of a device are set from outside, because a board's kernel provides them: the lookup of an
interrupt's UIO file, how that file (here a terminal) is opened, and on pynq 3.0 the processor's architecture.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import IO, Any

import numpy as np
import pynq
import pynq.interrupt
import pynq.ps
import pynq.uio
from numpy.typing import NDArray
from pynq.buffer import PynqBuffer
from pynq.metadata.runtime_metadata_parser import RuntimeMetadataParser
from pynq.pl_server.device import Device
from pynqmetadata.frontends import Metadata
from systolora.sim.functional.device import OutOfDeviceMemory

from .hardware import EmulatedBoard
from .logic import AddressDecoder

_ARCHITECTURE = "aarch64"


class BusArray(np.ndarray):
    """uint32 array whose items are registers: an index reads or writes the bus, as memory mapped from /dev/mem would."""

    _bus: AddressDecoder
    _first: int
    _pointer: int

    @classmethod
    def map(cls, bus: AddressDecoder, base: int, length: int) -> BusArray:
        """The registers from bus address `base` on, `length` bytes."""
        array = np.zeros(length // 4, np.uint32).view(cls)
        array._bus, array._first, array._pointer = bus, base, array.ctypes.data
        return array

    def __array_finalize__(self, other: Any) -> None:
        for name in ("_bus", "_first", "_pointer"):
            setattr(self, name, getattr(other, name, None))

    def _address(self, index: int) -> int:
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._first + (self.__array_interface__["data"][0] - self._pointer) + index * self.itemsize

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, (int, np.integer)):
            return super().__getitem__(index)
        address = self._address(int(index))
        if self.itemsize == 8:
            return np.uint64(self._bus.read32(address) | self._bus.read32(address + 4) << 32)
        return np.uint32(self._bus.read32(address))

    def __setitem__(self, index: Any, value: Any) -> None:
        places = [int(index)] if isinstance(index, (int, np.integer)) else list(range(len(self))[index])
        for place, word in zip(places, np.broadcast_to(np.asarray(value), (len(places),)), strict=True):
            address = self._address(place)
            self._bus.write32(address, int(word) & 0xFFFFFFFF)
            if self.itemsize == 8:
                self._bus.write32(address + 4, int(word) >> 32)


def _open_without_terminal(path: str, mode: str = "r", buffering: int = -1) -> IO[Any]:
    """`open`, but a terminal does not become this process's own: its end would then be SIGHUP, the end of a Jupyter kernel."""
    return open(path, mode, buffering, opener=lambda name, flags: os.open(name, flags | os.O_NOCTTY))


class _Pages:
    """What pynq gives the memory of a dropped buffer back to."""

    def __init__(self, board: EmulatedBoard) -> None:
        self._board = board

    def return_pointer(self, address: int) -> None:
        self._board.memory.free(address)


class EmulatedDevice(Device):
    """A device that pynq uses like a board's own."""

    def __init__(self, board: EmulatedBoard, index: int = 0) -> None:
        super().__init__(f"emulated{index}")
        self.board = board
        self.name = board.name
        self.arch = _ARCHITECTURE
        self.capabilities = {"MEMORY_MAPPED": True}
        self._pages = _Pages(board)
        if pynq.__version__.startswith("3.0."):
            pynq.ps.CPU_ARCH = _ARCHITECTURE

    def mmap(self, base_addr: int, length: int) -> BusArray:
        """Registers of the bus."""
        return BusArray.map(self.board.bus, base_addr, length)

    def allocate(self, shape: Any, dtype: Any, cacheable: int = 1, **_: Any) -> NDArray[Any]:
        """A buffer of contiguous memory. Raises RuntimeError if the pool is exhausted, as XRT does."""
        nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        try:
            address, size = self.board.memory.allocate(nbytes)
        except OutOfDeviceMemory as error:
            raise RuntimeError(f"BO allocation failed: std::bad_alloc ({error})") from None
        # The exporter must not be an ndarray or a memoryview: numpy would look through it, and a view of the buffer would no
        # longer keep the buffer alive.
        exporter = (ctypes.c_ubyte * size).from_address(self.board.memory.host_pointer(address))
        buffer = PynqBuffer(
            shape, np.dtype(dtype), bo=(address, size), device=self, buffer=exporter, device_address=address
        )
        # With a pointer and a pool, pynq gives the memory back by `return_pointer` instead of the C library's munmap.
        buffer.memory, buffer.pointer, buffer.return_to, buffer.freed = self, address, self._pages, True
        return buffer

    def flush(self, bo: tuple[int, int], offset: int, _vaddr: int, nbytes: int) -> None:
        """Cache to memory."""
        self.board.memory.flush(bo[0] + offset, nbytes)

    def invalidate(self, bo: tuple[int, int], offset: int, _vaddr: int, nbytes: int) -> None:
        """Memory to cache."""
        self.board.memory.invalidate(bo[0] + offset, nbytes)

    @property
    def default_memory(self) -> EmulatedDevice:
        """The only memory."""
        return self

    def get_memory(self, _description: Any) -> EmulatedDevice:
        """The only memory."""
        return self

    def read_file(self, path: str) -> bytes:
        """A file of the board; it has /proc/meminfo. Raises FileNotFoundError for others."""
        if path != "/proc/meminfo":
            raise FileNotFoundError(path)
        return self.board.memory.meminfo().encode()

    def get_bitfile_metadata(self, bitfile_name: str, partial: bool = False) -> Any:
        """What pynq parsed of the hand-off file beside a bitstream, or of an .xsa."""
        path = Path(bitfile_name)
        source = path if path.suffix == ".xsa" else path.with_suffix(".hwh")
        if not source.exists():
            raise RuntimeError(f"Unable to find metadata for bitstream: {source} is missing")
        parser = RuntimeMetadataParser(Metadata(input=str(source)))
        parser.bin_data = parser.xclbin_data = parser.dtbo_data = None
        memory = self.board.memory.device
        parser.mem_dict["PSDDR"] = {
            "raw_type": 2,
            "used": 1,
            "base_address": 0,
            "size": memory.base + memory.capacity,
            "type": "DDR4",
            "streaming": False,
            "idx": 0,
            "tag": "PSDDR",
        }
        return parser

    def download(self, bitstream: Any, parser: Any = None) -> None:
        """Loads a design into the emulated logic."""
        self.board.load(str(bitstream.bitfile_name), parser.ip_dict, parser.interrupt_controllers)
        pynq.interrupt.get_uio_irq = self.board.interrupt_path
        pynq.uio.open = _open_without_terminal
        self.post_download(bitstream, parser, self.name)

    def gen_cache(self, bitstream: Any, parser: Any = None) -> None:
        """There is no cache of metadata that could be stale."""

    def shutdown(self) -> None:
        """There are no shutdown managers."""

    def close(self) -> None:
        """Nothing to give back: the board outlives the overlay."""
