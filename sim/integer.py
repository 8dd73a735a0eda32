"""The exact integer GEMM of the CPU, behind one function."""

from __future__ import annotations

from .reference import Int8, Int32, gemm_int32


def integer_gemm(a: Int8, b: Int8) -> Int32:
    """Exact product of int8 [m, k] and int8 [k, n] as int32 [m, n]."""
    return gemm_int32(a, b)
