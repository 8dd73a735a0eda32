"""An emulated board that answers PYNQ.remote: pynq's own `RemoteDevice` connects to it over gRPC, as to a board on the network.

It answers as the server of pynq 3.1 and 4.0 does: no interrupts, an allocation that fails is answered with an empty number and no
error, and a bitstream is loaded by writing its name to a file of the FPGA manager.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from pynq.metadata.runtime_metadata_parser import RuntimeMetadataParser
from pynq.remote import (
    buffer_pb2,
    buffer_pb2_grpc,
    mmio_pb2,
    mmio_pb2_grpc,
    remote_device_pb2,
    remote_device_pb2_grpc,
)
from pynqmetadata.frontends import Metadata
from systolora.hls.design import DESIGN
from systolora.sim.functional.device import OutOfDeviceMemory

from .hardware import EmulatedBoard, temporary_design
from .memory import BusError

_CHUNK = 2 << 20
_FIRMWARE = "/sys/class/fpga_manager/fpga0/firmware"


class RemoteFiles(remote_device_pb2_grpc.RemoteDeviceServicer):
    """The board's files, in memory. Writing the FPGA manager's `firmware` loads the design."""

    def __init__(self, board: EmulatedBoard) -> None:
        self._board = board
        self._files = {
            "/proc/version": b"Linux version 6.6.0-emulated (aarch64-linux-gnu-gcc)",
            "/proc/device-tree/chosen/pynq_board": board.name.encode() + b"\0",
            "/sys/class/fpga_manager/fpga0/state": b"operating",
            "/sys/class/fpga_manager/fpga0/flags": b"0",
        }

    def existsfile(self, request: Any, context: Any) -> Any:
        """Whether there is such a file."""
        found = request.file_path in self._files or request.file_path == "/proc/meminfo"
        return remote_device_pb2.ExistsFileResponse(exists=found)

    def readfile(self, request: Any, context: Any) -> Iterator[Any]:
        """A file in pieces."""
        if request.file_path == "/proc/meminfo":
            data = self._board.memory.meminfo().encode()
        elif request.file_path in self._files:
            data = self._files[request.file_path]
        else:
            context.abort(grpc.StatusCode.NOT_FOUND, request.file_path)
        for start in range(0, max(len(data), 1), _CHUNK):
            yield remote_device_pb2.ReadFileResponse(data=data[start : start + _CHUNK])

    def writefile(self, request_iterator: Any, context: Any) -> Any:
        """Takes a file in pieces."""
        path, data = "", b""
        for request in request_iterator:
            path, data = request.file_path, data + request.data
        self._files[path] = data
        if path == _FIRMWARE:
            self._load(data.decode())
        return remote_device_pb2.WriteFileResponse()

    def _load(self, name: str) -> None:
        with temporary_design(self._board.config) as folder:
            parser = RuntimeMetadataParser(Metadata(input=str(Path(folder) / f"{DESIGN}.hwh")))
        self._board.load(name, parser.ip_dict, {})

    def set_bitstream_attrs(self, request: Any, context: Any) -> Any:
        """Nothing to remember."""
        return remote_device_pb2.SetBitstreamAttrsResponse(status=True)


class RemoteRegisters(mmio_pb2_grpc.MmioServicer):
    """The board's AXI-Lite bus."""

    def __init__(self, board: EmulatedBoard) -> None:
        self._board = board
        self._bases: dict[str, int] = {}
        self._numbers = itertools.count()

    def get_mmio(self, request: Any, context: Any) -> Any:
        """Maps a range."""
        number = str(next(self._numbers))
        self._bases[number] = request.base_addr
        return mmio_pb2.GetMmioResponse(status=True, mmio_id=number)

    def read(self, request: Any, context: Any) -> Any:
        """4 or 8 bytes."""
        address = self._bases[request.mmio_id] + request.offset
        try:
            value = self._board.bus.read32(address)
            if request.length == 8:
                other = self._board.bus.read32(address + 4)
                value = value << 32 | other if request.word_order == "big" else other << 32 | value
        except BusError as error:
            return mmio_pb2.ReadResponse(status=False, msg=str(error))
        return mmio_pb2.ReadResponse(status=True, data=value)

    def write(self, request: Any, context: Any) -> Any:
        """Whole words."""
        address = self._bases[request.mmio_id] + request.offset
        try:
            for start in range(0, len(request.data), 4):
                word = int.from_bytes(request.data[start : start + 4], "little")
                self._board.bus.write32(address + start, word)
        except BusError as error:
            return mmio_pb2.WriteResponse(status=False, msg=str(error))
        return mmio_pb2.WriteResponse(status=True)


class RemoteBuffers(buffer_pb2_grpc.RemoteBufferServicer):
    """The board's contiguous memory."""

    def __init__(self, board: EmulatedBoard) -> None:
        self._memory = board.memory
        self._buffers: dict[str, tuple[int, int]] = {}
        self._numbers = itertools.count()

    def allocate(self, request: Any, context: Any) -> Any:
        """A buffer; without room an empty number and no error, as pynq's server."""
        try:
            address, _ = self._memory.allocate(request.size)
        except OutOfDeviceMemory:
            return buffer_pb2.AllocateResponse(buffer_id="")
        number = str(next(self._numbers))
        self._buffers[number] = (address, request.size)
        return buffer_pb2.AllocateResponse(buffer_id=number)

    def write(self, request_iterator: Any, context: Any) -> Any:
        """Bytes into the processor's view, from the start of the buffer."""
        place = 0
        for request in request_iterator:
            address, size = self._buffers[request.buffer_id]
            if place + len(request.data) > size:
                return buffer_pb2.BufferWriteResponse(msg="write past the end of the buffer")
            self._memory.host_view(address + place, len(request.data))[:] = memoryview(request.data)
            place += len(request.data)
        return buffer_pb2.BufferWriteResponse()

    def read(self, request: Any, context: Any) -> Iterator[Any]:
        """The processor's view of all of a buffer, in pieces."""
        address, size = self._buffers[request.buffer_id]
        view = self._memory.host_view(address, size)
        for start in range(0, size, _CHUNK):
            yield buffer_pb2.BufferReadResponse(data=view[start : start + _CHUNK].tobytes())

    def flush(self, request: Any, context: Any) -> Any:
        """Cache to memory."""
        self._memory.flush(*self._buffers[request.buffer_id])
        return buffer_pb2.FlushResponse()

    def invalidate(self, request: Any, context: Any) -> Any:
        """Memory to cache."""
        self._memory.invalidate(*self._buffers[request.buffer_id])
        return buffer_pb2.InvalidateResponse()

    def physical_address(self, request: Any, context: Any) -> Any:
        """The device address."""
        return buffer_pb2.AddressResponse(address=self._buffers[request.buffer_id][0])

    def freebuffer(self, request: Any, context: Any) -> Any:
        """Gives a buffer back."""
        self._memory.free(self._buffers.pop(request.buffer_id)[0])
        return buffer_pb2.FreeBufferResponse()


@dataclass(frozen=True)
class EmulatedServer:
    """A running server.

    Attributes:
        address: "host:port", as `open_board(remote=...)` takes it. board: the board behind it.
    """

    address: str
    board: EmulatedBoard
    server: Any

    def stop(self) -> None:
        """Hangs up on everybody at once, and switches the board off."""
        self.server.stop(0).wait()
        self.board.close()


def serve(board: EmulatedBoard, port: int = 0, host: str = "127.0.0.1") -> EmulatedServer:
    """Serves an emulated board; port 0 takes a free one."""
    server = grpc.server(futures.ThreadPoolExecutor(8))
    remote_device_pb2_grpc.add_RemoteDeviceServicer_to_server(RemoteFiles(board), server)
    mmio_pb2_grpc.add_MmioServicer_to_server(RemoteRegisters(board), server)
    buffer_pb2_grpc.add_RemoteBufferServicer_to_server(RemoteBuffers(board), server)
    bound = server.add_insecure_port(f"{host}:{port}")
    server.start()
    return EmulatedServer(f"{host}:{bound}", board, server)
