"""The device seam: what every backend offers, and nothing else is known above it.

A device owns device memory, runs programs that lie in it, and counts. Programs and buffers, not `gemm(a, b)`: so padding,
addresses and tiling are the same code on the emulator, in C-simulation and on a board.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import ERROR_TEXT, ErrorCode
from systolora.hls.registers import Counters, Status


class DeviceError(RuntimeError):
    """A program that the controller stopped, or a device that does not answer.

    Attributes:
        code: the controller's error code, or None if there is no status.
        index: the instruction at which it stopped.
        label: what that instruction was for, as the compiler named it; "" if unknown.
    """

    def __init__(self, text: str, code: ErrorCode | None = None, index: int = 0, label: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.index = index
        self.label = label

    @classmethod
    def from_status(cls, device: str, status: Status, labels: Mapping[int, str]) -> DeviceError:
        """The error that a status block reports."""
        label = labels.get(status.error_index, "")
        what = f" ({label})" if label else ""
        text = (
            f"{device}: instruction {status.error_index}{what} stopped the program: "
            f"{status.error.name}, {ERROR_TEXT[status.error]}"
        )
        return cls(text, status.error, status.error_index, label)


class OutOfDeviceMemory(RuntimeError):
    """No room in device memory; the text says what was asked for, what is free and what to do."""


class Buffer(ABC):
    """Bytes of device memory, by handle. Made by `Device.allocate`, given back by `free`."""

    address: int
    nbytes: int
    label: str

    @abstractmethod
    def read(self) -> NDArray[np.uint8]:
        """The bytes as the last program left them: a view, not to be written to; valid until the next submit."""

    @abstractmethod
    def write(self) -> NDArray[np.uint8]:
        """The bytes to be written by the host: a view; what is written is seen by the next program submitted."""

    @abstractmethod
    def free(self) -> None:
        """Gives the memory back; the handle and its views must not be used again."""


@dataclass(frozen=True)
class Program:
    """Instructions ready to run.

    Attributes:
        code: encoded instructions, END included.
        reads: buffers that the program reads. writes: buffers that it writes.
        labels: what the instruction of an index is for, for error messages and traces.
    """

    code: bytes
    reads: tuple[Buffer, ...] = ()
    writes: tuple[Buffer, ...] = ()
    labels: Mapping[int, str] = field(default_factory=dict)


class Device(ABC):
    """One accelerator, real or modelled."""

    name: str
    config: ArrayConfig

    @abstractmethod
    def allocate(self, nbytes: int, label: str = "") -> Buffer:
        """A buffer of at least `nbytes` bytes, aligned to 64.

        Raises:
            OutOfDeviceMemory: if there is no room.
        """

    @abstractmethod
    def submit(self, program: Program) -> Future[Status]:
        """Starts a program; programs run in the order in which they were submitted.

        The future gives the status block, or raises `DeviceError`.
        """

    def run(self, program: Program) -> Status:
        """Submits a program and waits for it.

        Raises:
            DeviceError: if the controller stopped it.
        """
        return self.submit(program).result()

    @property
    @abstractmethod
    def counters(self) -> Counters:
        """Sum of the counters of all programs that finished."""

    @property
    @abstractmethod
    def bytes_in_use(self) -> int:
        """Device memory that is allocated, in bytes."""

    @abstractmethod
    def close(self) -> None:
        """Gives everything back; a second call does nothing."""

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
