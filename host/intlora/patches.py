"""A convolution as a product of a matrix: each pixel of the result is a row, its patch of the image laid out as the weight's rows are."""

from __future__ import annotations

from collections.abc import Callable

from systolora.offloading.convolution_shapes import ConvolutionShape
from torch import Tensor, nn
from torch.nn import functional


def convolve(convolution: nn.Conv2d, image: Tensor, multiply: Callable[[Tensor], Tensor]) -> Tensor:
    """The result of a convolution without groups and dilation, its product by `multiply`; differentiable.

    The patches are laid out in the host's memory: as many copies of the image as the kernel has pixels.

    Args:
        convolution: of its sizes; its weight is not read. image: [..., in, height, width].
        multiply: from patches [count, pixels, in kh kw] to [count, pixels, out].

    Returns:
        [..., out, height', width'].
    """
    shape = ConvolutionShape.of(convolution, 1)
    *lead, channels, height, width = image.shape
    batch = image.reshape(-1, channels, height, width)
    patches = functional.unfold(batch, shape.kernel, padding=shape.padding, stride=shape.stride)
    rows = multiply(patches.transpose(1, 2))
    return rows.transpose(1, 2).reshape(*lead, shape.channels_out, *shape.out_size((height, width)))
