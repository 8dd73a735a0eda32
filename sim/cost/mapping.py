"""The tiling and dataflow of each GEMM, found with the performance model.

Candidates are combinations of dataflow, loop order and tile sizes that the on-chip memories hold: balanced ones, and those that fill
the array's lanes or a memory (`_tiles`). A rough lower bound of their clocks is computed for all, and the exact clocks of the few where
it is lowest; a closer bound for those that may be better, and the exact clocks where that is still below the best found. So the answer
is the best of all candidates, and only a few of them are evaluated exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Dataflow, Gemm, LoopOrder, OperandA

from .columns import GemmColumns, Ints, ceil_div
from .performance import bound, gemm_cycles, rough_bound
from .tile_times import Machine, TileTimes

_THINNING, _SMALL = 0.7, 6
_LARGEST = 5
"""Tile sizes closer than this to a larger one are left out, but for the largest few and those of few units."""

_FIRST_LOOK = 6
"""Candidates of each GEMM that are evaluated before the bounds are compared with the best of them."""


@dataclass(frozen=True)
class Tiling:
    """The tile fields of a GEMM instruction; sizes in elements, at most the dimension itself."""

    dataflow: Dataflow
    loop_order: LoopOrder
    tile_m: int
    tile_n: int
    tile_k: int


@dataclass(frozen=True)
class Product:
    """How a GEMM is best computed.

    Attributes:
        transposed: as C^T = B^T A^T: B takes A's place, and C is written as [n, m].
        op: the tiled instruction, without addresses. cycles: its clocks.
    """

    transposed: bool
    op: Gemm
    cycles: int


@dataclass(frozen=True)
class _Candidates:
    """Tilings of several GEMMs as columns; `owner` is the index of the GEMM."""

    owner: Ints
    columns: GemmColumns


def best_tilings(machine: Machine, ops: Sequence[Gemm], dataflows: Sequence[Dataflow] | None = None) -> list[Tiling]:
    """The tiling with the fewest clocks for each GEMM, of equals the one that moves least.

    Args:
        ops: GEMMs; their own tiles, dataflow and loop order do not matter. One with `reuse_a` gets a tiling with one A tile, and
            its A is not loaded.
        dataflows: those to choose from; by default those that the hardware is built for.

    Raises:
        ValueError: if `reuse_a` is set and A does not fit the input memory.
    """
    if not ops:
        return []
    found = _candidates(machine.config, ops, built_dataflows(machine.config) if dataflows is None else dataflows)
    cycles = _search(machine, found, len(ops))
    traffic = _traffic(found.columns)
    order = np.lexsort((traffic, cycles, found.owner))
    chosen = order[np.searchsorted(found.owner[order], np.arange(len(ops)))]
    c = found.columns
    return [
        Tiling(
            Dataflow(int(c.dataflow[row])),
            LoopOrder(int(c.loop_order[row])),
            *(int(tile[row]) for tile in (c.tile_m, c.tile_n, c.tile_k)),
        )
        for row in chosen
    ]


def built_dataflows(config: ArrayConfig) -> tuple[Dataflow, ...]:
    """The dataflows that the hardware has."""
    return tuple(Dataflow) if config.output_stationary else (Dataflow.WEIGHT_STATIONARY,)


def transposed_product(op: Gemm) -> Gemm:
    """C^T = B^T A^T: the same operands as they are stored, in each other's place, with the same bits; tiles are not set.

    Raises:
        ValueError: for patches and a bias, which only A's place and only columns have.
    """
    if not has_transposed_form(op):
        raise ValueError("a product with patches or a bias has no transposed form; compute it as it is")
    swapped: dict[str, Any] = {"m": op.n, "n": op.m, "tile_m": op.n, "tile_n": op.m, "tile_k": op.k}
    swapped |= {"transpose_a": not op.transpose_b, "transpose_b": not op.transpose_a}
    for name in ("{}_address", "{}_stride", "scale_{}", "scale_{}_address"):
        a, b = name.format("a"), name.format("b")
        swapped |= {a: getattr(op, b), b: getattr(op, a)}
    return replace(op, **swapped, scales_swapped=not op.scales_swapped)


def has_transposed_form(op: Gemm) -> bool:
    """Whether `transposed_product` takes it."""
    return op.a_form == OperandA.MATRIX and not op.bias


def best_products(
    machine: Machine,
    ops: Sequence[Gemm],
    dataflows: Sequence[Dataflow] | None = None,
    turnable: Sequence[bool] | None = None,
) -> list[Product]:
    """The fastest form of each GEMM, its operands' roles included; of equals the one as it is.

    Args:
        ops, dataflows: as for `best_tilings`.
        turnable: which may be computed as C^T; by default all that have that form.
    """
    if turnable is None:
        turnable = [has_transposed_form(op) for op in ops]
    forms = [(index, False, op) for index, op in enumerate(ops)]
    forms += [(index, True, transposed_product(op)) for index, op in enumerate(ops) if turnable[index]]
    tilings = best_tilings(machine, [op for _, _, op in forms], dataflows)
    tiled = [replace(op, **vars(tiling)) for (_, _, op), tiling in zip(forms, tilings, strict=True)]
    cycles = gemm_cycles(TileTimes(machine, GemmColumns.of(machine.config, tiled))).tolist() if tiled else []
    best: dict[int, Product] = {}
    for (index, turned, _), op, clocks in zip(forms, tiled, cycles, strict=True):
        if index not in best or clocks < best[index].cycles:
            best[index] = Product(turned, op, clocks)
    return [best[index] for index in range(len(ops))]


def _search(machine: Machine, found: _Candidates, count: int) -> NDArray[np.float64]:
    """Clocks of each candidate that may be the best of its GEMM; infinity for those that cannot be."""
    owner, columns = found.owner, found.columns
    cycles = np.full(len(owner), np.inf)
    best = np.full(count, np.inf)

    def look_at(rows: NDArray[np.bool_]) -> None:
        cycles[rows] = gemm_cycles(TileTimes(machine, columns.take(rows)))
        np.minimum.at(best, owner[rows], cycles[rows])

    bounds = rough_bound(TileTimes(machine, columns)).astype(float)
    look_at(_rank(owner, count, bounds, _traffic(columns)) < _FIRST_LOOK)
    near = np.isinf(cycles) & (bounds < best[owner])
    bounds = np.full(len(owner), np.inf)
    bounds[near] = bound(TileTimes(machine, columns.take(near)))
    look_at(near & (bounds < best[owner]))
    return cycles


def _rank(owner: Ints, count: int, *keys: NDArray[Any]) -> Ints:
    """The place of each candidate among those of its GEMM, by the keys, the first one first."""
    order = np.lexsort((*reversed(keys), owner))
    starts = np.searchsorted(owner[order], np.arange(count))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - starts[owner[order]]
    return rank


def _traffic(c: GemmColumns) -> Ints:
    """Elements of A and B that are loaded: what decides between tilings that are equally fast."""
    tiles_m, tiles_n = ceil_div(c.m, c.tile_m), ceil_div(c.n, c.tile_n)
    one_k = c.tile_k >= c.k
    passes_a = np.where(one_k & (c.m_outer | (tiles_m == 1)), 1, tiles_n)
    passes_b = np.where(one_k & (~c.m_outer | (tiles_n == 1)), 1, tiles_m)
    return c.k * (c.m * passes_a + c.n * passes_b)


def _candidates(config: ArrayConfig, ops: Sequence[Gemm], dataflows: Sequence[Dataflow]) -> _Candidates:
    """All legal candidates of all GEMMs, in the order of the GEMMs."""
    shapes = GemmColumns.of(config, ops)
    blocks = [_tilings(config, op, flow, index) for index, op in enumerate(ops) for flow in dataflows]
    owner, *tilings = np.concatenate(blocks).T
    return _Candidates(owner, shapes.take(owner).tiled(*tilings))


def _tilings(config: ArrayConfig, op: Gemm, dataflow: Dataflow, owner: int) -> Ints:
    """Legal tilings of one GEMM: int64 [count, 6] of owner, dataflow, loop order, tile_m, tile_n, tile_k."""
    tiles = _tiles(config, op, dataflow)
    tile_m, tile_n, tile_k = tiles.T
    columns = ceil_div(tile_n, config.cols)
    legal = tile_m <= _most_rows(config, dataflow, tile_k)
    legal &= (columns * tile_k <= config.weight_depth) & (columns * tile_m <= config.output_depth)
    if op.reuse_a:
        legal &= (tile_m == op.m) & (tile_k == op.k)
        if not legal.any():
            raise ValueError(f"A of {op.m} x {op.k} does not fit the input memory as one tile; do not ask to reuse it")
    tiles = tiles[legal]
    # With one tile of m or n the two orders are the same.
    both = (tiles[:, 0] < op.m) & (tiles[:, 1] < op.n)
    orders = [(tiles, LoopOrder.M_OUTER), (tiles[both], LoopOrder.N_OUTER)]
    heads = [np.tile(np.array([[owner, dataflow, order]], np.int64), (len(part), 1)) for part, order in orders]
    return np.concatenate([np.hstack((head, part)) for head, (part, _) in zip(heads, orders, strict=True)])


def _tiles(config: ArrayConfig, op: Gemm, dataflow: Dataflow) -> Ints:
    """Tiles to choose from, int64 [count, 3], not all of them legal.

    All combinations of `_tile_sizes`; with each size of k also the most rows and columns that the input and weight memory hold, with
    each size of n the most rows whose sums the output memory holds.
    """
    bus, cols = config.bus_bytes, config.cols
    stationary = dataflow == Dataflow.WEIGHT_STATIONARY
    lanes_m, lanes_k = (1, config.rows) if stationary else (config.stationary_rows, config.band_rows)
    m = np.array(_tile_sizes(op.m, bus, lanes_m, config.output_depth))[:, None, None]
    n = np.array(_tile_sizes(op.n, bus, cols, config.weight_depth * cols // min(op.k, bus)))[:, None]
    k = np.array(_tile_sizes(op.k, bus, lanes_k, config.weight_depth))
    most_m = np.minimum(_most_rows(config, dataflow, k) // bus * bus, op.m)
    most_n = np.minimum(config.weight_depth // k * cols // bus * bus, op.n)
    most_sums = np.minimum(config.output_depth // ceil_div(n, cols) // bus * bus, op.m)
    kinds = [(m, n, k), (most_m, n, k), (m, most_n, k), (most_m, most_n, k), (most_sums, n, k)]
    tiles = np.concatenate([np.stack(np.broadcast_arrays(*kind), -1).reshape(-1, 3) for kind in kinds])
    return tiles[tiles.all(axis=1)]


def _most_rows(config: ArrayConfig, dataflow: Dataflow, tile_k: Ints) -> Ints:
    """Rows of A that the input memory holds with so many columns."""
    if dataflow == Dataflow.WEIGHT_STATIONARY:
        return config.input_depth // ceil_div(tile_k, config.rows)
    band = config.band_rows
    return config.input_depth // (ceil_div(tile_k, band) * band) * config.stationary_rows


def _tile_sizes(length: int, bus: int, lanes: int, limit: int) -> list[int]:
    """Sizes of tiles of a dimension up to a limit, all but the dimension itself in whole bus words.

    The dimension itself; one bus word, for `ArrayConfig` guarantees that a tile of one bus word squared fits; the dimension in equal
    parts, of whole bus words, and of whole bus words and lanes of the array; and the most bus words in a number of lanes.
    """
    unit = lcm(bus, lanes)
    found = {length, min(length, bus), *_balanced(length, unit, limit)}
    if unit > bus:
        found.update(_balanced(length, bus, limit))
    if unit > lanes:
        found.update(size * lanes // bus * bus for size in _thinned(range(min(length, limit) // lanes, 0, -1)))
    return sorted(size for size in found if 0 < size <= max(limit, bus))


def _balanced(length: int, unit: int, limit: int) -> list[int]:
    """The length cut into equal parts of whole units, not more than the limit: the largest, and ever smaller ones."""
    blocks = -(-length // unit)
    pieces = max(1, -(-blocks * unit // max(unit, limit)))
    return [min(length, size * unit) for size in _thinned(_parts(blocks, pieces))]


def _parts(blocks: int, pieces: int) -> Iterator[int]:
    """The size of a part if so many are cut into at least so many pieces, falling."""
    while pieces <= blocks:
        size = -(-blocks // pieces)
        yield size
        # The next number of parts that makes them smaller.
        pieces = -(-blocks // (size - 1)) if size > 1 else blocks + 1


def _thinned(sizes: Iterable[int]) -> list[int]:
    """Of falling sizes the first, and those that are not close to a larger one, or small."""
    kept: list[int] = []
    for size in sizes:
        if len(kept) < _LARGEST or size <= max(_SMALL, _THINNING * kept[-1]):
            kept.append(size)
    return kept
