"""The fingerprint of a tensor's contents: it sees every change, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from systolora.programs import contents
from systolora.programs.contents import contents_of
from systolora.sim.functional.native import built_library, load_library
from torch import Tensor

WAYS = ("compiled", "plain")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """With the compiled kernel, and without a compiler."""
    if request.param == "plain":
        monkeypatch.setattr(contents, "built_library", lambda: None)
    elif load_library() is None:
        pytest.skip("no compiler here")
    yield request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1,), (7,), (77, 768), (1024, 1), (1025,), (3, 5, 7), (300, 1024)])
def test_every_single_element_counts(way: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    before = contents_of(x)
    assert contents_of(x.clone()) == before
    flat = x.view(-1)
    for place in {0, len(flat) // 2, len(flat) - 1}:
        kept = flat[place].clone()
        flat[place] = -kept
        assert contents_of(x) != before
        flat[place] = kept
    assert contents_of(x) == before


def test_elements_that_change_places_count(way: str) -> None:
    x = torch.randn(4096, generator=torch.Generator().manual_seed(1))
    before = contents_of(x)
    for i, j in [(0, 1), (0, 2), (0, 512), (0, 1024), (5, 4095), (1024, 2048)]:
        swapped = x.clone()
        swapped[i], swapped[j] = x[j], x[i]
        assert contents_of(swapped) != before, (i, j)
    assert contents_of(x.roll(1024)) != before


def test_signs_of_zero_count_and_a_nan_is_itself(way: str) -> None:
    zeros = torch.zeros(5)
    assert contents_of(zeros) != contents_of(-zeros)
    nan = torch.full((5,), torch.nan)
    assert contents_of(nan) == contents_of(nan.clone())


def test_zeros_of_other_lengths_and_shapes_are_others(way: str) -> None:
    shapes = [(0,), (1,), (1023,), (1024,), (1025,), (2048,), (32, 32), (1, 1024)]
    found = [contents_of(torch.zeros(shape)) for shape in shapes]
    assert len(set(found)) == len(shapes)
    assert contents_of(torch.zeros(4, dtype=torch.int32)) != contents_of(torch.zeros(4))


def test_strides_do_not_count_but_for_channels_last(way: str) -> None:
    x = torch.randn(6, 8)
    assert contents_of(x.t()) == contents_of(x.t().contiguous())
    spread = torch.randn(1).expand(3, 4)
    assert contents_of(spread) == contents_of(spread.contiguous())
    image = torch.randn(2, 4, 3, 3)
    last = image.to(memory_format=torch.channels_last)
    before = contents_of(last)
    last[1, 2, 0, 1] += 1
    assert contents_of(last) != before


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_make_the_same(threads: int) -> None:
    if load_library() is None:
        pytest.skip("no compiler here")
    x = torch.randn(1 << 19)
    torch.set_num_threads(1)
    alone = contents_of(x)
    torch.set_num_threads(threads)
    try:
        assert contents_of(x) == alone
    finally:
        torch.set_num_threads(1)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_equal_if_and_only_if_the_bytes_are(data: st.DataObject) -> None:
    bytes_of = st.binary(min_size=1, max_size=9000)
    first = data.draw(bytes_of)
    second = data.draw(
        st.one_of(bytes_of, st.permutations(list(first[:40])).map(lambda head: bytes(head) + first[40:]))
    )

    def tensor(values: bytes) -> Tensor:
        return torch.frombuffer(bytearray(values), dtype=torch.uint8)

    assert (contents_of(tensor(first)) == contents_of(tensor(second))) == (first == second)


def test_nothing_is_compiled_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    built_library.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    try:
        assert built_library() is None
    finally:
        built_library.cache_clear()
