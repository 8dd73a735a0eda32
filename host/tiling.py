"""How one GEMM is cut into tiles: dataflow, loop order and tile sizes for a configuration.

`choose_tiling` is the seam: whatever cost it minimises, the compiler asks only here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import lcm

import numpy as np
from numpy.typing import NDArray
from systolora.hls.check import RESULT_BYTES, round_up
from systolora.hls.config import MIN_TILE_CLOCKS, ArrayConfig
from systolora.hls.isa import Dataflow, LoopOrder, Result

_PIECES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128)
"""Into how many equal parts a dimension is tried to be cut."""

_STEP_CLOCKS = 64
"""What a step costs beside its work: the latency of device memory and the filling of three pipelines."""

_WORK_WEIGHT = 0.02
"""Hidden work still costs energy: this share of all array clocks and bus words is added to the clocks."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Tiling:
    """The tile fields of a GEMM instruction; sizes in elements, at most the dimension itself."""

    dataflow: Dataflow
    loop_order: LoopOrder
    tile_m: int
    tile_n: int
    tile_k: int


@dataclass(frozen=True)
class _Candidates:
    """Tilings as columns, int64 [count] each."""

    dataflow: Ints
    loop_order: Ints
    tile_m: Ints
    tile_n: Ints
    tile_k: Ints

    def where(self, mask: NDArray[np.bool_]) -> _Candidates:
        return _Candidates(*(column[mask] for column in vars(self).values()))

    def at(self, index: int) -> Tiling:
        flow, order, *tiles = (int(column[index]) for column in vars(self).values())
        return Tiling(Dataflow(flow), LoopOrder(order), *tiles)


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
) -> Tiling:
    """The cheapest legal tiling of C[m, n] = A[m, k] B[k, n] among some hundred candidates.

    The cost is an estimate in array clocks: array, both load ports, store port and DRAM work at once, so the slowest of them
    counts; the first load and the last store are not hidden; each step has a fixed cost.

    Args:
        m, n, k: each at least 1 and within the instruction's limits.
        transpose_a, transpose_b: A is stored as [k, m], B as [n, k]; this changes how many bus words a tile takes.
        result, accumulate: as in the instruction; they change what is stored and loaded again.
        dataflow: the only one to consider; by default the cheaper one is chosen.
    """
    bus = config.bus_bytes
    sizes = [_tile_sizes(m, bus, config.rows), _tile_sizes(n, bus, config.cols), _tile_sizes(k, bus, config.rows)]
    flows = list(Dataflow) if dataflow is None else [dataflow]
    rows = list(product(flows, LoopOrder, *sizes))
    columns = _Candidates(*(np.array(column, np.int64) for column in zip(*rows, strict=True)))
    legal = columns.where(_fits(config, columns))
    traffic = _Traffic(config, legal, (m, n, k), transpose_a, transpose_b, result, accumulate)
    return legal.at(int(np.argmin(traffic.cost)))


def _tile_sizes(length: int, bus: int, lanes: int) -> list[int]:
    """The dimension itself and balanced parts of it, in multiples of the bus word and of the array's lanes.

    One bus word is always among them: `ArrayConfig` guarantees that a tile of one bus word squared fits.
    """
    found = {length, min(length, bus)}
    for unit in {bus, lcm(bus, lanes)}:
        found.update(min(length, round_up(_ceil(length, pieces), unit)) for pieces in _PIECES)
        # Powers of two reach the smallest memories when the dimension is far larger than 128 tiles of them.
        found.update(min(length, unit << power) for power in range(7))
    return sorted(found)


def _fits(config: ArrayConfig, c: _Candidates) -> NDArray[np.bool_]:
    stationary = c.dataflow == Dataflow.WEIGHT_STATIONARY
    input_words = np.where(stationary, _ceil(c.tile_k, config.rows) * c.tile_m, _ceil(c.tile_m, config.rows) * c.tile_k)
    column_blocks = _ceil(c.tile_n, config.cols)
    return (
        (input_words <= config.input_depth)
        & (column_blocks * c.tile_k <= config.weight_depth)
        & (column_blocks * c.tile_m <= config.output_depth)
    )


class _Traffic:
    """Estimated clocks, bus words and steps of each candidate; the counts are those of docs/architecture.md."""

    def __init__(
        self,
        config: ArrayConfig,
        c: _Candidates,
        shape: tuple[int, int, int],
        transpose_a: bool,
        transpose_b: bool,
        result: Result,
        accumulate: bool,
    ) -> None:
        m, n, k = shape
        bus, size = config.bus_bytes, RESULT_BYTES[result]
        tiles_m, tiles_n, tiles_k = _ceil(m, c.tile_m), _ceil(n, c.tile_n), _ceil(k, c.tile_k)
        m_outer = c.loop_order == LoopOrder.M_OUTER
        kept_a = (tiles_k == 1) & (m_outer | (tiles_m == 1))
        kept_b = (tiles_k == 1) & (~m_outer | (tiles_n == 1))
        lines_a = k * _lines(m, c.tile_m, 1, bus) if transpose_a else m * _lines(k, c.tile_k, 1, bus)
        lines_b = n * _lines(k, c.tile_k, 1, bus) if transpose_b else k * _lines(n, c.tile_n, 1, bus)
        self.input_words = lines_a * np.where(kept_a, 1, tiles_n)
        self.weight_words = lines_b * np.where(kept_b, 1, tiles_m)
        self.result_words = m * _lines(n, c.tile_n, size, bus) * (2 if accumulate else 1)
        self.array_cycles = _array_cycles(config, c, shape)
        self.steps = tiles_m * tiles_n * tiles_k
        self.words = self.input_words + self.weight_words + self.result_words
        words_per_clock = config.dram_gbps * 1e3 / config.clock_mhz / bus
        load = np.maximum(self.input_words, self.weight_words)
        first_load, last_store = load / self.steps, self.result_words / (tiles_m * tiles_n)
        overlapped = np.maximum(load - first_load, self.result_words - last_store)
        steady = np.maximum(np.maximum(self.array_cycles, overlapped), self.words / words_per_clock)
        clocks = first_load + steady + last_store + self.steps * _STEP_CLOCKS
        self.cost = clocks + _WORK_WEIGHT * (self.array_cycles + self.words)


def _lines(length: int, tile: Ints, size: int, bus: int) -> Ints:
    """Bus words of one row that is read tile by tile."""
    full, rest = length // tile, length % tile
    return full * _ceil(tile * size, bus) + _ceil(rest * size, bus)


def _array_cycles(config: ArrayConfig, c: _Candidates, shape: tuple[int, int, int]) -> Ints:
    """Array clocks of all tiles: full ones and those at the edges."""
    total = np.zeros_like(c.tile_m)
    kinds = [
        ((tile, length // tile), (length % tile, (length % tile > 0).astype(np.int64)))
        for tile, length in zip((c.tile_m, c.tile_n, c.tile_k), shape, strict=True)
    ]
    stationary = c.dataflow == Dataflow.WEIGHT_STATIONARY
    for (tile_m, count_m), (tile_n, count_n), (tile_k, count_k) in product(*kinds):
        column_blocks = _ceil(tile_n, config.cols)
        spacing = np.maximum(np.maximum(tile_m, config.rows), MIN_TILE_CLOCKS)
        weight = (_ceil(tile_k, config.rows) * column_blocks - 1) * spacing + tile_m + config.rows
        spacing = np.maximum(tile_k, config.rows)
        output = (_ceil(tile_m, config.rows) * column_blocks - 1) * spacing + tile_k + config.rows - 1
        total += count_m * count_n * count_k * np.where(stationary, weight, output)
    return total


def _ceil(value: Ints | int, unit: Ints | int) -> Ints:
    return -(-value // unit)  # type: ignore[return-value]
