"""Random instructions and random data for trials and tests: every flag, every form, the values that go wrong first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from systolora.hls.check import input_words, weight_words
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import (
    Axis,
    Dataflow,
    Gemm,
    LoopOrder,
    OperandA,
    OperandB,
    Quantize,
    Result,
    Rounding,
    ScaleMode,
    Source,
)

from .reference import Float32, Int8

GEMM_PATTERNS = ("random", "lowest", "highest", "alternating", "zero_rows")
"""How the int8 operands are filled; `lowest` is all -128, the largest sums there are."""

FLOAT_PATTERNS = ("normal", "specials", "zero_rows", "halves", "tiny")
"""How floats are filled; `specials` has denormals, signed zeros and huge values, `halves` values that round to even."""


def random_gemm(config: ArrayConfig, rng: np.random.Generator, m: int, n: int, k: int) -> Gemm:
    """A GEMM of this shape with random flags and tiles, its operands not yet placed."""
    flag = lambda: bool(rng.integers(2))  # noqa: E731
    result = Result(int(rng.integers(3)))
    float_result = result != Result.INT32
    op = Gemm(
        *(m, n, k, m, n, k, 0, 0, 0, 0, 0, 0),
        dataflow=Dataflow(int(rng.integers(2)) * config.output_stationary),
        transpose_a=flag(),
        transpose_b=flag(),
        result=result,
        accumulate=flag(),
        scale_a=ScaleMode(int(rng.integers(3)) * float_result),
        scale_b=ScaleMode(int(rng.integers(3)) * float_result),
        bias=float_result and flag(),
        loop_order=LoopOrder(int(rng.integers(2))),
        alpha=float(np.float32(rng.choice([1.0, 0.25, 1.7, -3.1]))),
        tag=int(rng.integers(1 << 32)),
    )
    op = replace(op, scales_swapped=op.tag % 2 == 1)
    return random_tiles(config, rng, op)


def random_patches(config: ArrayConfig, rng: np.random.Generator, n: int) -> Gemm:
    """A convolution's GEMM with `n` columns and a random geometry: forward, or grad-input with reversed blocks."""
    size = lambda low, high: int(rng.integers(low, high + 1))  # noqa: E731
    kernel_height, kernel_width, out_height, out_width = size(1, 4), size(1, 4), size(1, 9), size(1, 9)
    channels = config.bus_bytes * size(1, 2)
    op = random_gemm(config, rng, 1, n, 1)
    reversed_weight = size(0, 1) == 1
    op = replace(
        op,
        m=size(1, 3) * out_height * out_width,
        k=kernel_height * kernel_width * channels,
        transpose_a=False,
        transpose_b=reversed_weight or op.transpose_b,
        a_form=OperandA.PATCHES,
        b_form=OperandB.REVERSED_BLOCKS if reversed_weight else OperandB.MATRIX,
        image_height=size(1, 9),
        image_width=size(1, 9),
        channels=channels,
        out_height=out_height,
        out_width=out_width,
        kernel_height=kernel_height,
        kernel_width=kernel_width,
        step=size(1, 3),
        block_step=size(0, 3),
        block_row_step=size(0, 7),
        pad_top=size(0, 3),
        pad_left=size(0, 3),
    )
    return random_tiles(config, rng, op)


def random_tiles(config: ArrayConfig, rng: np.random.Generator, op: Gemm) -> Gemm:
    """The same GEMM with random tiles that the on-chip memories hold."""
    unit = config.bus_bytes

    def tile(length: int) -> int:
        return length if rng.integers(2) else int(rng.integers(1, -(-length // unit) + 1)) * unit

    while True:
        op = replace(op, tile_m=tile(op.m), tile_n=tile(op.n), tile_k=tile(op.k))
        tile_m, tile_n, tile_k = min(op.tile_m, op.m), min(op.tile_n, op.n), min(op.tile_k, op.k)
        if (
            input_words(config, op.dataflow, tile_m, tile_k) <= config.input_depth
            and weight_words(config, tile_n, tile_k) <= config.weight_depth
            and weight_words(config, tile_n, tile_m) <= config.output_depth
        ):
            return op


def random_quantize(rng: np.random.Generator, m: int, n: int) -> Quantize:
    """A QUANTIZE of this shape with random flags, its operands not yet placed."""
    word = lambda: int(rng.integers(1 << 32))  # noqa: E731
    return Quantize(
        *(m, n, 0, 0, 0, 0, 0),
        source=Source(int(rng.integers(2))),
        axis=Axis(int(rng.integers(3))),
        rounding=Rounding(int(rng.integers(2))),
        multiply=bool(rng.integers(2)),
        seed=word(),
        index_base=word(),
        index_stride=word(),
        tag=word(),
    )


def random_integers(rng: np.random.Generator, shape: tuple[int, int], pattern: str) -> Int8:
    """int8 values, filled as one of GEMM_PATTERNS says."""
    values = rng.integers(-128, 128, shape).astype(np.int8)
    if pattern == "lowest":
        values[:] = -128
    elif pattern == "highest":
        values[:] = 127
    elif pattern == "alternating":
        values = np.where(np.indices(shape).sum(axis=0) % 2, -128, 127).astype(np.int8)
    elif pattern == "zero_rows":
        values[rng.random(shape[0]) < 0.5] = 0
    return values


def random_floats(rng: np.random.Generator, shape: tuple[int, ...], pattern: str) -> Float32:
    """Finite float32 values, filled as one of FLOAT_PATTERNS says."""
    values = rng.standard_normal(shape).astype(np.float32)
    if pattern == "specials":
        bag = np.array([0.0, -0.0, 1e-40, -1e-40, 1.2e-38, -1.2e-38, 1e-20, 1e18, -1e18, 127.0, 63.5], np.float32)
        values = np.where(rng.random(shape) < 0.5, rng.choice(bag, shape), values).astype(np.float32)
    elif pattern == "zero_rows":
        values *= (rng.random((*shape[:-1], 1)) < 0.5).astype(np.float32)
    elif pattern == "halves":
        values = (rng.integers(-254, 255, shape) / 2).astype(np.float32)
    elif pattern == "tiny":
        values = (values * np.float32(2.0) ** rng.integers(-140, -90, shape)).astype(np.float32)
    return values
