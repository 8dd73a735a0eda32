"""The softmax gradient between the attention products: accurate, in one pass, the same bits for any number of threads."""

from __future__ import annotations

import pytest
import torch
from systolora.offloading.attention import softmax_gradient
from torch import Tensor
from torch.profiler import ProfilerActivity, profile


def inputs(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(shape, generator=generator).mul(3).softmax(-1), torch.randn(shape, generator=generator)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 7, 77), (8, 33, 1024)])
def test_it_is_that_of_float64(shape: tuple[int, ...]) -> None:
    p, grad = inputs(*shape)
    wide, wide_grad = p.double(), grad.double()
    expected = wide * (wide_grad - (wide_grad * wide).sum(-1, keepdim=True))
    found = softmax_gradient(p, grad)
    assert found.dtype == torch.float32
    # An ulp of float32 is 6e-8 of the terms, which p and grad bound; their sum rounds a few times more.
    scale = (wide * (wide_grad.abs() + (wide_grad * wide).abs().sum(-1, keepdim=True))).clamp_min(1e-30)
    assert float(((found.double() - expected).abs() / scale).max()) < 2e-6


def test_strides_do_not_matter() -> None:
    p, grad = inputs(4, 16, 48)
    turned = grad.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(softmax_gradient(p, turned), softmax_gradient(p, grad))


def test_any_number_of_threads_gives_the_same_bits() -> None:
    p, grad = inputs(8, 128, 512)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            found.append(softmax_gradient(p, grad))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_it_is_one_operation() -> None:
    p, grad = inputs(2, 8, 16)
    with profile(activities=[ProfilerActivity.CPU]) as record:
        softmax_gradient(p, grad)
    names = {event.name for event in record.events() if event.name.startswith("aten::")}
    assert not names & {"aten::mul", "aten::sum", "aten::sub"}
    assert "aten::_softmax_backward_data" in names
