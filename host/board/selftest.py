"""The self-test of a device: a small program whose result is known, run the way every program is."""

from __future__ import annotations

import numpy as np
from systolora.hls.check import round_up
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Axis, Dataflow, End, Gemm, Instruction, Quantize, Result, ScaleMode, encode_program
from systolora.sim.functional.device import Buffer, Device, Program
from systolora.sim.functional.reference import epilogue, gemm_int32, quantize

_SEED = 2024


_NAMES = {Dataflow.WEIGHT_STATIONARY: "weight-stationary", Dataflow.OUTPUT_STATIONARY: "output-stationary"}


def self_test(device: Device) -> list[str]:
    """Runs a QUANTIZE and a GEMM in each dataflow, and compares them with the reference.

    Returns one line per result that differs; empty if all bits are right. Uses three buffers of a few kilobytes.

    Raises:
        DeviceError: if the program does not run.
        OutOfDeviceMemory: if there is no room for it.
    """
    sizes = _Sizes(device.config)
    source = device.allocate(sizes.source_bytes, "self-test, float input")
    weight = device.allocate(sizes.k * sizes.n_stride, "self-test, weight")
    result = device.allocate(sizes.result_bytes, "self-test, results")
    try:
        return _run(device, sizes, source, weight, result)
    finally:
        for buffer in (source, weight, result):
            buffer.free()


class _Sizes:
    """Shapes that do not divide the array evenly, and where the results lie in their buffer."""

    def __init__(self, config: ArrayConfig) -> None:
        bus = config.bus_bytes
        self.other_dataflow = Dataflow(int(config.output_stationary))
        self.m, self.n, self.k = config.rows + 3, config.cols + 5, 2 * config.rows + 1
        self.k_stride, self.n_stride = round_up(self.k, bus), round_up(self.n, bus)
        self.source_stride = round_up(4 * self.k, bus)
        self.c_stride = round_up(4 * self.n, bus)
        self.source_bytes = self.m * self.source_stride
        self.quantized = 0
        self.scales = round_up(self.m * self.k_stride, 64)
        self.sums = self.scales + round_up(4 * self.m, 64)
        self.values = self.sums + round_up(self.m * self.c_stride, 64)
        self.result_bytes = self.values + self.m * self.c_stride


def _run(device: Device, sizes: _Sizes, source: Buffer, weight: Buffer, result: Buffer) -> list[str]:
    random = np.random.default_rng(_SEED)
    x = random.standard_normal((sizes.m, sizes.k)).astype(np.float32)
    b = random.integers(-128, 128, (sizes.k, sizes.n)).astype(np.int8)
    _rows(source.write(), sizes.source_stride)[: sizes.m, : 4 * sizes.k] = x.view(np.uint8)
    _rows(weight.write(), sizes.n_stride)[: sizes.k, : sizes.n] = b.view(np.uint8)
    code = encode_program(_instructions(sizes, source.address, weight.address, result.address))
    device.run(Program(code, (source, weight), (result,), {0: "self-test quantize", 1: "self-test GEMM"}))
    found = result.read()
    q, scales = quantize(x, Axis.ROW)
    sums = gemm_int32(q, b)
    values = epilogue(sums, Result.FLOAT32, scale_a=scales)
    expected: dict[str, tuple[np.ndarray, np.ndarray]] = {
        "quantize": (_matrix(found, sizes.quantized, sizes.m, sizes.k_stride)[:, : sizes.k], q),
        "scales": (found[sizes.scales : sizes.scales + 4 * sizes.m], scales),
        f"{_NAMES[sizes.other_dataflow]} GEMM of integers": (
            _matrix(found, sizes.sums, sizes.m, sizes.c_stride)[:, : 4 * sizes.n],
            sums,
        ),
        "weight-stationary GEMM": (_matrix(found, sizes.values, sizes.m, sizes.c_stride)[:, : 4 * sizes.n], values),
    }
    differences = {name: _difference(left, right) for name, (left, right) in expected.items()}
    return [f"{name}: {text}" for name, text in differences.items() if text]


def _instructions(sizes: _Sizes, source: int, weight: int, result: int) -> list[Instruction]:
    quantized, scales = result + sizes.quantized, result + sizes.scales
    first = Quantize(sizes.m, sizes.k, source, quantized, sizes.source_stride, sizes.k_stride, scales, axis=Axis.ROW)
    shape = (sizes.m, sizes.n, sizes.k, sizes.m, sizes.n, sizes.k)
    strides = (sizes.k_stride, sizes.n_stride, sizes.c_stride)
    sums = Gemm(
        *shape,
        quantized,
        weight,
        result + sizes.sums,
        *strides,
        dataflow=sizes.other_dataflow,
        result=Result.INT32,
    )
    values = Gemm(
        *(*shape, quantized, weight, result + sizes.values, *strides),
        dataflow=Dataflow.WEIGHT_STATIONARY,
        result=Result.FLOAT32,
        scale_a=ScaleMode.VECTOR,
        scale_a_address=scales,
    )
    return [first, sums, values, End()]


def _rows(view: np.ndarray, stride: int) -> np.ndarray:
    return view[: view.size // stride * stride].reshape(-1, stride)


def _matrix(view: np.ndarray, offset: int, rows: int, stride: int) -> np.ndarray:
    return view[offset : offset + rows * stride].reshape(rows, stride)


def _difference(found: np.ndarray, expected: np.ndarray) -> str:
    raw = np.ascontiguousarray(expected).view(np.uint8)
    wrong = int(np.count_nonzero(np.ascontiguousarray(found).reshape(-1) != raw.reshape(-1)))
    return f"{wrong} of {raw.size} bytes differ from the reference" if wrong else ""
