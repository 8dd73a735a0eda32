"""Between torch tensors and matrices in device memory, with as few copies as the device allows."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from systolora.sim.functional.memory import ArenaBuffer
from torch import Tensor

from .buffers import Lease
from .tensors import DeviceMatrix, ElementType

_STAND_IN = {ElementType.BFLOAT16: np.int16}
"""numpy has no bfloat16, and torch's uint16 knows few operations: the bits travel as int16."""


def element_type(dtype: torch.dtype) -> ElementType:
    """The element type that holds what a tensor of some type holds: bfloat16, or else float32."""
    return ElementType.BFLOAT16 if dtype == torch.bfloat16 else ElementType.FLOAT32


def upload(values: Tensor, matrix: DeviceMatrix) -> None:
    """Writes a tensor of any shape whose elements, in row-major order, are those of the matrix; converted if need be.

    float32 becomes bfloat16 by rounding to nearest even, so from 3.3962e38 on it becomes infinite.

    Args:
        values: [..., cols], rows in all before the last dimension; any strides: here a transposed tensor is put in order.
    """
    target = _tensor(_array(matrix, matrix.buffer.write()), matrix)
    target.unflatten(0, values.shape[:-1]).copy_(values.detach())


def copy_result(matrix: DeviceMatrix) -> Tensor:
    """A copy of a result, [rows, cols], float32 or bfloat16."""
    return _tensor(_array(matrix, matrix.buffer.read()).copy(), matrix)


def take_result(matrix: DeviceMatrix, lease: Lease) -> Tensor:
    """A result, [rows, cols], float32 or bfloat16, without a copy where device memory is host memory.

    The tensor then lies in the leased buffer, which goes back to its pool when the tensor's storage dies. The caller drops the
    lease and does not release it.
    """
    buffer = lease.buffer
    if not isinstance(buffer, ArenaBuffer):
        return copy_result(matrix)
    buffer.lend()
    array = _array(matrix, buffer.write())
    weakref.finalize(array, _drop, lease).atexit = False
    return _tensor(array, matrix)


def as_own_tensor(tensor: Tensor) -> Tensor:
    """The same bytes, shape and strides as a tensor that autograd takes for no view.

    An output of an autograd function that is a view, of whatever, must not be changed in place; one that only shares its memory may.
    """
    own = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return own.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())


def _drop(lease: Lease) -> None:
    """Lets go of a lease; it ends with the last of the results that share it."""


def _array(matrix: DeviceMatrix, raw: NDArray[np.uint8]) -> NDArray[Any]:
    kind = _STAND_IN.get(matrix.dtype, matrix.dtype.numpy)
    return np.ndarray(matrix.shape, kind, raw, matrix.offset, (matrix.stride, matrix.dtype.nbytes))


def _tensor(array: NDArray[Any], matrix: DeviceMatrix) -> Tensor:
    values = torch.from_numpy(array)
    return values.view(torch.bfloat16) if matrix.dtype is ElementType.BFLOAT16 else values
