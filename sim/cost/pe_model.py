"""The array PE by PE and clock by clock, in numpy: the same registers as `hls/templates/array.hpp`, for small arrays.

Nothing here knows a formula for cycles. `run_weight_stationary` and `run_output_stationary` feed one tile by the schedule of
docs/architecture.md, section "The array", with a tag on each activation word that travels with its sums, and count the clocks until
the last tag is at the bottom; so they are what the formulas of `counts.array_time` are proved against.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from systolora.hls.config import MIN_TILE_CLOCKS, ArrayConfig

_NO_TAG = -1


@dataclass(frozen=True)
class ArrayControl:
    """What the array does in one clock; the fields are those of the C++ struct of the same name.

    Attributes:
        tag: of the activation word, for whoever watches its sums leave; it is no part of the hardware.
    """

    output_stationary: bool
    load: bool = False
    swap: bool = False
    first: bool = False
    last: bool = False
    tag: int = _NO_TAG


class Bottom(NamedTuple):
    """The moving sums of the last group after a clock, int32 [cols], and the tag of the word that they belong to."""

    sums: NDArray[np.int32]
    tag: int


class TileRun(NamedTuple):
    """A tile that went through the array.

    Attributes:
        c: int32 [tile_m, tile_n], the product.
        cycles: clocks until the last sum was at the bottom.
        busy: clocks in which an activation word entered.
    """

    c: NDArray[np.int32]
    cycles: int
    busy: int


class PeArray:
    """rows x cols PEs and their registers; see `hls/templates/array.hpp` for what they are.

    Attributes:
        waiting: words on their way to the bands, the newest first; delayed: weight words on theirs.
        passing: what entered each group, the newest first: int8 lanes [rows], and a control for each group.
        loading: bool [rows]; holding: bool [bands]; the load on its way down.
        active, shadow: int8 [rows, cols]; the weights in use and those that the next swap brings.
        sums: int32 [rows, cols]; what leaves the DSPs of each row.
        moving: int32 [groups, cols]; what leaves the adders behind each group. tags: [groups], of those sums.
        standing: int32 [clocks, bands, cols]; the sums of the rows of C that a band works on, the oldest last.
    """

    def __init__(self, config: ArrayConfig) -> None:
        rows, cols, self.chain, self.groups = config.rows, config.cols, config.chain, config.groups
        self.rows, self.cols, self.band_rows = rows, cols, config.band_rows
        self.band_groups = self.band_rows // self.chain
        self.bands = rows // self.band_rows
        self.held = self.band_rows - self.band_groups + 1
        idle = ArrayControl(False)
        self.waiting = [(np.zeros(rows, np.int8), idle)] * ((self.bands - 1) * self.held + 1)
        self.delayed = [np.zeros(cols, np.int8)] * ((self.bands - 1) * (self.band_rows + 1) + 1)
        self.passing = [(np.zeros(rows, np.int8), [idle] * self.groups)] * (self.groups + self.chain + 1)
        self.loading = np.zeros(rows, np.bool_)
        self.holding = np.zeros(rows, np.bool_)
        self.active = np.zeros((rows, cols), np.int8)
        self.shadow = np.zeros((rows, cols), np.int8)
        self.sums = np.zeros((rows, cols), np.int32)
        self.moving = np.zeros((self.groups, cols), np.int32)
        self.tags = [_NO_TAG] * self.groups
        self.standing = np.zeros((self.held, self.bands, cols), np.int32)
        row = np.arange(rows)
        self.group = row // self.chain
        # The rows of a shorter last group stand at the end of its chain.
        pad = np.where(self.group == self.groups - 1, self.groups * self.chain - rows, 0)
        self.skew = row % self.chain + pad + self.group
        self.band = np.minimum(row // self.band_rows, self.bands)

    def step(self, input_word: NDArray[np.int8], weight_word: NDArray[np.int8], control: ArrayControl) -> Bottom:
        """One clock; every register takes a value that is computed from what all of them held before.

        Args:
            input_word: int8 [rows]. weight_word: int8 [cols].
        """
        if control.output_stationary:
            self.waiting = [(input_word, control), *self.waiting[:-1]]
            self.delayed = [weight_word, *self.delayed[:-1]]
        self.passing = [self._entering(input_word, control), *self.passing[:-1]]
        self._add(control.output_stationary)
        activation = np.array([self.passing[self.skew[r] + 1][0][r] for r in range(self.rows)], np.int32)
        above = np.concatenate((np.zeros((1, self.cols), np.int32), self.sums[:-1]))
        above[np.arange(self.rows) % self.chain == 0] = 0
        self.sums = above + activation[:, np.newaxis] * self.active
        swap = np.array([self.passing[self.skew[r]][1][self.group[r]].swap for r in range(self.rows)])
        self.active = np.where(swap[:, np.newaxis], self.shadow, self.active)
        self._load(weight_word, control)
        return Bottom(self.moving[-1].copy(), self.tags[-1])

    def _late(self, group: int) -> int:
        """How many clocks a group's band is behind the first; 0 below the last band."""
        band = group // self.band_groups
        return band * self.held if band < self.bands else 0

    def _entering(
        self, input_word: NDArray[np.int8], control: ArrayControl
    ) -> tuple[NDArray[np.int8], list[ArrayControl]]:
        if not control.output_stationary:
            return input_word, [control] * self.groups
        lanes = [self.waiting[self._late(int(group))][0][r] for r, group in enumerate(self.group)]
        return np.array(lanes, np.int8), [self.waiting[self._late(group)][1] for group in range(self.groups)]

    def _add(self, output_stationary: bool) -> None:
        """The adders behind the groups."""
        moving, tags = self.moving.copy(), list(self.tags)
        newest = np.zeros((self.bands, self.cols), np.int32)
        for g in range(self.groups):
            complete = self.sums[min(self.rows, (g + 1) * self.chain) - 1]
            control = self.passing[g + self.chain + 1][1][g]
            band, part = divmod(g, self.band_groups)
            base = self.moving[g - 1] if g else np.zeros(self.cols, np.int32)
            if output_stationary and band < self.bands and part == 0:
                base = np.zeros(self.cols, np.int32) if control.first else self.standing[-1, band]
            moving[g], tags[g] = base + complete, control.tag
            if not output_stationary or part < self.band_groups - 1:
                continue
            if band < self.bands:
                newest[band] = moving[g]
            if band == self.bands or not control.last:
                # Sums of the bands above pass by.
                source = band * self.band_groups - 1
                moving[g] = self.moving[source] if source >= 0 else 0
                tags[g] = self.tags[source] if source >= 0 else _NO_TAG
        self.moving, self.tags = moving, tags
        if output_stationary:
            self.standing = np.concatenate((newest[np.newaxis], self.standing[:-1]))

    def _load(self, weight_word: NDArray[np.int8], control: ArrayControl) -> None:
        arriving = np.concatenate(([control.load], self.loading[:-1]))
        begins = (np.arange(self.rows) % self.band_rows == 0) & (np.arange(self.rows) > 0)
        self.loading = np.where(begins & control.output_stationary, self.holding, arriving)
        self.holding = arriving
        for r in np.flatnonzero(self.loading):
            band = int(self.band[r])
            late = control.output_stationary and band < self.bands
            self.shadow[r] = self.delayed[band * (self.band_rows + 1)] if late else weight_word


def run_weight_stationary(a: NDArray[np.int8], b: NDArray[np.int8], config: ArrayConfig) -> TileRun:
    """One tile, weight-stationary: the rows of the array run along k, its columns along n.

    Args:
        a: int8 [tile_m, tile_k]. b: int8 [tile_k, tile_n].
    """
    rows, cols, tile_m, tile_n = config.rows, config.cols, a.shape[0], b.shape[1]
    a_blocks, b_blocks = _blocks(a, 1, rows), _blocks(_padded(b, 0, rows), 1, cols)
    row_blocks, blocks = len(a_blocks), len(a_blocks) * len(b_blocks)
    spacing = max(tile_m, rows, MIN_TILE_CLOCKS)
    array = PeArray(config)
    # A row's weights must be there one clock before the swap reaches it; row r's enter r clocks after the first.
    lead = 1 + int(max(np.arange(rows) - array.skew))
    no_input, no_weight = np.zeros(rows, np.int8), np.zeros(cols, np.int8)
    c = np.zeros((len(b_blocks), tile_m, cols), np.int32)
    clock = busy = stored = 0
    while stored < blocks * tile_m:
        load_block, row = divmod(clock, spacing)
        loads = load_block < blocks and row < rows
        feed_block, m = divmod(clock - lead, spacing)
        feeds = 0 <= feed_block < blocks and m < tile_m
        column_block, row_block = divmod(load_block, row_blocks)
        bottom = array.step(
            a_blocks[feed_block % row_blocks][m] if feeds else no_input,
            b_blocks[column_block][row_block * rows + row] if loads else no_weight,
            ArrayControl(
                False,
                load=loads and row == 0,
                swap=feeds and m == 0,
                tag=feed_block // row_blocks * tile_m + m if feeds else _NO_TAG,
            ),
        )
        busy += feeds
        if bottom.tag != _NO_TAG:
            c[divmod(bottom.tag, tile_m)] += bottom.sums
            stored += 1
        clock += 1
    return TileRun(np.concatenate(c, axis=1)[:, :tile_n], clock, busy)


def run_output_stationary(a: NDArray[np.int8], b: NDArray[np.int8], config: ArrayConfig) -> TileRun:
    """One tile, output-stationary: bands of rows work on as many rows of C, the columns run along n.

    Args:
        a: int8 [tile_m, tile_k]. b: int8 [tile_k, tile_n].
    """
    tile_m, tile_n, cols, band, standing = a.shape[0], b.shape[1], config.cols, config.band_rows, config.stationary_rows
    padded = _padded(_padded(a, 0, standing), 1, band)
    depth, m_blocks, array = padded.shape[1], len(padded) // standing, PeArray(config)
    b_blocks = _blocks(_padded(b, 0, band), 1, cols)
    blocks, spacing = m_blocks * len(b_blocks), max(depth, standing)
    lead = 1 + int(max((np.arange(config.rows) - array.skew)[:band]))
    no_input, no_weight = np.zeros(config.rows, np.int8), np.zeros(cols, np.int8)
    c = np.zeros((len(b_blocks), m_blocks * standing, cols), np.int32)
    clock = busy = stored = 0
    while stored < blocks * standing:
        load_block, k = divmod(clock, spacing)
        loads = load_block < blocks and k < depth
        feed_block, place = divmod(clock - lead, spacing)
        feeds = 0 <= feed_block < blocks and place < depth
        column_block, m_block = divmod(feed_block, m_blocks)
        chunk, turn = divmod(place, band)
        word = no_input.copy()
        if feeds:
            rows_of_c = padded[m_block * standing + turn : (m_block + 1) * standing : band]
            word[:standing] = rows_of_c[:, chunk * band : (chunk + 1) * band].ravel()
        bottom = array.step(
            word,
            b_blocks[load_block // m_blocks][k] if loads else no_weight,
            ArrayControl(
                True,
                load=loads and k % band == 0,
                swap=feeds and turn == 0,
                first=feeds and place < band,
                last=feeds and place >= depth - band,
                tag=feed_block * band + turn if feeds else _NO_TAG,
            ),
        )
        busy += feeds
        if bottom.tag != _NO_TAG:
            # The bands' sums of one block follow each other: the band is told by how many came before.
            block, turn = divmod(bottom.tag, band)
            column_block, m_block = divmod(block, m_blocks)
            c[column_block, m_block * standing + stored % standing // band * band + turn] = bottom.sums
            stored += 1
        clock += 1
    return TileRun(np.concatenate(c, axis=1)[:tile_m, :tile_n], clock, busy)


def _padded(matrix: NDArray[np.int8], axis: int, unit: int) -> NDArray[np.int8]:
    """The matrix with zeros added along an axis up to a multiple of `unit`."""
    widths = [(0, 0), (0, 0)]
    widths[axis] = (0, -matrix.shape[axis] % unit)
    return np.pad(matrix, widths)


def _blocks(matrix: NDArray[np.int8], axis: int, unit: int) -> list[NDArray[np.int8]]:
    """The matrix cut along an axis into pieces of `unit`, the last one padded with zeros."""
    padded = _padded(matrix, axis, unit)
    return np.split(padded, padded.shape[axis] // unit, axis=axis)
