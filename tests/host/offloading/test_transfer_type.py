"""What crosses between host and device in bfloat16: the bits of a float32 layer on rounded tensors, the same on all devices."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
import systolora
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from systolora.errors import UserError
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Gemm, Quantize, Result, Source
from systolora.offloading.attention import offloaded_attention
from systolora.offloading.layer import OffloadedLayer
from systolora.offloading.linear import Adapter, offloaded_linear
from systolora.offloading.quantization import QuantizationConfig
from systolora.offloading.session import NonFiniteTensorError, Session
from systolora.sim.csim.device import CsimDevice
from systolora.sim.functional.device import Device
from systolora.sim.functional.emulator import EmulatorDevice
from systolora.sim.functional.tiled import TiledExecutor
from torch import Tensor, nn

HALF = QuantizationConfig(transfer_type="bfloat16")
SMALL = ArrayConfig(rows=8, cols=8, input_bytes=4096, weight_bytes=4096, output_bytes=16384)
LARGEST = 3.3895314e38
"""The largest bfloat16; what is nearer to twice it becomes infinite."""


def layer(quantization: QuantizationConfig, device: Device | None = None) -> OffloadedLayer:
    return OffloadedLayer(Session(device or EmulatorDevice(capacity_bytes=1 << 24), quantization), "layer", 0)


def rounded(x: Tensor) -> Tensor:
    """To the nearest bfloat16, half to even, in integers alone; float32. Denormals keep their bits."""
    bits = x.detach().contiguous().numpy().view(np.uint32).astype(np.uint64)
    up = ((bits >> 16) & 1) + 0x7FFF
    half: NDArray[np.uint32] = (((bits + up) >> 16) << 16).astype(np.uint32)
    return torch.from_numpy(half.view(np.float32)).view(x.shape)


def tensor(rows: int, cols: int, seed: int) -> Tensor:
    """float32 of many magnitudes; some lie halfway between two bfloat16, some next to that."""
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal((rows, cols)) * np.exp(rng.normal(0, 2, (rows, 1)))).astype(np.float32)
    bits = values.view(np.uint32)
    kind = rng.integers(0, 4, bits.shape)
    halfway = (bits & np.uint32(0xFFFF0000)) | np.uint32(0x8000)
    bits = np.where(kind == 1, halfway, np.where(kind == 2, halfway - np.uint32(1), bits))
    return torch.from_numpy(np.ascontiguousarray(bits).view(np.float32))


def results(owner: OffloadedLayer, x: Tensor, grad: Tensor, adapted: bool, seed: int = 0) -> dict[str, Tensor]:
    """Result and gradients of a layer of fixed weights."""
    generator = torch.Generator().manual_seed(seed)
    out, width = grad.shape[1], x.shape[1]
    weight, bias = (torch.randn(*size, generator=generator) for size in ((out, width), (out,)))
    x = x.clone().requires_grad_()
    leaves, adapter = {"x": x}, None
    if adapted:
        down, up = (torch.randn(*size, generator=generator).requires_grad_() for size in ((3, width), (out, 3)))
        leaves |= {"down": down, "up": up}
        adapter = Adapter(down, up, 0.5)
    y = offloaded_linear(owner, x, weight, bias, adapter)
    gradients = torch.autograd.grad(y, list(leaves.values()), grad)
    return {"y": y.detach(), **dict(zip(leaves, gradients, strict=True))}


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and np.array_equal(
        a.contiguous().numpy().view(np.uint32), b.contiguous().numpy().view(np.uint32)
    )


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 2**31),
    adapted=st.booleans(),
)
def test_a_layer_has_the_bits_of_float32_on_rounded_tensors(
    sizes: tuple[int, int, int], seed: int, adapted: bool
) -> None:
    """Where an adapter's part is added the result is not rounded again; factors' gradients never are."""
    tokens, width, out = sizes
    x, grad = tensor(tokens, width, seed), tensor(tokens, out, seed + 1)
    got = results(layer(HALF), x, grad, adapted)
    plain = results(layer(QuantizationConfig()), rounded(x), rounded(grad), adapted)
    for name, value in plain.items():
        assert got[name].dtype == torch.float32
        assert same_bits(got[name], value if adapted else rounded(value)), name


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), stride=st.integers(1, 2))
def test_a_convolution_has_the_bits_of_float32_on_rounded_tensors(seed: int, stride: int) -> None:
    torch.manual_seed(0)
    module = nn.Conv2d(5, 6, 3, stride, 1).requires_grad_(False)
    x = tensor(2 * 5, 36, seed).view(2, 5, 6, 6)
    side = 6 // stride
    grad = tensor(2 * 6, side * side, seed + 1).view(2, 6, side, side)

    def run(quantization: QuantizationConfig, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        device = EmulatorDevice(capacity_bytes=1 << 24)
        handle = systolora.offload(nn.Sequential(module), targets="all", device=device, quantization=quantization)
        x = x.clone().requires_grad_()
        y = module(x)
        (grad_x,) = torch.autograd.grad(y, x, grad)
        handle.undo()
        return y.detach(), grad_x

    got, plain = run(HALF, x, grad), run(QuantizationConfig(), rounded(x), rounded(grad))
    assert all(same_bits(mine, rounded(value)) for mine, value in zip(got, plain, strict=True))
    assert got[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_attention_is_close_and_keeps_the_type(dtype: torch.dtype) -> None:
    torch.manual_seed(4)
    q, k, v = (torch.randn(2, 3, rows, 20).to(dtype).requires_grad_() for rows in (33, 77, 77))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    got = offloaded_attention(layer(HALF), q, k, v)
    grad = torch.randn(expected.shape).to(dtype)
    pairs = [(got, expected)]
    pairs += zip(
        *(torch.autograd.grad(each, (q, k, v), grad) for each in (got, expected)),
        strict=True,
    )
    for mine, theirs in pairs:
        assert mine.dtype == dtype
        mine, theirs = mine.detach().float(), theirs.detach().float()
        assert float((mine - theirs).norm() / theirs.norm()) < 0.03


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**31), adapted=st.booleans())
def test_emulator_tiled_reference_and_c_simulation_agree(seed: int, adapted: bool) -> None:
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    x, grad = tensor(19, 24, seed), tensor(19, 33, seed + 1)
    found = []
    devices: list[Device] = [
        EmulatorDevice(SMALL, capacity_bytes=1 << 22),
        EmulatorDevice(SMALL, capacity_bytes=1 << 22, executor=TiledExecutor(SMALL)),
        CsimDevice(SMALL, capacity_bytes=1 << 22),
    ]
    for device in devices:
        with device:
            found.append(results(layer(HALF, device), x, grad, adapted))
    for other in found[1:]:
        assert all(same_bits(value, other[name]) for name, value in found[0].items())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3.4e38])
def test_what_bfloat16_cannot_hold_is_refused_as_an_infinity_is(bad: float) -> None:
    x, grad = tensor(4, 16, 0), tensor(4, 8, 1)
    x[2, 3] = bad
    with pytest.raises(NonFiniteTensorError, match=r"layer 'layer': x holds a NaN or an infinity"):
        results(layer(HALF), x, grad, adapted=True)
    x[2, 3] = LARGEST
    results(layer(HALF), x, grad, adapted=False)
    x[2, 3], grad[1, 1] = 0, bad
    found = results(layer(HALF), x, grad, adapted=True)
    assert all(found[name].isnan().all() for name in ("x", "down", "up"))


@pytest.mark.parametrize(
    ("chosen", "dtype", "crosses"),
    [
        ("model", torch.float32, "float32"),
        ("model", torch.bfloat16, "bfloat16"),
        ("model", torch.float16, "float32"),
        ("float32", torch.bfloat16, "float32"),
        ("bfloat16", torch.float32, "bfloat16"),
        ("bfloat16", torch.float16, "bfloat16"),
    ],
)
@pytest.mark.parametrize("adapted", [False, True])
def test_the_setting_says_what_crosses_and_the_module_keeps_its_type(
    chosen: str, dtype: torch.dtype, crosses: str, adapted: bool
) -> None:
    sources, stored = set(), {}
    device = EmulatorDevice(capacity_bytes=1 << 24)

    def note(program: Any, index: int, op: Any) -> None:
        label = program.labels.get(index, "")
        if isinstance(op, Quantize) and (": x," in label or ": grad_y" in label):
            sources.add(Source(op.source).name.lower())
        if isinstance(op, Gemm):
            stored.setdefault(label.rpartition(": ")[2], set()).add(Result(op.result).name.lower())

    device.trace = note
    owner = layer(QuantizationConfig(transfer_type=chosen), device)
    x, grad = tensor(9, 24, 0).to(dtype), tensor(9, 33, 1).to(dtype)
    found = results(owner, x, grad, adapted)
    assert found["y"].dtype == found["x"].dtype == dtype
    assert sources == {crosses}
    added = {"float32"} if adapted else {crosses}
    assert stored.pop("forward_base") == stored.pop("grad_input_base") == added
    assert all(kinds == {"float32"} for kinds in stored.values()), stored


def test_an_unknown_type_is_refused_and_the_report_says_the_type() -> None:
    with pytest.raises(UserError, match="transfer_type = 'int8': allowed are model, float32, bfloat16"):
        QuantizationConfig(transfer_type="int8")
    model = nn.Sequential(nn.Linear(4, 4)).requires_grad_(False)
    for chosen, words in (
        (QuantizationConfig(), "in the model's type (bfloat16, or else float32)"),
        (HALF, "in bfloat16"),
    ):
        handle = systolora.offload(model, targets="linear", quantization=chosen)
        assert f"\nactivations and gradients cross between host and device {words}\n" in f"{handle.report()}\n"
        handle.undo()
