"""Matrices and vectors in device memory: descriptors, and how the host writes and reads them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from systolora.hls.check import round_up
from systolora.hls.config import FLOAT_BYTES
from systolora.sim.functional.device import Buffer


class ElementType(Enum):
    """What a `DeviceMatrix` holds; the value is (name, bytes, numpy type of the same size).

    numpy has no bfloat16: its 16 bits travel as uint16.
    """

    INT8 = ("int8", 1, np.int8)
    INT32 = ("int32", 4, np.int32)
    FLOAT32 = ("float32", 4, np.float32)
    BFLOAT16 = ("bfloat16", 2, np.uint16)

    @property
    def nbytes(self) -> int:
        """Bytes of one element."""
        return self.value[1]

    @property
    def numpy(self) -> type[np.generic]:
        """The numpy type in which the host sees an element."""
        return self.value[2]


@dataclass(frozen=True)
class DeviceMatrix:
    """A [rows, cols] matrix in a buffer, row after row.

    Attributes:
        offset: bytes from the start of the buffer to the first element.
        stride: bytes from row to row.
    """

    buffer: Buffer
    offset: int
    rows: int
    cols: int
    stride: int
    dtype: ElementType

    @property
    def address(self) -> int:
        """Device address of the first element."""
        return self.buffer.address + self.offset

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return self.rows, self.cols

    def block(self, row: int, col: int, rows: int, cols: int) -> DeviceMatrix:
        """The part [row : row + rows, col : col + cols] of this matrix, in the same bytes."""
        offset = self.offset + row * self.stride + col * self.dtype.nbytes
        return replace(self, offset=offset, rows=rows, cols=cols)

    def write(self, values: NDArray[Any]) -> None:
        """Writes values of shape [rows, cols] and the numpy type of `dtype`; the bytes between the rows keep what they hold.

        Raises:
            ValueError: if shape or type differ.
        """
        if values.shape != self.shape or values.dtype != self.dtype.numpy:
            raise ValueError(
                f"a {self.dtype.value[0]} matrix of {self.shape} cannot take {values.dtype} values of {values.shape}; "
                f"give {np.dtype(self.dtype.numpy)} of that shape"
            )
        self._strided(self.buffer.write())[...] = values

    def read(self) -> NDArray[Any]:
        """A copy of the values as the last program left them, [rows, cols] in the numpy type of `dtype`."""
        return self._strided(self.buffer.read()).copy()

    def _strided(self, raw: NDArray[np.uint8]) -> NDArray[Any]:
        return np.ndarray(self.shape, self.dtype.numpy, raw, self.offset, (self.stride, self.dtype.nbytes))


@dataclass(frozen=True)
class DeviceVector:
    """`length` float32 values in a buffer, from byte `offset` on: scales, a bias, column factors."""

    buffer: Buffer
    offset: int
    length: int

    @property
    def address(self) -> int:
        """Device address of the first value."""
        return self.buffer.address + self.offset

    def part(self, start: int, length: int) -> DeviceVector:
        """The values [start : start + length], in the same bytes."""
        return replace(self, offset=self.offset + start * FLOAT_BYTES, length=length)

    def write(self, values: NDArray[np.float32]) -> None:
        """Writes float32 [length].

        Raises:
            ValueError: if shape or type differ.
        """
        if values.shape != (self.length,) or values.dtype != np.float32:
            raise ValueError(
                f"a vector of {self.length} float32 cannot take {values.dtype} values of {values.shape}; "
                "give float32 of that length"
            )
        self._values(self.buffer.write())[...] = values

    def read(self) -> NDArray[np.float32]:
        """A copy of the values, float32 [length]."""
        return self._values(self.buffer.read()).copy()

    def _values(self, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.ndarray((self.length,), np.float32, raw, self.offset)


def row_stride(cols: int, dtype: ElementType, bus_bytes: int) -> int:
    """Bytes from row to row of a matrix whose rows begin at bus words."""
    return round_up(max(cols, 1) * dtype.nbytes, bus_bytes)


def matrix_bytes(rows: int, cols: int, dtype: ElementType, bus_bytes: int) -> int:
    """Bytes of a matrix whose rows begin at bus words."""
    return rows * row_stride(cols, dtype, bus_bytes)


def vector_bytes(length: int, bus_bytes: int) -> int:
    """Bytes of a float32 vector in whole bus words."""
    return round_up(length * FLOAT_BYTES, bus_bytes)
