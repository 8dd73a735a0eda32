"""How many clocks each unit of the accelerator needs for its part of a step: array, load units, store unit.

The loops whose trip counts these formulas are stand in `hls/templates/`: compute.hpp, load_unit.hpp, store.hpp. All
functions take and give int64 columns, one element a tile, and none of them knows about the steps around it.

*Array, overlapped* (what is built; docs/architecture.md derives it, `pe_model` proves it):
`(blocks - 1) * spacing + T + rows` weight-stationary, `(blocks - 1) * spacing + T + rows - 1` output-stationary, where T is what
streams (tile_m or tile_k) and the spacing of blocks is T, but at least `rows` (and 8).

*Array, nothing overlapped*: each block takes all its phases before the next begins.
Skewed, as in most papers: operands enter staggered along both edges, so a block takes `rows` to preload (or to drain), T to stream,
`rows - 1` and `cols - 1` for the stagger: 2 rows + cols + T - 2 in both dataflows.
Broadcast, as this array's PEs are wired: `rows` to preload, T to stream, rows - 1 until the last sum is out: 2 rows + T - 1
weight-stationary; T + rows - 1 output-stationary, whose sums leave while the last of them forms.

*Load, straight*: a bus word holds `bus / segment` segments, and one segment is written a clock.
*Load, turned*: panels of `segment` lines and a line buffer's width are filled (one bus word a clock) and drained (one byte column a
clock), one filling while the one before drains. A panel that is as wide as the buffer drains in `LINE_WORDS * bus` clocks and its
successor fills in at most `segment * LINE_WORDS`, which is not more; so only the last panel of each line group, which may be
narrow, can be outlasted by the filling of the next.

*Store*: scales and bias come one float a clock. Then row by row: the old row is read if C accumulates, then `lanes` columns a clock
are finished while the row before is written (`lanes` are those of the epilogue, but no more than a bus word of C holds; so writing is
never the longer of the two).

*QUANTIZE*: see `quantize_times`.

Each transfer waits one latency, and is bound by the requests in flight (`dram.DramModel.request_clocks`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray
from systolora.hls.config import FLOAT_BYTES, MIN_TILE_CLOCKS, ArrayConfig
from systolora.hls.generate import LINE_WORDS
from systolora.hls.isa import Dataflow, ScaleMode

from .columns import GemmColumns, ceil_div
from .dram import DramModel

Ints = NDArray[np.int64]


class ArrayKind(Enum):
    """Which array is modelled; the words are those of the module's text."""

    OVERLAPPED = "overlapped"
    SERIAL_SKEWED = "serial, skewed"
    SERIAL_BROADCAST = "serial, broadcast"


@dataclass(frozen=True)
class Transfer:
    """What a unit does with one tile.

    Attributes:
        clocks: until it is done, if device memory is as fast as the port.
        moved: bytes that device memory moves for it.
    """

    clocks: Ints
    moved: Ints


@dataclass(frozen=True)
class ArrayWork:
    """Array clocks of one tile, and what they consist of.

    Attributes:
        cycles, busy: as in `counts.ArrayTime`.
        weight_reads: words read from the weight memory.
        updates: words of the output memory that are stored or added to.
    """

    cycles: Ints
    busy: Ints
    weight_reads: Ints
    updates: Ints


def array_work(
    config: ArrayConfig, kind: ArrayKind, dataflow: Ints, tile_m: Ints, tile_n: Ints, tile_k: Ints
) -> ArrayWork:
    """The array's work on tiles of tile_m x tile_k x tile_n."""
    rows = config.rows
    stationary = dataflow == Dataflow.WEIGHT_STATIONARY
    column_blocks = ceil_div(tile_n, config.cols)
    blocks = column_blocks * ceil_div(np.where(stationary, tile_k, tile_m), rows)
    stream = np.where(stationary, tile_m, tile_k)
    if kind is ArrayKind.OVERLAPPED:
        spacing = np.maximum(stream, np.where(stationary, max(rows, MIN_TILE_CLOCKS), rows))
        cycles = (blocks - 1) * spacing + stream + rows - np.where(stationary, 0, 1)
    elif kind is ArrayKind.SERIAL_SKEWED:
        cycles = blocks * (2 * rows + config.cols + stream - 2)
    else:
        cycles = blocks * (stream + rows - 1 + np.where(stationary, rows, 0))
    busy = blocks * stream
    weight_reads = np.where(stationary, blocks * rows, busy)
    return ArrayWork(cycles, busy, weight_reads, np.where(stationary, busy, column_blocks * tile_m))


def _load_clocks(lines: Ints, length: Ints, turned: NDArray[np.bool_], segment: int, bus: int) -> Ints:
    """Clocks of a load unit for `lines` stored rows of `length` bytes, device memory aside."""
    words = ceil_div(length, bus)
    panels = ceil_div(words, LINE_WORDS)
    first_words = np.minimum(words, LINE_WORDS)
    last_length = length - (panels - 1) * LINE_WORDS * bus
    groups = ceil_div(lines, segment)
    last_lines = lines - (groups - 1) * segment
    between = np.maximum(groups - 2, 0) * np.maximum(last_length, segment * first_words)
    between += np.where(groups > 1, np.maximum(last_length, last_lines * first_words), 0)
    turning = np.minimum(lines, segment) * first_words + groups * (panels - 1) * LINE_WORDS * bus
    return np.where(turned, turning + between + last_length, lines * words * (bus // segment))


def _load(dram: DramModel, clocks: Ints, lines: Ints, words: Ints, requests: Ints) -> Transfer:
    bound = np.maximum(clocks, dram.request_clocks(requests, lines * words))
    return Transfer(dram.latency + bound, dram.moved_bytes(lines, words))


def load_input(config: ArrayConfig, dram: DramModel, c: GemmColumns, tile_m: Ints, tile_k: Ints) -> Transfer:
    """Loading an A tile. Of patches all are counted: a pixel that does not exist takes a clock too."""
    transposed = c.transpose_a == 1
    lines, length = np.where(transposed, tile_k, tile_m), np.where(transposed, tile_m, tile_k)
    turned = transposed == (c.dataflow == Dataflow.WEIGHT_STATIONARY)
    words = ceil_div(length, config.bus_bytes)
    # A run of patches ends with the channels of its pixel.
    runs = np.where(c.channels > 0, ceil_div(length, np.maximum(c.channels, 1)), 1)
    requests = np.maximum(dram.requests(lines, words), lines * runs)
    clocks = _load_clocks(lines, length, turned, config.input_segment, config.bus_bytes)
    return _load(dram, clocks, lines, words, requests)


def load_weight(config: ArrayConfig, dram: DramModel, c: GemmColumns, tile_n: Ints, tile_k: Ints) -> Transfer:
    """Loading a B tile."""
    turned = c.transpose_b == 1
    lines, length = np.where(turned, tile_n, tile_k), np.where(turned, tile_k, tile_n)
    words = ceil_div(length, config.bus_bytes)
    clocks = _load_clocks(lines, length, turned, config.weight_segment, config.bus_bytes)
    return _load(dram, clocks, lines, words, dram.requests(lines, words))


def vector_words(config: ArrayConfig, c: GemmColumns, tile_m: Ints, tile_n: Ints) -> Ints:
    """Bus words of scales and bias of a C tile."""

    def words(mode: Ints, length: Ints) -> Ints:
        per_vector = ceil_div(FLOAT_BYTES * length, config.bus_bytes)
        return np.where(mode == ScaleMode.VECTOR, per_vector, (mode == ScaleMode.TENSOR).astype(np.int64))

    return words(c.scale_a, tile_m) + words(c.scale_b, tile_n) + words(c.bias * int(ScaleMode.VECTOR), tile_n)


def result_words(config: ArrayConfig, c: GemmColumns, tile_m: Ints, tile_n: Ints) -> Ints:
    """Bus words of a C tile."""
    return tile_m * ceil_div(tile_n * c.result_bytes, config.bus_bytes)


def store(config: ArrayConfig, dram: DramModel, c: GemmColumns, tile_m: Ints, tile_n: Ints) -> Transfer:
    """Epilogue and storing of a C tile."""
    vectors = vector_words(config, c, tile_m, tile_n)
    row_words = ceil_div(tile_n * c.result_bytes, config.bus_bytes)
    lanes = np.minimum(config.epilogue_width, config.bus_bytes // c.result_bytes)
    row = ceil_div(tile_n, lanes) + c.accumulate * row_words
    requests = (1 + c.accumulate) * dram.requests(tile_m, row_words)
    moving = np.maximum(
        tile_m * row + row_words, dram.request_clocks(requests, (1 + c.accumulate) * tile_m * row_words)
    )
    waits = (c.scale_a > 0).astype(np.int64) + (c.scale_b > 0) + c.bias + c.accumulate + 1
    moved = vectors * config.bus_bytes + (1 + c.accumulate) * dram.moved_bytes(tile_m, row_words)
    return Transfer(waits * dram.latency + vectors * (config.bus_bytes // FLOAT_BYTES) + moving, moved)


def fetch_clocks(config: ArrayConfig, dram: DramModel, instruction_bytes: int) -> int:
    """Fetching and decoding one instruction: one latency, its words, and a clock for each of its sixteen fields words."""
    return dram.latency + instruction_bytes // config.bus_bytes + instruction_bytes // 8
