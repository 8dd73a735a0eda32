"""The exact integer GEMM of the CPU, behind one function."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np

from .reference import Int8, Int32, gemm_int32

_EXACT_TERMS = 1024
"""So many products of int8 values, at most 2**14 each, have a sum of at most 2**24: float32 holds it and all on the way, in any order."""

_ROWS = 512
"""Rows of A that are converted at a time."""

_TIMED_SIZE = 256
_CHECKED_SHAPES = ((2, 2, 2), (3, 5, 1041), (17, 33, 65), (77, 40, 768), (64, 16, 5120))


class IntegerGemm:
    """int8 x int8 into int32, exact: by torch's integer GEMM where torch is loaded and that proves right and fast, else in float32, in
    parts of k. The bits are the same.

    The result is valid until the next call: its memory is reused, because on virtual machines fresh pages cost more than
    the multiplication. One object must not be used by two threads at once.
    """

    def __init__(self) -> None:
        self._room = np.empty(0, np.int32)

    def __call__(self, a: Int8, b: Int8) -> Int32:
        """The product of int8 [m, k] and int8 [k, n] as int32 [m, n], C-contiguous."""
        size = a.shape[0] * b.shape[1]
        if size > self._room.size:
            self._room = np.empty(size, np.int32)
        return integer_gemm(a, b, self._room[:size].reshape(a.shape[0], b.shape[1]))


def integer_gemm(a: Int8, b: Int8, out: Int32 | None = None) -> Int32:
    """Exact product of two int8 matrices, with any strides.

    Args:
        a: int8 [m, k]. b: int8 [k, n].
        out: C-contiguous int32 [m, n] to write to, or None.

    Raises:
        ValueError: if the shapes do not fit.
    """
    m, k, n = *a.shape, b.shape[1]
    if b.shape[0] != k or (out is not None and out.shape != (m, n)):
        raise ValueError(f"shapes {a.shape} and {b.shape} do not make a product into {getattr(out, 'shape', (m, n))}")
    if out is None:
        out = np.empty((m, n), np.int32)
    # torch's integer GEMM returns uninitialised memory for some operands with a dimension of one.
    if min(m, n, k) > 1 and torch_is_loaded() and torch_is_exact() and torch_is_fast():
        return _torch_gemm(a, b, out)
    return _float_gemm(a, b, out)


def torch_is_loaded() -> bool:
    """Whether this process has torch already. Loading it takes seconds: what works without torch does not do it for a product."""
    return sys.modules.get("torch") is not None


@lru_cache(maxsize=1)
def torch_is_fast() -> bool:
    """Whether torch's integer GEMM beats float32 here. Without instructions for int8 products it takes 4 to 30 times as long."""
    a = np.ones((_TIMED_SIZE, _TIMED_SIZE), np.int8)
    out = np.empty(a.shape, np.int32)
    ways = (partial(_torch_gemm, a, a.T, out), partial(_float_gemm, a, a.T, out))
    theirs, ours = (min(_seconds(way) for _ in range(3)) for way in ways)
    return theirs < ours


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _float_gemm(a: Int8, b: Int8, out: Int32) -> Int32:
    m, k = a.shape
    if k == 0:
        out[...] = 0
    for start in range(0, k, _EXACT_TERMS):
        terms = slice(start, start + _EXACT_TERMS)
        right = b[terms].astype(np.float32)
        for top in range(0, m, _ROWS):
            rows = slice(top, top + _ROWS)
            sums = a[rows, terms].astype(np.float32) @ right
            if start == 0:
                np.copyto(out[rows], sums, casting="unsafe")
            else:
                out[rows] += sums.astype(np.int32)
    return out


@lru_cache(maxsize=1)
def torch_is_exact() -> bool:
    """Whether the integer GEMM of torch, which is loaded, is right on the operands that go wrong first (saturation, odd k)."""
    for m, n, k in _CHECKED_SHAPES:
        for a, b in _worst_cases(m, n, k):
            for stored in (b, np.ascontiguousarray(b.T).T):
                if not np.array_equal(_torch_gemm(a, stored, np.empty((m, n), np.int32)), gemm_int32(a, b)):
                    text = f"torch's integer GEMM is wrong on this processor ({m} x {n} x {k}); using float32"
                    warnings.warn(text, RuntimeWarning, stacklevel=2)
                    return False
    return True


def _worst_cases(m: int, n: int, k: int) -> list[tuple[Int8, Int8]]:
    rng = np.random.default_rng(k)
    full = [
        (np.full((m, k), x, np.int8), np.full((k, n), y, np.int8)) for x, y in ((-128, -128), (127, 127), (-128, 127))
    ]
    high = (rng.integers(120, 128, (m, k)).astype(np.int8), rng.integers(120, 128, (k, n)).astype(np.int8))
    signs = np.where(np.arange(k) % 2, -128, 127).astype(np.int8)
    alternating = (np.tile(signs, (m, 1)), np.tile(signs[:, None], (1, n)))
    mixed = (rng.integers(-128, 128, (m, k)).astype(np.int8), rng.integers(-128, 128, (k, n)).astype(np.int8))
    return [*full, high, alternating, mixed]


def _torch_gemm(a: Int8, b: Int8, out: Int32) -> Int32:
    import torch

    def tensor(x: np.ndarray) -> torch.Tensor:
        # By way of one dimension: numpy calls arrays contiguous whose strides torch's integer GEMM stumbles over.
        return torch.from_numpy(np.ascontiguousarray(x).reshape(-1)).view(x.shape)

    b_tensor = tensor(b.T).t() if b.strides[0] == 1 else tensor(b)
    torch._int_mm(tensor(a), b_tensor, out=torch.from_numpy(out))
    return out
