"""The array PE by PE and clock by clock, in numpy: the same registers as `hls/templates/array.hpp`, for small arrays.

Nothing here knows a formula for cycles. `run_weight_stationary` and `run_output_stationary` feed one tile by the schedule of
docs/architecture.md, section "The array", and count the clocks until its last sum has left; so they are what the formulas of
`counts.array_time` are proved against.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from systolora.hls.config import MIN_TILE_CLOCKS


@dataclass(frozen=True)
class ArrayControl:
    """What the array does in one clock; the fields are those of the C++ struct of the same name."""

    output_stationary: bool
    load_row: int = -1
    swap: bool = False
    first: bool = False
    last: bool = False


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
    """rows x cols PEs and their registers.

    Attributes:
        passing: int8 [rows, rows]; row r is the activation word at row r of the array, of which it uses lane r.
        swapping: bool [rows]; the swap that came with that word.
        active, shadow: int8 [rows, cols]; the weights in use and those that the next swap brings.
        accumulator, moving: int32 [rows, cols]; sums that stay and sums on their way down.
    """

    def __init__(self, rows: int, cols: int) -> None:
        self.rows = rows
        self.cols = cols
        self.passing = np.zeros((rows, rows), np.int8)
        self.swapping = np.zeros(rows, np.bool_)
        self.active = np.zeros((rows, cols), np.int8)
        self.shadow = np.zeros((rows, cols), np.int8)
        self.accumulator = np.zeros((rows, cols), np.int32)
        self.moving = np.zeros((rows, cols), np.int32)

    def step(
        self, input_word: NDArray[np.int8], weight_word: NDArray[np.int8], control: ArrayControl
    ) -> NDArray[np.int32]:
        """One clock.

        Args:
            input_word: int8 [rows]. weight_word: int8 [cols].

        Returns:
            int32 [cols], the moving sums of the bottom row after the clock.
        """
        self.passing = np.concatenate((input_word[np.newaxis], self.passing[:-1]))
        self.swapping = np.concatenate(([control.swap], self.swapping[:-1]))
        self.active = np.where(self.swapping[:, np.newaxis], self.shadow, self.active)
        if control.load_row >= 0:
            self.shadow[control.load_row] = weight_word
        above = np.concatenate((np.zeros((1, self.cols), np.int32), self.moving[:-1]))
        if control.output_stationary:
            self._accumulate(input_word, weight_word, control, above)
        else:
            activation = self.passing.diagonal()[:, np.newaxis].astype(np.int32)
            self.moving = above + activation * self.active
        return self.moving[-1].copy()

    def _accumulate(
        self,
        input_word: NDArray[np.int8],
        weight_word: NDArray[np.int8],
        control: ArrayControl,
        above: NDArray[np.int32],
    ) -> None:
        base = np.int32(0) if control.first else self.accumulator
        self.accumulator = base + np.outer(input_word.astype(np.int32), weight_word)
        self.moving = self.accumulator if control.last else above


def run_weight_stationary(a: NDArray[np.int8], b: NDArray[np.int8], rows: int, cols: int) -> TileRun:
    """One tile, weight-stationary.

    Args:
        a: int8 [tile_m, tile_k]. b: int8 [tile_k, tile_n].
        rows, cols: size of the array; rows run along k, cols along n.
    """
    tile_m, tile_n = a.shape[0], b.shape[1]
    a_blocks, b_blocks = _blocks(a, 1, rows), _blocks(_padded(b, 0, rows), 1, cols)
    row_blocks, blocks = len(a_blocks), len(a_blocks) * len(b_blocks)
    spacing = max(tile_m, rows, MIN_TILE_CLOCKS)
    array = PeArray(rows, cols)
    no_input, no_weight = np.zeros(rows, np.int8), np.zeros(cols, np.int8)
    c = np.zeros((len(b_blocks), tile_m, cols), np.int32)
    clock = busy = stored = 0
    while stored < blocks * tile_m:
        # Block i preloads row r of its weights at clock i * spacing + r; its first activation enters one clock after row 0.
        load_block, row = divmod(clock, spacing)
        loads = load_block < blocks and row < rows
        feed_block, m = divmod(clock - 1, spacing)
        feeds = 0 <= feed_block < blocks and m < tile_m
        column_block, row_block = divmod(load_block, row_blocks)
        bottom = array.step(
            a_blocks[feed_block % row_blocks][m] if feeds else no_input,
            b_blocks[column_block][row_block * rows + row] if loads else no_weight,
            ArrayControl(False, load_row=row if loads else -1, swap=feeds and m == 0),
        )
        busy += feeds
        # What is at the bottom now entered rows - 1 clocks ago.
        sum_block, m = divmod(clock - 1 - (rows - 1), spacing)
        if 0 <= sum_block < blocks and m < tile_m:
            c[sum_block // row_blocks, m] += bottom
            stored += 1
        clock += 1
    return TileRun(np.concatenate(c, axis=1)[:, :tile_n], clock, busy)


def run_output_stationary(a: NDArray[np.int8], b: NDArray[np.int8], rows: int, cols: int) -> TileRun:
    """One tile, output-stationary.

    Args:
        a: int8 [tile_m, tile_k]. b: int8 [tile_k, tile_n].
        rows, cols: size of the array; rows run along m, cols along n.
    """
    tile_m, tile_k, tile_n = *a.shape, b.shape[1]
    a_blocks, b_blocks = _blocks(a.T, 1, rows), _blocks(b, 1, cols)
    row_blocks, blocks = len(a_blocks), len(a_blocks) * len(b_blocks)
    spacing = max(tile_k, rows)
    array = PeArray(rows, cols)
    no_input, no_weight = np.zeros(rows, np.int8), np.zeros(cols, np.int8)
    c = np.zeros((len(b_blocks), row_blocks * rows, cols), np.int32)
    clock = busy = stored = 0
    while stored < blocks * rows:
        block, k = divmod(clock, spacing)
        feeds = block < blocks and k < tile_k
        column_block, row_block = divmod(block, row_blocks)
        bottom = array.step(
            a_blocks[row_block][k] if feeds else no_input,
            b_blocks[column_block][k] if feeds else no_weight,
            ArrayControl(True, first=feeds and k == 0, last=feeds and k == tile_k - 1),
        )
        busy += feeds
        # The bottom row leaves at the clock of `last`, the row above it one clock later, and so on.
        drain_block, age = divmod(clock - (tile_k - 1), spacing)
        if drain_block >= 0 and age < rows:
            column_block, row_block = divmod(drain_block, row_blocks)
            c[column_block, row_block * rows + rows - 1 - age] = bottom
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
