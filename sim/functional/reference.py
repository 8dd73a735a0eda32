"""The definition of what the accelerator computes, to the last bit. Plain numpy, slow and obvious on purpose.

`docs/arithmetic.md` says in words what stands here in code. Every backend must return these bits. Each float operation is
one IEEE 754 single-precision operation, rounded to nearest even, followed by `canonical`; none are fused or reordered.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from systolora.hls.isa import Axis, Result, Rounding, ScaleMode

Float32 = NDArray[np.float32]
Int8 = NDArray[np.int8]
Int32 = NDArray[np.int32]

SMALLEST_NORMAL = np.float32(2.0**-126)
SMALLEST_ABSMAX = np.float32(2.0**-100)
"""Below it a tensor counts as all zero: 127 / absmax must not overflow."""

_NAN = np.uint32(0x7FC00000).view(np.float32)


class NonFiniteError(ValueError):
    """A NaN or an infinity was given to `quantize`.

    Attributes:
        written: integers and scales that a QUANTIZE writes before it stops the program; None if it writes nothing.
    """

    def __init__(self, written: tuple[Int8, Float32] | None = None) -> None:
        super().__init__("quantize: the tensor holds a NaN or an infinity")
        self.written = written


def canonical(x: Float32) -> Float32:
    """Denormals become zero with their sign, and every NaN becomes 0x7fc00000: what an FPGA's float units give."""
    x = np.asarray(x, np.float32)
    flushed = np.where(np.abs(x) < SMALLEST_NORMAL, np.copysign(np.float32(0), x), x)
    return np.where(np.isnan(x), _NAN, flushed).astype(np.float32)


def multiply(x: Float32, y: Float32) -> Float32:
    """x * y as the hardware computes it (broadcasting)."""
    with np.errstate(all="ignore"):
        return canonical(canonical(x) * canonical(y))


def add(x: Float32, y: Float32) -> Float32:
    """x + y as the hardware computes it (broadcasting)."""
    with np.errstate(all="ignore"):
        return canonical(canonical(x) + canonical(y))


def bfloat16_bits(x: Float32) -> NDArray[np.uint16]:
    """The bfloat16 nearest to a canonical float32, half to even, as its 16 bits."""
    bits = canonical(x).view(np.uint32).astype(np.uint64)
    rounded = bits + 0x7FFF + (bits >> np.uint64(16) & np.uint64(1))
    return np.where(np.isnan(x), 0x7FC0, rounded >> np.uint64(16)).astype(np.uint16)


def from_bfloat16(bits: NDArray[np.uint16]) -> Float32:
    """The float32 values of bfloat16 bits; exact, denormals to zero."""
    return canonical((np.asarray(bits, np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32))


def mix(x: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """A 32-bit bijection whose output bits look random: xorshift-multiply, constants of C. Wellons' `lowbias32`."""
    x = np.asarray(x, np.uint32).copy()
    with np.errstate(over="ignore"):
        x ^= x >> np.uint32(16)
        x *= np.uint32(0x7FEB352D)
        x ^= x >> np.uint32(15)
        x *= np.uint32(0x846CA68B)
        x ^= x >> np.uint32(16)
    return x


def uniform(seed: int, index: NDArray[np.uint32]) -> Float32:
    """A float32 in [0, 1) with 24 random bits for each element index: mix(index + mix(seed)) >> 8, times 2**-24."""
    with np.errstate(over="ignore"):
        key = mix(np.array([seed], np.uint32))
        return (mix(np.asarray(index, np.uint32) + key) >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def quantize(
    x: Float32,
    axis: Axis,
    *,
    rounding: Rounding = Rounding.NEAREST,
    seed: int = 0,
    index: NDArray[np.uint32] | None = None,
    column_factor: Float32 | None = None,
) -> tuple[Int8, Float32]:
    """Symmetric int8 quantization, real = scale * int, scale = absmax / 127.

    Args:
        x: float32 [m, n], all finite.
        axis: one scale per tensor, row or column.
        rounding: NEAREST is half to even; STOCHASTIC is floor(v + uniform(seed, index)).
        seed: 32-bit seed of the stochastic rounding.
        index: uint32 [m, n] element indices of the stochastic rounding; row-major by default.
        column_factor: float32 [n], multiplied in first.

    Returns:
        (int8 [m, n] in -127 .. 127, float32 scales [1], [m] or [n]).

    Raises:
        NonFiniteError: if a value, or its product with its factor, is a NaN or an infinity. By row it carries what is
            written nevertheless: such a row has integers of zero and the scale NaN, the others what they have without it.
    """
    x = canonical(x)
    if column_factor is not None:
        x = multiply(x, np.asarray(column_factor, np.float32)[None, :])
    broken = ~np.isfinite(x)
    if not broken.any():
        return _quantize_finite(x, axis, rounding, seed, index)
    if axis != Axis.ROW:
        raise NonFiniteError
    rows = np.asarray(broken.any(axis=1))
    q, scale = _quantize_finite(np.where(rows[:, None], np.float32(0), x), axis, rounding, seed, index)
    raise NonFiniteError((q, np.where(rows, np.float32(np.nan), scale)))


def _quantize_finite(
    x: Float32, axis: Axis, rounding: Rounding, seed: int, index: NDArray[np.uint32] | None
) -> tuple[Int8, Float32]:
    """`quantize` of canonical values that are finite."""
    reduced: dict[Axis, int | tuple[int, int]] = {Axis.TENSOR: (0, 1), Axis.ROW: 1, Axis.COLUMN: 0}
    absmax = np.abs(x).max(axis=reduced[axis], keepdims=True)
    blank = absmax < SMALLEST_ABSMAX
    safe = np.where(blank, np.float32(127), absmax).astype(np.float32)
    scale = (safe / np.float32(127)).astype(np.float32)
    inverse = np.where(blank, np.float32(0), np.float32(127) / safe).astype(np.float32)
    v = multiply(x, inverse)
    if rounding == Rounding.STOCHASTIC:
        if index is None:
            index = np.arange(x.size, dtype=np.uint32).reshape(x.shape)
        v = np.where(blank, np.float32(0), np.floor(add(v, uniform(seed, index))))
    q = np.clip(np.rint(v), -127, 127).astype(np.int8)
    return q, scale.reshape(-1)


def gemm_int32(a: Int8, b: Int8) -> Int32:
    """Exact product of int8 [m, k] and int8 [k, n] as int32 [m, n]; float64 holds every sum exactly below 2**53."""
    return (np.asarray(a, np.float64) @ np.asarray(b, np.float64)).astype(np.int32)


def epilogue(
    accumulator: Int32,
    result: Result,
    *,
    scale_a: Float32 | None = None,
    scale_b: Float32 | None = None,
    alpha: float = 1.0,
    bias: Float32 | None = None,
    c: NDArray | None = None,
    scales_swapped: bool = False,
) -> NDArray:
    """From int32 sums to C: (((float32(sum) * scale_a) * scale_b) * alpha) + bias) + c, in this order.

    Args:
        accumulator: int32 [m, n].
        result: INT32 returns the sums (plus c, wrapping); FLOAT32 float32; BFLOAT16 the bits as uint16.
        scale_a, scale_b: float32 [1] or [m]; [1] or [n]; None is one and no multiplication.
        alpha: float32 factor; one is no multiplication.
        bias: float32 [n] or None.
        c: what C held, in the result's type, to accumulate; or None.
        scales_swapped: multiply by scale_b first, then by scale_a.
    """
    if result == Result.INT32:
        total = accumulator if c is None else (accumulator.view(np.uint32) + c.view(np.uint32)).view(np.int32)
        return total.astype(np.int32)
    value = accumulator.astype(np.float32)
    by_row = None if scale_a is None else np.asarray(scale_a, np.float32).reshape(-1, 1)
    by_column = None if scale_b is None else np.asarray(scale_b, np.float32).reshape(1, -1)
    for scale in (by_column, by_row) if scales_swapped else (by_row, by_column):
        if scale is not None:
            value = multiply(value, scale)
    value = multiply(value, np.float32(alpha))
    if bias is not None:
        value = add(value, np.asarray(bias, np.float32).reshape(1, -1))
    if c is not None:
        value = add(value, from_bfloat16(c) if result == Result.BFLOAT16 else c)
    return bfloat16_bits(value) if result == Result.BFLOAT16 else value


def gather_patches(
    image: Int8,
    out_shape: tuple[int, int],
    kernel: tuple[int, int],
    step: int,
    pad: tuple[int, int],
) -> Int8:
    """The implicit GEMM's A of a convolution.

    Patch (y, x) reads pixel (y * step + dy - pad_top, x * step + dx - pad_left); outside of the image all are zero.

    Args:
        image: int8 [batch, height, width, channels].
        out_shape: (out_height, out_width). kernel: (kernel_height, kernel_width). pad: (pad_top, pad_left).

    Returns:
        int8 [batch * out_height * out_width, kernel_height * kernel_width * channels].
    """
    batch, height, width, channels = image.shape
    out = np.zeros((batch, *out_shape, *kernel, channels), np.int8)
    for y, x, dy, dx in np.ndindex(*out_shape, *kernel):
        row, column = y * step + dy - pad[0], x * step + dx - pad[1]
        if 0 <= row < height and 0 <= column < width:
            out[:, y, x, dy, dx] = image[:, row, column]
    return out.reshape(batch * out_shape[0] * out_shape[1], -1)


def reversed_blocks(weight: Int8, kernel: tuple[int, int], steps: tuple[int, int], n: int) -> Int8:
    """B of a convolution's grad-input: the blocks of the stored weight from the last to the first, each transposed.

    Kernel position (dy, dx) has block `(kernel_height - 1 - dy) * steps[0] + (kernel_width - 1 - dx) * steps[1]`.

    Args:
        weight: int8 [blocks, block_rows, channels] as stored, block_rows >= n. kernel: (kernel_height, kernel_width).

    Returns:
        int8 [kernel_height * kernel_width * channels, n].
    """
    down, across = (np.arange(size)[::-1] * step for size, step in zip(kernel, steps, strict=True))
    blocks = weight[np.add.outer(down, across).reshape(-1), :n]
    return np.ascontiguousarray(blocks.transpose(0, 2, 1).reshape(-1, n))


def scale_vector(values: Float32, mode: ScaleMode) -> Float32 | None:
    """The argument that `epilogue` takes for a scale mode."""
    return None if mode == ScaleMode.NONE else values
