"""A GEMM whose A are the patches of an image: a convolution, or its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Gemm, OperandA, OperandB, Result, ScaleMode
from systolora.sim.cost.mapping import Tiling, best_tilings
from systolora.sim.cost.tile_times import Machine
from systolora.sim.functional.patches import PatchGeometry

from .requests import RESULTS, CompileError
from .tensors import DeviceMatrix, DeviceVector, ElementType


@dataclass(frozen=True)
class PatchRequest:
    """C[patches, n] = patches of an image times a weight, with the epilogue of docs/arithmetic.md.

    Attributes:
        image: int8 [batch * height * width, channels], all channels that are stored.
        weight: int8 [taps * channels, n]; with `block_steps`: [blocks * round_up(n, bus), channels], read as reversed blocks.
        c: float32 or bfloat16 [batch * out_height * out_width, n].
        scale_a: float32 [1]. scale_b: float32 [1] or [n], or None. bias: float32 [n] or None.
        block_steps: of a weight read backwards: stored blocks from one kernel position to the next, (down, across).
    """

    geometry: PatchGeometry
    image: DeviceMatrix
    weight: DeviceMatrix
    c: DeviceMatrix
    scale_a: DeviceVector
    scale_b: DeviceVector | None = None
    bias: DeviceVector | None = None
    block_steps: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if {self.image.dtype, self.weight.dtype} != {ElementType.INT8}:
            raise CompileError("patch_gemm: image and weight must be int8: quantize first")
        if self.c.dtype not in (ElementType.FLOAT32, ElementType.BFLOAT16):
            raise CompileError("patch_gemm: a result is float32 or bfloat16")
        if self.scale_a.length != 1:
            raise CompileError(
                f"patch_gemm: {self.scale_a.length} scales for the image; patches overlap, so one is needed"
            )
        g = self.geometry
        images, rest = divmod(self.c.rows, g.out_height * g.out_width)
        if rest or self.image.rows != images * g.image_height * g.image_width:
            raise CompileError(
                f"patch_gemm: {self.image.rows} pixels of {g.image_height} x {g.image_width} do not make {self.c.rows} patches "
                f"of {g.out_height} x {g.out_width}"
            )
        if self.block_steps is None and self.weight.shape != (self.k, self.c.cols):
            raise CompileError(f"patch_gemm: the weight is {list(self.weight.shape)}, not [{self.k}, {self.c.cols}]")
        if self.block_steps is not None and self.weight.cols > self.image.cols:
            raise CompileError(f"patch_gemm: blocks of {self.weight.cols} channels for {self.image.cols} of the image")

    @property
    def k(self) -> int:
        """Length of the contraction."""
        return self.geometry.kernel_height * self.geometry.kernel_width * self.image.cols

    def instruction(self, config: ArrayConfig) -> Gemm:
        """The instruction."""
        shape = _form(self.geometry, self.c.rows, self.c.cols, self.image.cols, self.block_steps, RESULTS[self.c.dtype])
        tiling = _tiling(config, shape)
        values = {**vars(shape), **vars(tiling)}
        values.update(a_address=self.image.address, b_address=self.weight.address, c_address=self.c.address)
        values.update(a_stride=self.image.stride, b_stride=self.weight.stride, c_stride=self.c.stride)
        values.update(scale_a_address=self.scale_a.address, scale_b=ScaleMode.NONE)
        if self.scale_b is not None:
            mode = ScaleMode.TENSOR if self.scale_b.length == 1 else ScaleMode.VECTOR
            values.update(scale_b=mode, scale_b_address=self.scale_b.address)
        if self.bias is not None:
            values.update(bias=True, bias_address=self.bias.address)
        return Gemm(**values)


def _form(g: PatchGeometry, m: int, n: int, channels: int, block_steps: tuple[int, int] | None, result: Result) -> Gemm:
    """The instruction without addresses and tiles."""
    k = g.kernel_height * g.kernel_width * channels
    backwards = block_steps is not None
    down, across = block_steps or (0, 0)
    return Gemm(
        *(m, n, k, m, n, k, 0, 0, 0, 0, 0, 0),
        **vars(g),
        channels=channels,
        a_form=OperandA.PATCHES,
        b_form=OperandB.REVERSED_BLOCKS if backwards else OperandB.MATRIX,
        transpose_b=backwards,
        block_row_step=down,
        block_step=across,
        result=result,
        scale_a=ScaleMode.TENSOR,
        scale_b=ScaleMode.TENSOR,
    )


@lru_cache(maxsize=1024)
def _tiling(config: ArrayConfig, shape: Gemm) -> Tiling:
    """The fastest tiling by the performance model."""
    return best_tilings(Machine.of(config), [shape])[0]
