"""A whole training step on the device: attention products, the same bits in C-simulation, and what the performance model counts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import systolora
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from systolora.cost.tracing import trace_workload
from systolora.cost.workloads import StepOptions
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Axis, Gemm, OperandA, Result, ScaleMode
from systolora.offloading.attention import offloaded_attention
from systolora.offloading.layer import OffloadedLayer
from systolora.offloading.quantization import QuantizationConfig
from systolora.offloading.session import Session
from systolora.sim.cost.mapping import transposed_product
from systolora.sim.csim.device import CsimDevice
from systolora.sim.functional import reference
from systolora.sim.functional.device import Device
from systolora.sim.functional.emulator import EmulatorDevice
from systolora.sim.functional.tiled import TiledExecutor
from torch import Tensor
from torch.nn import functional

ATTENTION_ERROR = 0.03
"""Largest relative difference (2-norm) of attention in INT8 and in float32 on Gaussian tensors."""
OUTPUT_ERROR, GRADIENT_ERROR = 0.05, 0.15
"""Largest relative error of the output, and of any factor's gradient, with the whole U-Net in INT8."""

SMALL = {
    "sample_size": 8,
    "layers_per_block": 1,
    "block_out_channels": (32, 64),
    "norm_num_groups": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 32,
    "attention_head_dim": 2,
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def unet(**changes: Any) -> UNet2DConditionModel:
    torch.manual_seed(1)
    model = UNet2DConditionModel(**{**SMALL, **changes}).requires_grad_(False)
    torch.manual_seed(2)
    model.add_adapter(LoraConfig(r=4, target_modules=["attn2.to_k", "attn2.to_v"], init_lora_weights=False))
    return model


def step(model: UNet2DConditionModel, size: int = 8) -> dict[str, Tensor]:
    """Output and gradients of one step on a fixed batch."""
    generator = torch.Generator().manual_seed(3)
    latents, text = torch.randn(1, 4, size, size, generator=generator), torch.randn(1, 7, 32, generator=generator)
    y = model(latents, torch.tensor([500]), text).sample
    functional.mse_loss(y, torch.randn(y.shape, generator=generator)).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return {**found, "y": y.detach().clone()}


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.detach().float() - expected.detach().float()).norm() / expected.detach().float().norm())


def layer(device: Device | None = None, quantization: QuantizationConfig | None = None) -> OffloadedLayer:
    return OffloadedLayer(Session(device or EmulatorDevice(), quantization or QuantizationConfig()), "attention", 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_close_to_torch(dtype: torch.dtype) -> None:
    torch.manual_seed(4)
    q, k, v = (torch.randn(2, 3, rows, 20).to(dtype).requires_grad_() for rows in (33, 77, 77))
    expected = functional.scaled_dot_product_attention(q, k, v)
    grad = torch.randn(expected.shape).to(dtype)
    got = offloaded_attention(layer(), q, k, v)
    assert got.dtype == dtype and error(got, expected) < ATTENTION_ERROR
    pairs = zip(torch.autograd.grad(got, (q, k, v), grad), torch.autograd.grad(expected, (q, k, v), grad), strict=True)
    for mine, theirs in pairs:
        assert mine.dtype == dtype and error(mine, theirs) < ATTENTION_ERROR


ROW, COLUMN = Axis.ROW, Axis.COLUMN


def exact_product(a: Tensor, a_axis: Axis, b: Tensor, b_axis: Axis, alpha: float = 1.0) -> Tensor:
    """alpha A B as the reference has it; an A with column scales is given transposed, and so is a B with row scales."""
    (left, left_scale), (right, right_scale) = (
        reference.quantize(x.numpy(), axis) for x, axis in ((a, a_axis), (b, b_axis))
    )
    sums = reference.gemm_int32(left.T if a_axis == COLUMN else left, right.T if b_axis == ROW else right)
    scales = {"scale_a": left_scale, "scale_b": right_scale}
    return torch.from_numpy(reference.epilogue(sums, Result.FLOAT32, alpha=alpha, **scales))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=4, max_size=4), st.integers(0, 2**31), st.booleans())
def test_attention_has_the_bits_of_the_reference(sizes: list[int], seed: int, half: bool) -> None:
    """Result and gradients of q, k and v, head by head; `half`: all of it crosses in bfloat16, the softmax's gradient does not."""

    def crossed(x: Tensor) -> Tensor:
        return x.bfloat16().float() if half else x

    def product(*operands: Any) -> Tensor:
        a, a_axis, b, b_axis, *alpha = operands
        return crossed(exact_product(crossed(a), a_axis, crossed(b), b_axis, *alpha))

    queries, keys, width, value_width = sizes
    torch.manual_seed(seed)
    shapes = ((queries, width), (keys, width), (keys, value_width), (queries, value_width))
    q, k, v, grad_o = (torch.randn(1, 2, *shape) * torch.rand(()) * 4 for shape in shapes)
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    chosen = QuantizationConfig(transfer_type="bfloat16" if half else "float32")
    got = offloaded_attention(layer(quantization=chosen), *leaves, scale=0.25)
    gradients = torch.autograd.grad(got, leaves, grad_o)
    for head in range(2):
        q_, k_, v_, g_ = (x[0, head] for x in (q, k, v, grad_o))
        p = torch.softmax(product(q_, ROW, k_, ROW, 0.25).to(torch.bfloat16 if half else torch.float32), -1).float()
        # Between the device's products the processor's own operations: torch's softmax and the gradient of it.
        grad_s = torch._softmax_backward_data(product(g_, ROW, v_, ROW), p, -1, p.dtype)
        expected = [
            product(p, ROW, v_, COLUMN),
            product(grad_s, ROW, k_, COLUMN, 0.25),
            product(grad_s, COLUMN, q_, COLUMN, 0.25),
            product(p, COLUMN, g_, COLUMN),
        ]
        assert all(torch.equal(x[0, head], y) for x, y in zip((got, *gradients), expected, strict=True))


def test_attention_that_the_device_cannot_do_runs_in_torch_and_is_counted() -> None:
    model = unet()
    handle = systolora.offload(model, targets="all", attention_products=True)
    mask = torch.ones(1, 7)
    mask[0, 5:] = 0
    with torch.no_grad():
        model(torch.randn(1, 4, 8, 8), torch.tensor([5]), torch.randn(1, 7, 32), encoder_attention_mask=mask)
    assert {why for _, why in handle.report().fallbacks} == {"attention with a mask"}
    assert sum(handle.report().fallbacks.values()) == 4


@pytest.mark.parametrize("transfer_type", ["float32", "bfloat16"])
@pytest.mark.parametrize("released", [False, True])
def test_a_step_with_everything_in_int8_is_close_to_float32(released: bool, transfer_type: str) -> None:
    expected = step(unet())
    model, chosen = unet(), QuantizationConfig(transfer_type=transfer_type)
    handle = systolora.offload(
        model, targets="all", attention_products=True, release_weights=released, quantization=chosen
    )
    got = step(model)
    assert set(got) == set(expected)
    for name, value in expected.items():
        assert error(got[name], value) < (OUTPUT_ERROR if name == "y" else GRADIENT_ERROR), name
    assert handle.report().mac_share == 1.0
    handle.undo()
    assert error(step(model)["y"], expected["y"]) < (OUTPUT_ERROR if released else 1e-6)


def test_an_undone_attention_is_torch_again() -> None:
    model, plain = unet(), unet()
    systolora.offload(model, targets="all", attention_products=True).undo()
    assert all(torch.equal(value, step(plain)[name]) for name, value in step(model).items())


@pytest.mark.parametrize("transfer_type", ["float32", "bfloat16"])
def test_c_simulation_and_reference_compute_the_bits_of_a_whole_block(transfer_type: str) -> None:
    """Down and up block with attention, resnets, strided convolution and upsampling, forward and backward; the kernels of the
    emulator, the numpy reference tile by tile as the array has them, and the generated C++."""
    config = ArrayConfig(rows=8, cols=8, input_bytes=8192, weight_bytes=8192, output_bytes=16384, bus_bytes=16)
    sizes = {"block_out_channels": (8, 16), "norm_num_groups": 4, "cross_attention_dim": 32}
    found = []
    tiled = EmulatorDevice(config, executor=TiledExecutor(config))
    for device in (EmulatorDevice(config), tiled, CsimDevice(config)):
        with device:
            model = unet(**sizes)
            chosen = QuantizationConfig(transfer_type=transfer_type)
            handle = systolora.offload(
                model, targets="all", device=device, attention_products=True, quantization=chosen
            )
            found.append(step(model, size=4))
            handle.undo()
    for other in found[1:]:
        assert all(torch.equal(value, other[name]) for name, value in found[0].items())


def test_inputs_are_quantized_once_for_all_layers_that_they_feed() -> None:
    model, device, labels = unet(), EmulatorDevice(), Counter()
    systolora.offload(model, targets="all", device=device)
    device.trace = lambda program, index, op: labels.update([program.labels.get(index, "")])
    step(model)
    text_layers = [name for name in labels if ".attn2.to_k" in name and "x, per row" in name]
    assert len(text_layers) == 1, "the first layer quantizes the text for all others"
    assert not any(".attn2.to_v: x, per" in name or ".attn1.to_k: x, per" in name for name in labels)


def plain(op: Gemm) -> tuple[object, ...]:
    """What of a GEMM does not depend on where and how it runs, nor on the places of its operands."""
    op = transposed_product(op) if op.scales_swapped else op
    names = ["m", "n", "k", "transpose_a", "transpose_b", "accumulate", "bias", "result", "a_form", "b_form"]
    if op.a_form == OperandA.PATCHES:
        names += ["image_height", "image_width", "channels", "out_height", "out_width", "kernel_height", "kernel_width"]
        names += ["step", "pad_top", "pad_left", "block_row_step", "block_step"]
    # A vector of one scale is encoded as one scale.
    mode = ScaleMode.TENSOR if op.m == 1 else op.scale_a
    return (mode, *(getattr(op, name) for name in names))


@pytest.mark.parametrize("transfer_type", ["float32", "bfloat16"])
@pytest.mark.parametrize("targets", ["kv", "attention", "linear", "all"])
def test_the_performance_model_counts_the_gemms_that_are_submitted(
    targets: str, transfer_type: str, tmp_path: Path
) -> None:
    model = unet(cross_attention_dim=48)
    model.save_config(tmp_path)
    device, submitted = EmulatorDevice(), Counter()
    products, chosen = targets == "all", QuantizationConfig(transfer_type=transfer_type)
    systolora.offload(model, targets=targets, device=device, attention_products=products, quantization=chosen)
    device.trace = lambda program, index, op: submitted.update([plain(op)]) if isinstance(op, Gemm) else None
    generator = torch.Generator().manual_seed(3)
    text = torch.randn(1, 77, 48, generator=generator)
    y = model(torch.randn(1, 4, 8, 8, generator=generator), torch.tensor([500]), text).sample
    y.square().mean().backward()
    result = Result[transfer_type.upper()]
    options = StepOptions(targets, adapt="kv", attention_products=products, resolution=64, result=result)
    workload = trace_workload(str(tmp_path), options)
    expected: Counter[tuple[object, ...]] = Counter()
    for distinct in workload.gemms:
        expected[plain(distinct.gemm.op)] += distinct.count
    assert submitted - expected == Counter(), "submitted, but not in the model"
    assert expected - submitted == Counter(), "in the model, but not submitted"


def test_the_bits_of_a_step_do_not_depend_on_the_board_s_tiling() -> None:
    """Arrays for which the compiler exchanges the operands of other products, and cuts others in tiles."""
    configs = (
        ArrayConfig(rows=64, cols=64, bus_bytes=64),
        ArrayConfig(rows=128, cols=8),
    )
    results, exchanged = [], []
    for config in configs:
        model, device, seen = unet(), EmulatorDevice(config), set()
        systolora.offload(model, targets="all", device=device, attention_products=True)
        device.trace = lambda program, index, op, seen=seen: (
            seen.add((program.labels.get(index, ""), op.m, op.n))
            if isinstance(op, Gemm) and op.scales_swapped
            else None
        )
        results.append(step(model))
        exchanged.append(seen)
    assert exchanged[0] != exchanged[1], exchanged
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
