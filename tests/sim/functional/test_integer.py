"""The CPU's integer GEMM: exact on the operands that go wrong first, whatever their strides."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from systolora.sim.functional import integer
from systolora.sim.functional.integer import IntegerGemm, integer_gemm


@pytest.fixture(params=["torch", "float32"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    assert integer.torch_is_exact()
    monkeypatch.setattr(integer, "torch_is_fast", lambda: request.param == "torch")
    yield request.param


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a.astype(np.int64) @ b.astype(np.int64)


VALUES = [(-128, -128), (127, 127), (-128, 127), (127, -128), (120, 127)]


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 7, 768), (77, 1, 5), (3, 5, 1), (2, 2, 5120), (33, 17, 1041), (64, 4, 77), (1030, 3, 2049)]
)
def test_the_largest_sums_are_exact(way: str, shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    for x, y in VALUES:
        a, b = np.full((m, k), x, np.int8), np.full((k, n), y, np.int8)
        assert np.array_equal(integer_gemm(a, b), product(a, b))
        assert np.array_equal(integer_gemm(a, np.asfortranarray(b)), product(a, b))


def test_the_longest_contraction(way: str) -> None:
    a = np.full((2, 131_071), -128, np.int8)
    assert np.array_equal(integer_gemm(a, a.T), np.full((2, 2), 131_071 * 2**14))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_any_strides(m: int, n: int, k: int, seed: int) -> None:
    """Steps, reversals, transposes and rows that are all the same one, as numpy can make them."""
    rng = np.random.default_rng(seed)
    a = rng.integers(-128, 128, (2 * m, 3 * k)).astype(np.int8)[::2, ::-3]
    b = rng.integers(-128, 128, (n, k + 5)).astype(np.int8)[:, 5:].T
    assert np.array_equal(integer_gemm(a, b), product(a, b))
    same = np.broadcast_to(a[:1], (m, k))
    assert np.array_equal(integer_gemm(same, b), product(same, b))
    odd = np.lib.stride_tricks.as_strided(np.ascontiguousarray(a[0]), (1, k), (0, 1))
    assert np.array_equal(integer_gemm(odd, b), product(odd, b))


def test_the_result_goes_where_it_is_wanted(way: str) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-128, 128, (8, 8)).astype(np.int8) for _ in range(2))
    out = np.empty((8, 8), np.int32)
    assert integer_gemm(a, b, out) is out
    assert np.array_equal(out, product(a, b))


def test_working_memory_is_used_again(way: str) -> None:
    rng = np.random.default_rng(0)
    multiply = IntegerGemm()
    large, small = (rng.integers(-128, 128, (size, size)).astype(np.int8) for size in (40, 7))
    first = multiply(large, large)
    assert np.array_equal(first, product(large, large))
    second = multiply(small, small)
    assert np.array_equal(second, product(small, small))
    assert np.shares_memory(first, second)


def test_nobody_waits_for_torch_that_is_not_loaded() -> None:
    """In a process of its own: here torch may be loaded already."""
    code = (
        "import sys, numpy as np\n"
        "from systolora.sim.functional.integer import integer_gemm, torch_is_loaded\n"
        "a = np.full((5, 3000), -128, np.int8)\n"
        "assert (integer_gemm(a, a.T) == 3000 * 2**14).all() and 'torch' not in sys.modules and not torch_is_loaded()\n"
        "import torch\n"
        "assert torch_is_loaded()"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_shapes_that_do_not_fit_are_refused() -> None:
    a = np.zeros((2, 3), np.int8)
    with pytest.raises(ValueError, match=r"shapes \(2, 3\) and \(2, 3\) do not make a product"):
        integer_gemm(a, a)
    with pytest.raises(ValueError, match=r"into \(3, 3\)"):
        integer_gemm(a, a.T, np.zeros((3, 3), np.int32))


def test_a_processor_on_which_torch_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saturating 16-bit sums, as old processors make them: one warning, and float32 from then on."""

    def saturating(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> np.ndarray:
        out[...] = np.clip(product(a, b), -(2**23), 2**23)
        return out

    monkeypatch.setattr(integer, "_torch_gemm", saturating)
    monkeypatch.setattr(integer, "torch_is_loaded", lambda: True)
    integer.torch_is_exact.cache_clear()
    try:
        a = np.full((3, 5120), -128, np.int8)
        with pytest.warns(
            RuntimeWarning, match="torch's integer GEMM is wrong on this processor.*using float32"
        ) as caught:
            assert np.array_equal(integer_gemm(a, a.T), product(a, a.T))
            assert np.array_equal(integer_gemm(a, a.T), product(a, a.T))
        assert len(caught) == 1
    finally:
        integer.torch_is_exact.cache_clear()
