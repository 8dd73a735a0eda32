"""Frozen convolutions on the device: bits against the reference, every form, gradients, fallbacks, releasing."""

from __future__ import annotations

import numpy as np
import pytest
import systolora
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Axis, Gemm, OperandA, OperandB, Result
from systolora.offloading.convolution_shapes import ConvolutionShape, unsupported
from systolora.offloading.quantization import QuantizationConfig
from systolora.offloading.targets import OffloadError
from systolora.sim.functional import reference
from systolora.sim.functional.emulator import EmulatorDevice
from torch import Tensor, nn
from torch.nn import functional

RELATIVE_ERROR = 0.025
"""Largest difference (2-norm) between INT8 and float32 results on Gaussian tensors."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def run(module: nn.Conv2d, x: Tensor, grad: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """(y, grad_y, grad_x) of a convolution and a fixed gradient."""
    x = x.detach().clone().requires_grad_()
    y = module(x)
    if grad is None:
        grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float32).to(y.dtype)
    (grad_x,) = torch.autograd.grad(y, x, grad)
    return y.detach(), grad, grad_x


def convolution(*arguments: object, **options: object) -> nn.Conv2d:
    torch.manual_seed(3)
    return nn.Conv2d(*arguments, **options).requires_grad_(False)  # type: ignore[arg-type]


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def spread(image: np.ndarray, step: int) -> np.ndarray:
    """An image [batch, height, width, channels] with its pixels `step` apart and zeros between."""
    batch, height, width, channels = image.shape
    apart = np.zeros((batch, (height - 1) * step + 1, (width - 1) * step + 1, channels), image.dtype)
    apart[:, ::step, ::step] = image
    return apart


def by_reference(module: nn.Conv2d, x: Tensor, grad: Tensor, channel: bool) -> tuple[np.ndarray, np.ndarray]:
    """y and grad_x from the reference's quantize, gather_patches, gemm_int32 and epilogue alone."""
    weight, bias = module.weight.numpy(), None if module.bias is None else module.bias.numpy()
    out, channels, height, width = weight.shape
    step, pad = module.stride[0], module.padding
    assert isinstance(pad, tuple)
    axis = Axis.COLUMN if channel else Axis.TENSOR
    matrix = weight.transpose(2, 3, 1, 0).reshape(-1, out)
    b, b_scale = reference.quantize(matrix, axis)
    batch, _, rows, cols = x.shape
    pixels = x.numpy().transpose(0, 2, 3, 1).reshape(-1, channels)
    image, scale = reference.quantize(pixels, Axis.TENSOR)
    size = (grad.shape[2], grad.shape[3])
    patches = reference.gather_patches(
        image.reshape(batch, rows, cols, channels), size, (height, width), step, (pad[0], pad[1])
    )
    sums = reference.gemm_int32(patches, b)
    y = reference.epilogue(sums, Result.FLOAT32, scale_a=scale, scale_b=b_scale, bias=bias)
    gradient = grad.numpy().transpose(0, 2, 3, 1).reshape(-1, out)
    g, g_scale = reference.quantize(gradient, Axis.TENSOR, column_factor=b_scale if channel else None)
    back = (height - 1 - pad[0], width - 1 - pad[1])
    patches = reference.gather_patches(
        spread(g.reshape(batch, *size, out), step), (rows, cols), (height, width), 1, back
    )
    flipped = b.reshape(height, width, channels, out)[::-1, ::-1].transpose(0, 1, 3, 2).reshape(-1, channels)
    sums = reference.gemm_int32(patches, flipped)
    grad_x = reference.epilogue(sums, Result.FLOAT32, scale_a=g_scale, scale_b=None if channel else b_scale)
    return y.reshape(batch, *size, out), grad_x.reshape(batch, rows, cols, channels)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    channels=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.integers(1, 3),
    pads=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    image=st.tuples(st.integers(1, 2), st.integers(4, 9), st.integers(4, 9)),
    channel=st.booleans(),
    bus_bytes=st.sampled_from([8, 16]),
)
def test_bits_of_the_reference(
    channels: tuple[int, int],
    kernel: tuple[int, int],
    stride: int,
    pads: tuple[int, int],
    image: tuple[int, int, int],
    channel: bool,
    bus_bytes: int,
) -> None:
    padding = (min(pads[0], kernel[0] - 1), min(pads[1], kernel[1] - 1))
    if kernel == (1, 1) and stride == 1:
        stride = 2  # else it is a linear layer, which has scales per pixel
    module = convolution(*channels, kernel, stride, padding)
    x = torch.randn(image[0], channels[0], image[1], image[2], generator=torch.Generator().manual_seed(4))
    device = EmulatorDevice(ArrayConfig(rows=8, cols=8, bus_bytes=bus_bytes), capacity_bytes=1 << 26)
    scales = QuantizationConfig(weight_scales="channel" if channel else "tensor")
    handle = systolora.offload(module_in(module), targets="all", device=device, quantization=scales)
    y, grad, grad_x = run(module, x)
    expected_y, expected_grad_x = by_reference(module, x, grad, channel)
    assert np.array_equal(y.permute(0, 2, 3, 1).numpy().view(np.uint32), expected_y.view(np.uint32))
    assert np.array_equal(grad_x.permute(0, 2, 3, 1).numpy().view(np.uint32), expected_grad_x.view(np.uint32))
    handle.undo()


def module_in(module: nn.Module) -> nn.Sequential:
    return nn.Sequential(module)


def test_the_patches_are_formed_by_the_device() -> None:
    """Image and grad_y are uploaded once, pixel by pixel; the instructions are PATCHES and REVERSED_BLOCKS."""
    module, device, seen = convolution(4, 8, 3, 2, 1), EmulatorDevice(), []
    systolora.offload(module_in(module), targets="all", device=device)
    device.trace = lambda program, index, op: seen.append(op) if isinstance(op, Gemm) else None
    run(module, torch.randn(1, 4, 8, 8))
    forward, *backward = seen
    assert (forward.a_form, forward.b_form, forward.step) == (OperandA.PATCHES, OperandB.MATRIX, 2)
    assert (forward.m, forward.n, forward.k) == (16, 8, 9 * 16)
    # Of 3 x 3 kernel positions with stride 2 each reaches the pixels of one parity: 1 + 2 + 2 + 4 of them.
    assert {(op.a_form, op.b_form) for op in backward} == {(OperandA.PATCHES, OperandB.REVERSED_BLOCKS)}
    assert [(op.m, op.n, op.k) for op in backward] == [(16, 4, taps * 16) for taps in (1, 2, 2, 4)]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("arguments", [(20, 24, 3, 1, 1), (20, 24, 3, 2, 1), (32, 16, 1), (8, 8, 4, 2, 1)])
def test_close_to_torch(arguments: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format) -> None:
    module = convolution(*arguments).to(dtype)
    x = torch.randn(2, arguments[0], 10, 12, generator=torch.Generator().manual_seed(5)).to(dtype)
    x = x.contiguous(memory_format=layout)
    y, grad, grad_x = run(module, x)
    systolora.offload(module_in(module), targets="all")
    got_y, _, got_grad_x = run(module, x, grad)
    assert got_y.shape == y.shape and got_y.dtype == dtype and got_grad_x.dtype == dtype
    assert error(got_y, y) < RELATIVE_ERROR
    assert error(got_grad_x, grad_x) < RELATIVE_ERROR
    assert got_y.is_contiguous(memory_format=torch.channels_last)


def test_a_pointwise_convolution_is_the_linear_layer_of_its_pixels() -> None:
    module = convolution(12, 20, 1)
    linear = nn.Linear(12, 20).requires_grad_(False)
    linear.weight.data, linear.bias.data = module.weight.data.view(20, 12).clone(), module.bias.data.clone()  # type: ignore[union-attr]
    systolora.offload(module_in(module), targets="all")
    systolora.offload(module_in(linear), targets="all")
    x = torch.randn(2, 12, 5, 6, generator=torch.Generator().manual_seed(6))
    assert torch.equal(module(x), linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"groups": 2}, "in groups"),
        ({"dilation": 2}, "dilation"),
        ({"padding_mode": "reflect", "padding": 1}, "padding mode reflect"),
        ({"padding": "same", "kernel_size": 4}, "more padding on one side"),
        ({"stride": (1, 2)}, "two different strides"),
        ({"padding": 3}, "padding as wide as its kernel"),
        ({"kernel_size": 256}, "a kernel or stride above 255"),
        ({"kernel_size": 200}, "contracts more than"),
    ],
)
def test_what_the_device_cannot_do_stays_in_torch_and_is_reported(options: dict[str, object], reason: str) -> None:
    module = nn.Conv2d(**{"in_channels": 4, "out_channels": 4, "kernel_size": 3, **options}).requires_grad_(False)  # type: ignore[arg-type]
    assert reason in unsupported(module)
    model = nn.Sequential(nn.Conv2d(4, 4, 3).requires_grad_(False), module)
    handle = systolora.offload(model, targets="all")
    assert [name for name, _ in handle.report().skipped] == ["1"]
    assert f"left in torch: 1 layers, {unsupported(module)}" in str(handle.report())


def test_odd_images_fall_back_and_are_counted() -> None:
    module = convolution(4, 4, 3)
    handle = systolora.offload(module_in(module), targets="all")
    x = torch.randn(4, 8, 8)
    assert torch.equal(module(x), functional.conv2d(x, module.weight, module.bias))
    with pytest.raises(RuntimeError, match="Kernel size can't be greater"):
        module(torch.randn(1, 4, 2, 2))
    assert sum(handle.report().fallbacks.values()) == 2


def test_string_padding() -> None:
    assert ConvolutionShape.of(convolution(4, 4, (3, 5), padding="same"), 16).padding == (1, 2)
    assert ConvolutionShape.of(convolution(4, 4, 3, padding="valid"), 16).padding == (0, 0)


def test_an_adapted_convolution_is_left_to_peft_and_reported() -> None:
    from peft import LoraConfig, inject_adapter_in_model

    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)).requires_grad_(False)
    inject_adapter_in_model(LoraConfig(target_modules=["0"], r=2), model)
    report = systolora.offload(model, targets="all").report()
    assert report.frozen == ("1",)
    assert report.skipped == (("0", "an adapted Conv2d is not supported"),)


def test_kinds_in_float32() -> None:
    module = convolution(4, 6, 3, 1, 1)
    x = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(7))
    y, grad, grad_x = run(module, x)
    handle = systolora.offload(module_in(module), targets="all", quantization=QuantizationConfig.in_float32())
    got_y, _, got_grad_x = run(module, x, grad)
    assert torch.allclose(got_y, y, atol=1e-6) and torch.allclose(got_grad_x, grad_x, atol=1e-5)
    assert handle.report().float32_macs["forward_base"] == handle.report().float32_macs["grad_input_base"] == 36 * 216


def test_the_bias_gets_its_gradient() -> None:
    module = convolution(4, 6, 3, 1, 1)
    module.bias.requires_grad_()  # type: ignore[union-attr]
    systolora.offload(module_in(module), targets="all")
    x = torch.randn(2, 4, 6, 6)
    module(x).square().sum().backward()
    assert torch.allclose(module.bias.grad, 2 * module(x).sum((0, 2, 3)), rtol=1e-4)  # type: ignore[union-attr,arg-type]


@pytest.mark.parametrize("scales", ["tensor", "channel"])
def test_released_weights_give_the_same_bits_and_come_back_rounded(scales: str) -> None:
    torch.manual_seed(8)
    model = nn.Sequential(nn.Conv2d(5, 6, 3), nn.Conv2d(6, 7, 1), nn.Flatten(2), nn.Linear(36, 3)).requires_grad_(False)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    quantization = QuantizationConfig(weight_scales=scales)
    x = torch.randn(2, 5, 8, 8)
    handle = systolora.offload(model, targets="all", quantization=quantization)
    expected = model(x)
    handle.undo()
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    handle = systolora.offload(model, targets="all", quantization=quantization, release_weights=True)
    weights = [p for p in model.parameters() if p.dim() > 1]
    assert all(weight.untyped_storage().nbytes() == 4 and weight.isnan().all() for weight in weights)
    assert torch.equal(model(x), expected)
    handle.refresh()
    assert torch.equal(model(x), expected)
    assert "kept as INT8 only: 3 layers" in str(handle.report())
    handle.undo()
    for name, value in model.state_dict().items():
        assert error(value, kept[name]) < RELATIVE_ERROR
        assert value.shape == kept[name].shape


def test_what_cannot_be_released_says_so() -> None:
    with pytest.raises(OffloadError, match="must run in INT8"):
        model = module_in(convolution(2, 2, 3))
        systolora.offload(model, "all", quantization=QuantizationConfig.in_float32(), release_weights=True)
    module = convolution(4, 4, 3)
    systolora.offload(module_in(module), targets="all", release_weights=True)
    with pytest.raises(RuntimeError, match="its float weight was released"):
        module(torch.randn(4, 8, 8))
    import copy

    with pytest.raises(RuntimeError, match="cannot be copied"):
        copy.deepcopy(module)


def test_results_outlive_the_device() -> None:
    """A result lies in device memory; it must stay when the offload is undone and its device closed."""
    module = convolution(8, 16, 3, 1, 1)
    handle = systolora.offload(module_in(module), targets="all")
    y = module(torch.randn(1, 8, 16, 16))
    kept = y.clone()
    handle.undo()
    assert kept.abs().max() > 0
    assert torch.equal(y, kept)
