"""How long instructions take and what they move: closed forms over columns of GEMMs.

A GEMM instruction is fetched; the tiles of step 0 are loaded; then step s takes as long as the longest of
`array(s)`, `load(s + 1)` on each of two ports, `store(s - 1)` on the third, and the bytes of those loads and stores at the bandwidth of
device memory; at the end the last tile of C is stored (docs/architecture.md). `unit_times` gives the parts. So

    cycles = fetch + load(0) + sum over s of max(array(s), load A(s + 1), load B(s + 1), store(s - 1), moved(s) / bandwidth) + store(last)

The sum has a closed form because few steps differ. Along each loop all tiles but the last have one size, so a tile has two
sizes per dimension, FULL and LAST. What a step does depends on its own tile, the next one and the one before: on where each loop
index stands, which is one of six `_POSITIONS`. The k loop is innermost: its first step stores the tile before, its last step
loads for the tile after, and the steps between them depend on their own tile alone.

With one tile along k a step to the next inner index loads the inner operand only; a step to the next outer index loads
the outer one, and the inner one too if it has more than one tile. With several tiles along k each step loads both.

`stall_cycles` are all clocks of an instruction in which the array is not in a tile. As each step takes at least its bytes divided by
the bandwidth, and the tiles are loaded and stored outside of or beside the array's clocks, cycles are never below bytes / bandwidth.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from systolora.hls.isa import INSTRUCTION_BYTES, Dataflow

from .columns import GemmColumns, Ints, ceil_div
from .tile_times import BOTH, FULL, LAST, Machine, TileTimes, longest
from .unit_times import ArrayKind, Transfer, fetch_clocks, result_words, vector_words


@dataclass(frozen=True)
class Costs:
    """What some instructions cost, int64 [count] each.

    Attributes:
        cycles: clocks from fetch to the end of the last store.
        array_cycles, busy_cycles, input_words .. program_words: as the counters of the same names.
        input_clocks, weight_clocks, store_clocks, dram_clocks: clocks that each port, and device memory, need for
            all of the instruction; the largest of these and `array_cycles` is what bounds it.
        weight_reads, output_updates: accesses of on-chip memories, in words.
    """

    cycles: Ints
    array_cycles: Ints
    busy_cycles: Ints
    input_words: Ints
    weight_words: Ints
    vector_words: Ints
    result_words_loaded: Ints
    result_words_stored: Ints
    program_words: Ints
    input_clocks: Ints
    weight_clocks: Ints
    store_clocks: Ints
    dram_clocks: Ints
    weight_reads: Ints
    output_updates: Ints

    @property
    def stall_cycles(self) -> Ints:
        """Clocks in which the array is not in a tile."""
        return self.cycles - self.array_cycles

    @property
    def words(self) -> Ints:
        """Bus words that go to and from device memory."""
        loaded = self.input_words + self.weight_words + self.vector_words + self.result_words_loaded
        return loaded + self.result_words_stored + self.program_words


@dataclass(frozen=True)
class _Position:
    """Where an index of a tile loop stands.

    Attributes:
        first: there is none before it.
        size: of its tile. following: size of the next tile, or None if there is none.
    """

    first: bool
    size: int
    following: int | None

    @property
    def alone(self) -> bool:
        """The loop has one tile."""
        return self.first and self.following is None


_ONLY = _Position(True, LAST, None)
_FIRST_OF_TWO = _Position(True, FULL, LAST)
_FIRST = _Position(True, FULL, FULL)
_MIDDLE = _Position(False, FULL, FULL)
_BEFORE_LAST = _Position(False, FULL, LAST)
_LAST = _Position(False, LAST, None)


def _positions(tiles: Ints) -> list[tuple[_Position, Ints]]:
    """How many indices of a loop of that many tiles stand where."""
    one, two, more = ((tiles == 1), (tiles == 2), (tiles > 2))
    middle = np.maximum(tiles - 3, 0)
    counts = [
        (_ONLY, one),
        (_FIRST_OF_TWO, two),
        (_FIRST, more),
        (_MIDDLE, middle),
        (_BEFORE_LAST, more),
        (_LAST, ~one),
    ]
    return [(position, count.astype(np.int64)) for position, count in counts if count.any()]


def rough_bound(times: TileTimes) -> Ints:
    """Clocks below which `bound` cannot be, for a tenth of its time: of the array, and of the bytes of A, B and C if none is wasted."""
    config, c = times.machine.config, times.columns
    a = np.where(c.channels > 0, 0, times.input_passes * c.m * c.k)  # patches share bytes
    b = times.weight_passes * c.n * c.k
    stored = c.m * c.n * c.result_bytes
    ports = np.maximum.reduce([a, b, stored]) // config.bus_bytes
    shared = times.machine.dram.shared_clocks(a + b + stored * (1 + c.accumulate))
    return np.maximum.reduce([_least_array(times), ports, shared])


def _least_array(times: TileTimes) -> Ints:
    """Clocks of the array if blocks follow each other without a gap."""
    config, c = times.machine.config, times.columns
    if times.machine.kind is not ArrayKind.OVERLAPPED:
        return times.over_steps("cycles")

    def blocks(name: str, lanes: Ints | int) -> Ints:
        full, last = times.sizes[name]
        return (times.tiles[name] - 1) * ceil_div(full, lanes) + ceil_div(last, lanes)

    stationary = c.dataflow == Dataflow.WEIGHT_STATIONARY
    k_blocks = blocks("k", np.where(stationary, config.rows, config.band_rows))
    rows = np.where(stationary, c.m, blocks("m", config.stationary_rows) * config.band_rows)
    steps = times.tiles["m"] * times.tiles["n"] * times.tiles["k"]
    return blocks("n", config.cols) * k_blocks * rows + steps * config.stationary_rows


def bound(times: TileTimes) -> Ints:
    """Clocks below which no GEMM instruction can be.

    The first load, then the busiest unit without what it did in the first load and the last store, then the last store.
    """
    units = times.unit_clocks()
    a, b = times.first_loads()
    hidden = [
        units["array"],
        units["input"] - a.clocks,
        units["weight"] - b.clocks,
        units["store"] - times.store[LAST][LAST].clocks,
        units["dram"] - times.first_load - times.last_store,
    ]
    fetch = fetch_clocks(times.machine.config, times.machine.dram, INSTRUCTION_BYTES)
    return fetch + times.first_load + np.maximum.reduce(hidden) + times.last_store


class _StepSum:
    """Adds up the clocks of the steps of some GEMMs, position by position."""

    def __init__(self, times: TileTimes) -> None:
        self.dram = times.machine.dram
        m_outer = times.columns.m_outer
        # From (m, n) to (outer, inner): the operand that the outer loop indexes, the inner one's, arrays and stores.
        self.outer = [[_choose(m_outer, times.input[i][t], times.weight[i][t]) for t in BOTH] for i in BOTH]
        self.inner = [[_choose(m_outer, times.weight[i][t], times.input[i][t]) for t in BOTH] for i in BOTH]
        self.store = [[_choose(m_outer, times.store[o][i], times.store[i][o]) for i in BOTH] for o in BOTH]
        self.array = [
            [[np.where(m_outer, times.array[o][i][t].cycles, times.array[i][o][t].cycles) for t in BOTH] for i in BOTH]
            for o in BOTH
        ]
        self.outer_tiles = np.where(m_outer, times.tiles["m"], times.tiles["n"])
        self.inner_tiles = np.where(m_outer, times.tiles["n"], times.tiles["m"])
        self.k_tiles = times.tiles["k"]
        self.total = np.zeros_like(self.k_tiles)

    def run(self) -> Ints:
        """Clocks of all steps."""
        single = (self.k_tiles == 1).astype(np.int64)
        for (o, outer_count), (i, inner_count) in product(_positions(self.outer_tiles), _positions(self.inner_tiles)):
            count = outer_count * inner_count
            before = self._tile_before(o, i)
            self._add(count * single, self.array[o.size][i.size][LAST], self._loads_of_moved(o, i), before)
            self._add_k_loop(count * (1 - single), o, i, before)
        return self.total

    def _add_k_loop(self, count: Ints, o: _Position, i: _Position, before: list[Transfer]) -> None:
        full, last = self.array[o.size][i.size]
        to_full, to_last = ([self.outer[o.size][t], self.inner[i.size][t]] for t in (FULL, LAST))
        two, more = (self.k_tiles == 2), (self.k_tiles > 2)
        self._add(count * two, full, to_last, before)
        self._add(count * more, full, to_full, before)
        self._add(count * np.maximum(self.k_tiles - 3, 0), full, to_full, [])
        self._add(count * more, full, to_last, [])
        self._add(count, last, self._loads_of_next(o, i), [])

    def _add(self, count: Ints, array: Ints, loads: list[Transfer], stores: list[Transfer]) -> None:
        if count.any():
            transfers = loads + stores
            clocks = np.maximum(array, longest(self.dram, transfers)) if transfers else array
            self.total += count * clocks

    def _tile_before(self, o: _Position, i: _Position) -> list[Transfer]:
        if not i.first:
            return [self.store[o.size][FULL]]
        return [] if o.first else [self.store[FULL][LAST]]

    def _loads_of_moved(self, o: _Position, i: _Position) -> list[Transfer]:
        """Loads for the next tile of C if k is one tile: of operands that change."""
        if i.following is not None:
            return [self.inner[i.following][LAST]]
        if o.following is None:
            return []
        return [self.outer[o.following][LAST]] + ([] if i.alone else [self.inner[FULL][LAST]])

    def _loads_of_next(self, o: _Position, i: _Position) -> list[Transfer]:
        """Loads for the first k tile of the next tile of C."""
        if i.following is not None:
            return [self.outer[o.size][FULL], self.inner[i.following][FULL]]
        return [] if o.following is None else [self.outer[o.following][FULL], self.inner[FULL][FULL]]


def _choose(mask: NDArray[np.bool_], yes: Transfer, no: Transfer) -> Transfer:
    return Transfer(np.where(mask, yes.clocks, no.clocks), np.where(mask, yes.moved, no.moved))


def gemm_cycles(times: TileTimes) -> Ints:
    """Clocks of GEMM instructions, from fetch to the end of the last store."""
    fetch = fetch_clocks(times.machine.config, times.machine.dram, INSTRUCTION_BYTES)
    return fetch + times.first_load + _StepSum(times).run() + times.last_store


def gemm_costs(machine: Machine, columns: GemmColumns) -> Costs:
    """Exact costs of GEMM instructions, without their neighbours in a program."""
    times = TileTimes(machine, columns)
    config, c, units = machine.config, columns, times.unit_clocks()
    m, n, k = (times.sizes[name] for name in "mnk")
    bus = config.bus_bytes
    stored = times.over_results([[result_words(config, c, m[i], n[j]) for j in BOTH] for i in BOTH])
    vectors = times.over_results([[vector_words(config, c, m[i], n[j]) for j in BOTH] for i in BOTH])
    a_words = times.over_input([[_words(c.transpose_a, m[i], k[t], bus) for t in BOTH] for i in BOTH])
    b_words = times.over_weight([[_words(c.transpose_b, k[t], n[j], bus) for t in BOTH] for j in BOTH])
    return Costs(
        cycles=gemm_cycles(times),
        array_cycles=units["array"],
        busy_cycles=times.over_steps("busy"),
        input_words=np.where(c.channels > 0, times.input_passes * c.patch_words, a_words),
        weight_words=b_words,
        vector_words=vectors,
        result_words_loaded=stored * c.accumulate,
        result_words_stored=stored,
        program_words=np.full(len(c), INSTRUCTION_BYTES // bus),
        input_clocks=units["input"],
        weight_clocks=units["weight"],
        store_clocks=units["store"],
        dram_clocks=units["dram"],
        weight_reads=times.over_steps("weight_reads"),
        output_updates=times.over_steps("updates"),
    )


def _words(transposed: Ints, rows: Ints, cols: Ints, bus: int) -> Ints:
    """Bus words of a tile of `rows` x `cols` bytes, stored as it is or transposed."""
    return np.where(transposed == 1, cols * ceil_div(rows, bus), rows * ceil_div(cols, bus))
