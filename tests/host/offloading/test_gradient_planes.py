"""The planes of a convolution's gradient against torch's gradient in integers, and against patches of an image spread with zeros."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from systolora.offloading.gradient_planes import GradientPlane, gradient_planes
from systolora.sim.functional import reference
from torch.nn.grad import conv2d_input

CHANNELS, OUT, BATCH = 3, 4, 2

SIZES = st.tuples(st.integers(1, 11), st.integers(1, 11))
KERNELS = st.tuples(st.integers(1, 5), st.integers(1, 5))
PADS = st.tuples(st.integers(0, 4), st.integers(0, 4))


def product(plane: GradientPlane, grad: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """The sums of a plane, [batch, rows, columns, channels], by the reference's functions alone."""
    g = plane.geometry
    kernel = (g.kernel_height, g.kernel_width)
    patches = reference.gather_patches(grad, (g.out_height, g.out_width), kernel, g.step, (g.pad_top, g.pad_left))
    stored = blocks[plane.block : plane.block + plane.blocks]
    b = reference.reversed_blocks(stored, kernel, plane.block_steps, CHANNELS)
    sums = reference.gemm_int32(patches, b).reshape(BATCH, g.out_height, g.out_width, CHANNELS)
    return sums[:, plane.skipped[0] :, plane.skipped[1] :]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(SIZES, KERNELS, st.integers(1, 4), PADS, st.integers(0, 2**31))
def test_the_planes_are_the_gradient(
    image: tuple[int, int], kernel: tuple[int, int], stride: int, pads: tuple[int, int], seed: int
) -> None:
    padding = (min(pads[0], kernel[0] - 1), min(pads[1], kernel[1] - 1))
    sizes = zip(image, kernel, padding, strict=True)
    down, across = ((size + 2 * pad - taps) // stride + 1 for size, taps, pad in sizes)
    assume(min(down, across) > 0)
    rng = np.random.default_rng(seed)
    grad = rng.integers(-128, 128, (BATCH, down, across, OUT)).astype(np.int8)
    weight = rng.integers(-128, 128, (OUT, CHANNELS, *kernel)).astype(np.int8)
    blocks = weight.transpose(2, 3, 1, 0).reshape(-1, CHANNELS, OUT)
    found = np.zeros((BATCH, *image, CHANNELS), np.int32)
    planes = gradient_planes(image, (down, across), kernel, stride, padding)
    for plane in planes:
        found[:, plane.first[0] :: stride, plane.first[1] :: stride] = product(plane, grad, blocks)
    size = (BATCH, CHANNELS, *image)
    tensors = (torch.from_numpy(weight.astype(float)), torch.from_numpy(grad.transpose(0, 3, 1, 2).astype(float)))
    expected = conv2d_input(size, *tensors, stride, padding).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(found, expected)
    # Nothing is computed twice, and no kernel position is in two planes.
    assert sum(plane.pixels for plane in planes) <= image[0] * image[1]
    assert sum(plane.geometry.kernel_height * plane.geometry.kernel_width for plane in planes) <= kernel[0] * kernel[1]


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "taps"),
    [
        (3, 2, 1, [1, 2, 2, 4]),
        (3, 1, 1, [9]),
        (1, 2, 0, [1]),  # three pixels of four have no gradient
        (4, 2, 1, [4, 4, 4, 4]),
        (3, 3, 1, [1] * 9),
    ],
)
def test_kernel_positions_of_the_planes(kernel: int, stride: int, padding: int, taps: list[int]) -> None:
    out = (12 + 2 * padding - kernel) // stride + 1
    planes = gradient_planes((12, 12), (out, out), (kernel, kernel), stride, (padding, padding))
    assert [plane.geometry.kernel_height * plane.geometry.kernel_width for plane in planes] == taps


def test_of_a_kernel_3_with_stride_3_and_padding_1_the_last_plane_begins_a_pixel_earlier() -> None:
    """Its pixel v reads grad_y from v + 1 on: a padding of -1, which no instruction has."""
    planes = gradient_planes((9, 9), (3, 3), (3, 3), 3, (1, 1))
    assert planes[-1].skipped == (1, 1)
    assert (planes[-1].geometry.pad_top, planes[-1].geometry.out_height) == (0, 4)
