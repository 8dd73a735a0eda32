"""How one GEMM is cut into tiles: dataflow, loop order and tile sizes for a configuration.

`choose_tiling` is the seam: the compiler asks only here. The answer is the performance model's: the fewest clocks among all
balanced tilings that the on-chip memories hold (`systolora.sim.cost.mapping`), found once per question in some milliseconds.
"""

from __future__ import annotations

from functools import lru_cache

from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Dataflow, Gemm, Result, ScaleMode
from systolora.sim.cost.mapping import Tiling, best_products, best_tilings, built_dataflows
from systolora.sim.cost.tile_times import Machine

__all__ = ["Tiling", "choose_tiling", "faster_transposed"]


@lru_cache(maxsize=8192)
def choose_tiling(
    config: ArrayConfig,
    m: int,
    n: int,
    k: int,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    result: Result = Result.FLOAT32,
    accumulate: bool = False,
    dataflow: Dataflow | None = None,
    keep_a: bool = False,
) -> Tiling:
    """The fastest tiling of C[m, n] = A[m, k] B[k, n] by the performance model.

    Args:
        m, n, k: each at least 1 and within the instruction's limits.
        transpose_a, transpose_b: A is stored as [k, m], B as [n, k]; this changes how many bus words a tile takes.
        result, accumulate: as in the instruction; they change what is stored and loaded again.
        dataflow: the only one to consider; by default the faster one is chosen.
        keep_a: the GEMM shares its A with the one before or after it: A is to be one tile, so that it is loaded once
            (`reuse_a`).

    Raises:
        ValueError: if `keep_a` is set and A does not fit the input memory, or the hardware is not built for `dataflow`.
    """
    built = built_dataflows(config)
    if dataflow is not None and dataflow not in built:
        names = ", ".join(flow.name.lower().replace("_", "-") for flow in built)
        raise ValueError(
            f"dataflow {dataflow.name.lower().replace('_', '-')}: this hardware is built for {names} alone;"
            " choose that, or leave dataflow out"
        )
    # A float result has scales: per row of A as the layers ask for them, one for B; what they are exactly hardly matters.
    scales = (ScaleMode.NONE, ScaleMode.NONE) if result == Result.INT32 else (ScaleMode.VECTOR, ScaleMode.TENSOR)
    op = Gemm(
        *(m, n, k, m, n, k, 0, 0, 0, 0, 0, 0),
        transpose_a=transpose_a,
        transpose_b=transpose_b,
        result=result,
        accumulate=accumulate,
        scale_a=scales[0],
        scale_b=scales[1],
        reuse_a=keep_a,
    )
    return best_tilings(Machine.of(config), [op], None if dataflow is None else (dataflow,))[0]


@lru_cache(maxsize=8192)
def faster_transposed(
    config: ArrayConfig,
    m: int,
    n: int,
    k: int,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    result: Result = Result.FLOAT32,
) -> bool:
    """Whether C[m, n] = A B, with scales per row and column, takes fewer clocks as C^T = B^T A^T by the performance model.

    A few columns fill the array's columns badly, and its rows well.
    """
    op = Gemm(
        *(m, n, k, m, n, k, 0, 0, 0, 0, 0, 0),
        transpose_a=transpose_a,
        transpose_b=transpose_b,
        result=result,
        scale_a=ScaleMode.VECTOR,
        scale_b=ScaleMode.VECTOR,
    )
    return best_products(Machine.of(config), [op])[0].transposed
