"""Which convolutions run on the device, and the geometry of their programs."""

from __future__ import annotations

from dataclasses import dataclass

from systolora.hls.check import round_up
from systolora.hls.config import MAX_K
from systolora.sim.functional.patches import PatchGeometry
from torch import Tensor, nn

from .gradient_planes import GradientPlane, gradient_planes

_MAX_BYTE = 255
_MAX_SIDE = 65535


@dataclass(frozen=True)
class ConvolutionShape:
    """Sizes of a frozen convolution without groups and dilation; pairs are (down, across).

    Attributes:
        channels_in, channels_out: of image and result.
        kernel, stride, padding: in pixels; padding is the same on both sides.
        bias: whether one is added.
        bus_bytes: of the accelerator: channels are stored in whole bus words.
    """

    channels_in: int
    channels_out: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    bias: bool
    bus_bytes: int

    @classmethod
    def of(cls, module: nn.Conv2d, bus_bytes: int) -> ConvolutionShape:
        """The shape of a module for which `unsupported` says nothing."""
        padding = _padding(module)
        assert padding is not None
        return cls(
            module.in_channels,
            module.out_channels,
            _pair(module.kernel_size),
            _pair(module.stride),
            padding,
            module.bias is not None,
            bus_bytes,
        )

    @property
    def pixelwise(self) -> bool:
        """Whether it is a linear layer of each pixel."""
        return self.kernel == (1, 1) and self.stride == (1, 1) and self.padding == (0, 0)

    @property
    def stored_in(self) -> int:
        """Channels of an image pixel as stored, in whole bus words."""
        return round_up(self.channels_in, self.bus_bytes)

    @property
    def stored_out(self) -> int:
        """Channels of a result pixel as stored when it is an image: of grad_y."""
        return round_up(self.channels_out, self.bus_bytes)

    @property
    def taps(self) -> int:
        """Pixels under the kernel."""
        return self.kernel[0] * self.kernel[1]

    def out_size(self, image: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the result of an image's; not positive if the kernel does not fit."""
        sizes = zip(image, self.kernel, self.stride, self.padding, strict=True)
        down, across = ((size + 2 * pad - kernel) // step + 1 for size, kernel, step, pad in sizes)
        return down, across

    def forward_geometry(self, image: tuple[int, int]) -> PatchGeometry:
        """The patches of the image that make the result."""
        return PatchGeometry(*image, *self.out_size(image), *self.kernel, self.stride[0], *self.padding)

    def gradient_planes(self, image: tuple[int, int]) -> list[GradientPlane]:
        """The GEMMs that together make the gradient of the image."""
        return gradient_planes(image, self.out_size(image), self.kernel, self.stride[0], self.padding)

    def weight_matrix(self, weight: Tensor) -> Tensor:
        """[out, in, kh, kw] as the device reads it: [kh kw stored_in, out], zero in channels that are only storage."""
        stored = weight.new_zeros(self.taps, self.stored_in, self.channels_out)
        stored[:, : self.channels_in] = weight.detach().permute(2, 3, 1, 0).flatten(0, 1)
        return stored.flatten(0, 1)

    def weight_of(self, matrix: Tensor) -> Tensor:
        """The inverse of `weight_matrix`."""
        stored = matrix.reshape(*self.kernel, self.stored_in, self.channels_out)[:, :, : self.channels_in]
        return stored.permute(3, 2, 0, 1).contiguous()


def unsupported(module: nn.Conv2d) -> str:
    """Why a convolution can never run on the device; "" if it can."""
    kernel, stride, padding = _pair(module.kernel_size), _pair(module.stride), _padding(module)
    if module.groups != 1:
        return "a convolution in groups"
    if _pair(module.dilation) != (1, 1):
        return "a convolution with dilation"
    if module.padding_mode != "zeros":
        return f"a convolution with padding mode {module.padding_mode}"
    if padding is None:
        return "a convolution with more padding on one side"
    if stride[0] != stride[1]:
        return "a convolution with two different strides"
    if any(pad >= size for pad, size in zip(padding, kernel, strict=True)):
        return "a convolution with padding as wide as its kernel"
    if max(*kernel, *stride) > _MAX_BYTE:
        return f"a convolution with a kernel or stride above {_MAX_BYTE}"
    channels = round_up(max(module.in_channels, module.out_channels), 64)
    if kernel[0] * kernel[1] * channels > MAX_K:
        return f"a convolution that contracts more than {MAX_K} values"
    return ""


def unsupported_image(shape: ConvolutionShape, x: Tensor) -> str:
    """Why an image [batch, channels, height, width] cannot be convolved on the device; "" if it can."""
    if x.dim() != 4:
        return "a convolution of a single image without batch"
    height, width = x.shape[2:]
    if max(height, width) > _MAX_SIDE:
        return f"a convolution of an image with a side above {_MAX_SIDE}"
    if 0 in x.shape or min(shape.out_size((height, width))) < 1:
        return "a convolution of an empty image, or one smaller than its kernel"
    return ""


def _padding(module: nn.Conv2d) -> tuple[int, int] | None:
    """Rows and columns of zeros at either side, or None if the sides differ."""
    if isinstance(module.padding, str):
        if module.padding == "valid":
            return 0, 0
        # "same": kernel - 1 zeros in all, for stride 1, which torch demands.
        down, across = (size - 1 for size in _pair(module.kernel_size))
        return (down // 2, across // 2) if down % 2 == 0 and across % 2 == 0 else None
    return _pair(module.padding)


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
