"""Many tiled GEMMs at once: the fields of GEMM instructions as columns of int64, so that formulas run over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from systolora.hls.check import RESULT_BYTES
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Gemm, LoopOrder, OperandA
from systolora.sim.functional.counts import input_tile_words

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def ceil_div(value: Ints, unit: Ints | int) -> Ints:
    """`value / unit`, rounded up."""
    return -(-value // unit)


@dataclass(frozen=True)
class GemmColumns:
    """One row a GEMM; int64 [count] each.

    Attributes:
        m .. tile_k, dataflow, loop_order, transpose_a .. reuse_a: as in the instruction; flags are 0 or 1; no tile is
            larger than its dimension.
        result_bytes: of one element of C.
        channels: of the image if A is made of patches, else 0.
        patch_words: bus words in which one pass over such an A is read, else 0.
    """

    m: Ints
    n: Ints
    k: Ints
    tile_m: Ints
    tile_n: Ints
    tile_k: Ints
    dataflow: Ints
    loop_order: Ints
    transpose_a: Ints
    transpose_b: Ints
    result_bytes: Ints
    accumulate: Ints
    scale_a: Ints
    scale_b: Ints
    bias: Ints
    reuse_a: Ints
    channels: Ints
    patch_words: Ints

    @classmethod
    def of(cls, config: ArrayConfig, ops: Sequence[Gemm]) -> GemmColumns:
        """The columns of some instructions."""
        return cls(*np.array([_row(config, op) for op in ops], np.int64).reshape(len(ops), len(fields(cls))).T.copy())

    def __len__(self) -> int:
        return len(self.m)

    def take(self, rows: Ints | Bools) -> GemmColumns:
        """Some of the rows: by index, possibly several times, or by mask."""
        return GemmColumns(*(getattr(self, field.name)[rows] for field in fields(self)))

    def tiled(self, dataflow: Ints, loop_order: Ints, tile_m: Ints, tile_n: Ints, tile_k: Ints) -> GemmColumns:
        """The same GEMMs with other tilings, a row each."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values |= {"dataflow": dataflow, "loop_order": loop_order, "tile_m": tile_m, "tile_n": tile_n, "tile_k": tile_k}
        return GemmColumns(**values)

    @property
    def m_outer(self) -> Bools:
        """Whether the m loop is the outermost."""
        return self.loop_order == LoopOrder.M_OUTER

    @property
    def macs(self) -> Ints:
        """Multiply-accumulates of the GEMM as it is executed."""
        return self.m * self.n * self.k


def _row(config: ArrayConfig, op: Gemm) -> tuple[int, ...]:
    patches = op.a_form == OperandA.PATCHES
    return (
        *(op.m, op.n, op.k, min(op.tile_m, op.m), min(op.tile_n, op.n), min(op.tile_k, op.k)),
        *(op.dataflow, op.loop_order, op.transpose_a, op.transpose_b, RESULT_BYTES[op.result], op.accumulate),
        *(op.scale_a, op.scale_b, op.bias, op.reuse_a),
        op.channels if patches else 0,
        input_tile_words(config, op, 0, op.m, 0, op.k) if patches else 0,
    )
