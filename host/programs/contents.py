"""Tells whether memory holds what it held before, by a fingerprint of all its bytes.

torch counts the changes that it makes itself, not those through numpy, `.data` or another process: nothing but the contents is certain.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from systolora.sim.functional.native import built_library, thread_count
from torch import Tensor

_BLOCK_BYTES = 4096
"""Bytes to which the compiled kernel (contents.cpp) makes one sum of 16 bytes."""

_THREAD_BYTES = 1 << 20
"""Bytes below which a second thread costs more than it brings."""

Contents = tuple[torch.dtype, torch.Size, bool, bytes]
"""Type, shape, order and fingerprint: equal for equal tensors. Two that differ are taken for equal once in 2^64 changes."""


def contents_of(tensor: Tensor) -> Contents:
    """What the tensor holds now; all of it is read, at about the speed of memory where the compiled kernels are built.

    Args:
        tensor: of any shape and strides; -0.0 and 0.0 differ, a NaN equals itself. One that is not in host memory is copied there.
    """
    host = tensor.detach().cpu()
    swapped = host.dim() == 4 and not host.is_contiguous()
    if swapped:
        host = host.permute(0, 2, 3, 1)  # channels last: in the order of memory, so that nothing is copied
    return tensor.dtype, tensor.shape, swapped, _fingerprint(host.contiguous().reshape(-1).view(torch.uint8).numpy())


def _fingerprint(data: NDArray[np.uint8]) -> bytes:
    library, digest = built_library(), hashlib.blake2b(len(data).to_bytes(8, "little"), digest_size=16)
    if library is None:
        digest.update(data.data)
        return digest.digest()
    sums = np.empty((-(-len(data) // _BLOCK_BYTES), 16), np.uint8)
    threads = thread_count() if len(data) >= _THREAD_BYTES else 1
    library.systolora_contents(data.ctypes.data, len(data), _key().ctypes.data, sums.ctypes.data, threads)
    digest.update(sums.data)
    return digest.digest()


@lru_cache(maxsize=1)
def _key() -> NDArray[np.uint8]:
    """The kernel's key: fixed, and independent of all that is compared."""
    return np.frombuffer(hashlib.shake_128(b"systolora contents").digest(_BLOCK_BYTES), np.uint8)
