"""A frozen convolution on the device, with the gradient of its image.

A 1 x 1 convolution is the linear layer of each pixel, with one scale per pixel. Others are implicit GEMMs: the load unit forms the
patches from an int8 image, channels last, with one scale for all images, because a pixel is part of several patches. Results are
channels last as well, so that a chain of convolutions, norms and attention needs no transposition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from systolora.programs.contents import Contents
from systolora.programs.transfers import as_own_tensor, element_type
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.grad import conv2d_input

from .convolution_programs import ConvolutionBackwardPlan, ConvolutionForwardPlan, ConvolutionWeightPlan
from .convolution_shapes import ConvolutionShape
from .gradient_planes import GradientPlane
from .layer import OffloadedLayer
from .linear import offloaded_linear


def offloaded_convolution(
    layer: OffloadedLayer, shape: ConvolutionShape, x: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """The convolution of x with a frozen weight, differentiable in x and bias.

    Args:
        x: [batch, channels_in, height, width] of any floating type. weight: [out, in, kh, kw]. bias: [out] or None.

    Returns:
        [batch, channels_out, height, width], channels last in memory, in the type of x or of autocast.

    Raises:
        NonFiniteTensorError: if x or the weight holds a NaN or an infinity. If grad_y does, grad_x is NaN.
        RuntimeError: if the offload was undone.
    """
    layer.session.check_open(layer.name)
    if shape.pixelwise:
        flat = weight.view(shape.channels_out, shape.channels_in)
        return offloaded_linear(layer, x.permute(0, 2, 3, 1), flat, bias).permute(0, 3, 1, 2)
    device_type = x.device.type
    dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else x.dtype
    return _OffloadedConvolution.apply(_Call(layer, shape, dtype), x, weight, bias)


@dataclass(frozen=True)
class _Call:
    """What of a call is no tensor. dtype: of the result."""

    layer: OffloadedLayer
    shape: ConvolutionShape
    dtype: torch.dtype

    def on(self, kind: str) -> bool:
        """Whether a kind of GEMM runs on the device."""
        return kind in self.layer.session.quantization.int8_kinds


class _OffloadedConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.call, ctx.x_shape, ctx.x_dtype = call, x.shape, x.dtype
        ctx.save_for_backward(weight)
        ctx.weight_seen = None
        with torch.autocast(x.device.type, enabled=False):
            if call.on("forward_base"):
                ctx.weight_seen = _place_weight(call, weight)
                y = _forward(call, x, bias)
            else:
                y = _forward_float32(call, x, weight, bias)
        return as_own_tensor(y.to(x.device, call.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        call: _Call = ctx.call
        (weight,) = ctx.saved_tensors
        call.layer.session.check_open(call.layer.name)
        grad_x = None
        with torch.autocast(grad_y.device.type, enabled=False):
            if ctx.needs_input_grad[1]:
                if call.on("grad_input_base"):
                    _place_weight(call, weight, ctx.weight_seen)
                    grad_x = _grad_input(call, grad_y, ctx.x_shape, ctx.x_dtype)
                else:
                    grad_x = _grad_input_float32(call, grad_y, weight, ctx.x_shape)
                grad_x = grad_x.to(grad_y.device, ctx.x_dtype)
            grad_bias = grad_y.sum((0, 2, 3), dtype=torch.float32) if ctx.needs_input_grad[3] else None
        return None, grad_x, None, grad_bias


def _forward(call: _Call, x: Tensor, bias: Tensor | None) -> Tensor:
    layer, shape = call.layer, call.shape
    batch, _, height, width = x.shape
    session = layer.session
    types = session.transfer_type(x.dtype), session.transfer_type(call.dtype)
    template = session.template(ConvolutionForwardPlan(shape, batch, (height, width), *types))
    if bias is not None:
        layer.place_bias(bias, template.sizes["bias"])
    y = layer.run(template, {"x": x.permute(0, 2, 3, 1)}, outputs=["y"])["y"]
    return y.unflatten(0, (batch, *shape.out_size((height, width)))).permute(0, 3, 1, 2)


def _grad_input(call: _Call, grad_y: Tensor, x_shape: torch.Size, dtype: torch.dtype) -> Tensor:
    batch, _, height, width = x_shape
    session = call.layer.session
    types = session.transfer_type(grad_y.dtype), session.transfer_type(dtype)
    template = session.template(ConvolutionBackwardPlan(call.shape, batch, (height, width), *types))
    inputs = {"g": grad_y.permute(0, 2, 3, 1)}
    planes = call.shape.gradient_planes((height, width))
    found = call.layer.run(template, inputs, outputs=[plane.name for plane in planes], gradient=True)
    grad_x = _interlace(planes, found, (batch, height, width), call.shape.stride[0])
    return grad_x.permute(0, 3, 1, 2)


def _interlace(
    planes: list[GradientPlane], found: dict[str, Tensor], size: tuple[int, int, int], stride: int
) -> Tensor:
    """The gradient [batch, height, width, channels] of its planes; with stride 1 the only plane itself."""

    def pixels(plane: GradientPlane) -> Tensor:
        shape = (size[0], plane.geometry.out_height, plane.geometry.out_width)
        return found[plane.name].unflatten(0, shape)[:, plane.skipped[0] :, plane.skipped[1] :]

    if stride == 1:
        return pixels(planes[0])
    first = found[planes[0].name]
    # Pixels that no kernel position reaches, as with a kernel smaller than the stride, have no plane.
    grad_x = first.new_zeros(*size, first.shape[1])
    for plane in planes:
        grad_x[:, plane.first[0] :: stride, plane.first[1] :: stride] = pixels(plane)
    return grad_x


def _place_weight(call: _Call, weight: Tensor, seen: Contents | None = None) -> Contents | None:
    plan = ConvolutionWeightPlan(call.shape, element_type(weight.dtype))
    return call.layer.place_weight(weight, plan, call.shape.weight_matrix, seen)


def _forward_float32(call: _Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    bias = None if bias is None else bias.float()
    y = functional.conv2d(x.float(), weight.float(), bias, call.shape.stride, call.shape.padding)
    call.layer.count_float32("forward_base", y.numel() // len(weight) * weight.numel())
    return y


def _grad_input_float32(call: _Call, grad_y: Tensor, weight: Tensor, x_shape: torch.Size) -> Tensor:
    shape = call.shape
    call.layer.count_float32("grad_input_base", grad_y.numel() // len(weight) * weight.numel())
    return conv2d_input(x_shape, weight.float(), grad_y.float(), shape.stride, shape.padding)
