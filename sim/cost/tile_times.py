"""What the units of the accelerator need for each size of tile of a GEMM, and the sums over all of its tiles.

Along each dimension all tiles but the last have one size, so a tile has two sizes per dimension, FULL and LAST: eight kinds of array
step, four kinds of A tile, B tile and C tile. A dimension that is one tile has LAST only, and both entries are equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from systolora.hls.config import ArrayConfig

from .columns import Bools, GemmColumns, Ints, ceil_div
from .dram import DramModel
from .unit_times import ArrayKind, ArrayWork, Transfer, array_work, load_input, load_weight, store

FULL, LAST = 0, 1
BOTH = (FULL, LAST)


@dataclass(frozen=True)
class Machine:
    """What an instruction runs on: the accelerator, device memory, and which array is modelled."""

    config: ArrayConfig
    dram: DramModel
    kind: ArrayKind = ArrayKind.OVERLAPPED

    @classmethod
    def of(cls, config: ArrayConfig, kind: ArrayKind = ArrayKind.OVERLAPPED) -> Machine:
        """A configuration with the device memory that it names."""
        return cls(config, DramModel.of(config), kind)


class TileTimes:
    """What the units need for each size of tile of some GEMMs; the basis of `bound` and `costs`."""

    def __init__(self, machine: Machine, c: GemmColumns) -> None:
        self.machine, self.columns = machine, c
        self.tiles = {name: ceil_div(getattr(c, name), getattr(c, f"tile_{name}")) for name in "mnk"}
        self.sizes = {name: self._sizes(name) for name in "mnk"}
        self.counts = {name: (self.tiles[name] - 1, np.ones_like(self.tiles[name])) for name in "mnk"}
        self.input_passes = self._passes("n", c.m_outer | (self.tiles["m"] == 1)) * (1 - c.reuse_a)
        self.weight_passes = self._passes("m", ~c.m_outer | (self.tiles["n"] == 1))

    @cached_property
    def input(self) -> list[list[Transfer]]:
        """Loads of A tiles, by size of m and k."""
        m, k, machine = self.sizes["m"], self.sizes["k"], self.machine
        return [[load_input(machine.config, machine.dram, self.columns, m[i], k[t]) for t in BOTH] for i in BOTH]

    @cached_property
    def weight(self) -> list[list[Transfer]]:
        """Loads of B tiles, by size of n and k."""
        n, k, machine = self.sizes["n"], self.sizes["k"], self.machine
        return [[load_weight(machine.config, machine.dram, self.columns, n[j], k[t]) for t in BOTH] for j in BOTH]

    @cached_property
    def store(self) -> list[list[Transfer]]:
        """Stores of C tiles, by size of m and n."""
        m, n, machine = self.sizes["m"], self.sizes["n"], self.machine
        return [[store(machine.config, machine.dram, self.columns, m[i], n[j]) for j in BOTH] for i in BOTH]

    @cached_property
    def array(self) -> list[list[list[ArrayWork]]]:
        """The array's work in a step, by size of m, n and k."""
        m, n, k, machine = *(self.sizes[name] for name in "mnk"), self.machine
        flow = self.columns.dataflow
        return [
            [[array_work(machine.config, machine.kind, flow, m[i], n[j], k[t]) for t in BOTH] for j in BOTH]
            for i in BOTH
        ]

    def _sizes(self, name: str) -> tuple[Ints, Ints]:
        length, tile = getattr(self.columns, name), getattr(self.columns, f"tile_{name}")
        return tile, length - (self.tiles[name] - 1) * tile

    def _passes(self, other: str, kept: Bools) -> Ints:
        """How often an operand is loaded as a whole: once if it stays while the other loop runs, else once per tile of it."""
        return np.where((self.tiles["k"] == 1) & kept, 1, self.tiles[other])

    def over_input(self, values: list[list[Ints]]) -> Ints:
        """Sum over all A tiles that are loaded."""
        return self.input_passes * _weighted(values, self.counts["m"], self.counts["k"])

    def over_weight(self, values: list[list[Ints]]) -> Ints:
        """Sum over all B tiles that are loaded."""
        return self.weight_passes * _weighted(values, self.counts["n"], self.counts["k"])

    def over_results(self, values: list[list[Ints]]) -> Ints:
        """Sum over all C tiles."""
        return _weighted(values, self.counts["m"], self.counts["n"])

    def over_steps(self, attribute: str) -> Ints:
        """Sum of an attribute of `ArrayWork` over all steps."""
        per_tile = [
            [sum(self.counts["k"][t] * getattr(work[t], attribute) for t in (FULL, LAST)) for work in row]
            for row in self.array
        ]
        return self.over_results(per_tile)

    @property
    def first_load(self) -> Ints:
        """Clocks until the tiles of step 0 are loaded."""
        return longest(self.machine.dram, self.first_loads())

    def first_loads(self) -> list[Transfer]:
        a, fresh = self.input[FULL][FULL], 1 - self.columns.reuse_a
        return [Transfer(a.clocks * fresh, a.moved * fresh), self.weight[FULL][FULL]]

    @property
    def last_store(self) -> Ints:
        """Clocks after the last step until its tile of C is stored."""
        return longest(self.machine.dram, [self.store[LAST][LAST]])

    def unit_clocks(self) -> dict[str, Ints]:
        """Clocks that each port, device memory and the array need for everything."""
        dram = self.machine.dram
        moved = self.over_input(_each(self.input, "moved")) + self.over_weight(_each(self.weight, "moved"))
        return {
            "input": self.over_input(_each(self.input, "clocks")),
            "weight": self.over_weight(_each(self.weight, "clocks")),
            "store": self.over_results(_each(self.store, "clocks")),
            "dram": dram.shared_clocks(moved + self.over_results(_each(self.store, "moved"))),
            "array": self.over_steps("cycles"),
        }


def _each(transfers: list[list[Transfer]], attribute: str) -> list[list[Ints]]:
    return [[getattr(transfer, attribute) for transfer in row] for row in transfers]


def _weighted(values: list[list[Ints]], first: tuple[Ints, Ints], second: tuple[Ints, Ints]) -> Ints:
    terms = [first[i] * second[j] * values[i][j] for i, j in product((FULL, LAST), repeat=2)]
    return terms[0] + terms[1] + terms[2] + terms[3]


def longest(dram: DramModel, transfers: list[Transfer]) -> Ints:
    """Clocks of transfers that run at the same time."""
    longest = transfers[0].clocks
    moved = transfers[0].moved
    for transfer in transfers[1:]:
        longest = np.maximum(longest, transfer.clocks)
        moved = moved + transfer.moved
    return np.maximum(longest, dram.shared_clocks(moved))
