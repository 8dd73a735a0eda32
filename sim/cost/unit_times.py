"""How many clocks each unit of the accelerator needs for its part of a step: array, load units, store unit.

The loops whose trip counts these formulas are stand in `hls/templates/`: compute.hpp, load_unit.hpp, store.hpp. All
functions take and give int64 columns, one element a tile, and none of them knows about the steps around it.

*Array, overlapped* (what is built; docs/architecture.md derives it, `pe_model` proves it):
`(blocks - 1) * spacing + T + rows + 2` weight-stationary, where T = tile_m streams and the spacing of blocks is T, but at least `rows`
(and 8). Output-stationary T is tile_k in whole bands, blocks are of `stationary_rows` rows of C, which is also the least spacing, and the
last block ends `counts.stationary_end` after its T.

*Array, nothing overlapped*: each block takes all its phases before the next begins.
Skewed, as in most papers: operands enter staggered along both edges, so a block takes `rows` to preload (or to drain), T to stream,
`rows - 1` and `cols - 1` for the stagger: 2 rows + cols + T - 2 in both dataflows.
Broadcast, as PEs are wired that all get the same word in the same clock: `rows` to preload, T to stream, rows - 1 until the last sum is out: 2 rows + T - 1
weight-stationary; T + rows - 1 output-stationary, whose sums leave while the last of them forms.

*Load, straight*: one loop over the tile's bus words. A bus word holds `bus / segment` segments, and one segment is written a clock.
*Load, turned*: panels of `segment` lines and a line buffer's width are filled (one bus word a clock) and drained (one byte column a
clock), one filling while the one before drains. A panel that is as wide as the buffer drains in `TURN_WORDS * bus` clocks and its
successor fills in at most `segment * TURN_WORDS`, which is not more; so only the last panel of each line group, which may be
narrow, can be outlasted by the filling of the next. Each panel is a call of its own.
Either way seven runs are asked for first, one a clock, and the data loop begins; then runs are asked for as others begin. The first
word comes a latency after the first request.

*Store*: scales and bias come one float a clock. Then one loop takes `lanes` columns a clock (those of the epilogue, but no more than a
bus word of C holds), row after row, with the old words where C accumulates, and writes a bus word whenever one is full. Columns come in
groups (`group_columns`), each with its own scales and bias. Answers of writes trail; the last is awaited at the end of the tile, a
latency after its last word.

*QUANTIZE*: see `quantize_times`.

Each transfer waits one latency, and is bound by its port: its rate and its requests in flight (`dram.DramModel.transfer_clocks`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray
from systolora.hls.config import FLOAT_BYTES, MIN_TILE_CLOCKS, ArrayConfig
from systolora.hls.design import REQUESTS_IN_FLIGHT
from systolora.hls.generate import TURN_WORDS, group_columns
from systolora.hls.isa import Dataflow, ScaleMode
from systolora.sim.functional.counts import stationary_end

from .columns import GemmColumns, ceil_div
from .dram import DramModel

Ints = NDArray[np.int64]

CALL_CLOCKS = 16
"""What a call of a loop takes beyond its turns: address of the first request, filling and emptying the pipeline. Never measured:
public Vitis HLS schedules show 7 to 8 states for a request without `latency=` and about as many stages for a copying loop."""


EPILOGUE_CLOCKS = 40
"""The same of the loop that finishes and writes a group of columns: a conversion, three products, two sums. Never measured; operators
of four to six clocks each, as public Vitis HLS schedules show them at 200 MHz."""


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
    rows, standing, band = config.rows, config.stationary_rows, config.band_rows
    stationary = dataflow == Dataflow.WEIGHT_STATIONARY
    column_blocks = ceil_div(tile_n, config.cols)
    if kind is ArrayKind.OVERLAPPED:
        blocks = column_blocks * np.where(stationary, ceil_div(tile_k, rows), ceil_div(tile_m, standing))
        stream = np.where(stationary, tile_m, ceil_div(tile_k, band) * band)
        spacing = np.maximum(stream, np.where(stationary, max(rows, MIN_TILE_CLOCKS), standing))
        cycles = (blocks - 1) * spacing + stream + np.where(stationary, rows + 2, stationary_end(config))
        busy = blocks * stream
        weight_reads = np.where(stationary, blocks * rows, busy)
        return ArrayWork(cycles, busy, weight_reads, np.where(stationary, busy, column_blocks * tile_m))
    blocks = column_blocks * ceil_div(np.where(stationary, tile_k, tile_m), rows)
    stream = np.where(stationary, tile_m, tile_k)
    if kind is ArrayKind.SERIAL_SKEWED:
        cycles = blocks * (2 * rows + config.cols + stream - 2)
    else:
        cycles = blocks * (stream + rows - 1 + np.where(stationary, rows, 0))
    busy = blocks * stream
    weight_reads = np.where(stationary, blocks * rows, busy)
    return ArrayWork(cycles, busy, weight_reads, np.where(stationary, busy, column_blocks * tile_m))


def _load_clocks(lines: Ints, length: Ints, turned: NDArray[np.bool_], segment: int, bus: int) -> Ints:
    """Clocks of a load unit for `lines` stored rows of `length` bytes, device memory aside."""
    words = ceil_div(length, bus)
    panels = ceil_div(words, TURN_WORDS)
    first_words = np.minimum(words, TURN_WORDS)
    last_length = length - (panels - 1) * TURN_WORDS * bus
    groups = ceil_div(lines, segment)
    last_lines = lines - (groups - 1) * segment
    between = np.maximum(groups - 2, 0) * np.maximum(last_length, segment * first_words)
    between += np.where(groups > 1, np.maximum(last_length, last_lines * first_words), 0)
    turning = np.minimum(lines, segment) * first_words + groups * (panels - 1) * TURN_WORDS * bus
    calls = groups * panels + 1
    straight = lines * words * (bus // segment)
    return np.where(turned, turning + between + last_length + calls * CALL_CLOCKS, straight + CALL_CLOCKS)


def _load(dram: DramModel, clocks: Ints, lines: Ints, words: Ints, requests: Ints) -> Transfer:
    """A load begins when its first word is there, but not before the requests that run ahead are made."""
    start = max(dram.latency, REQUESTS_IN_FLIGHT - 1) + CALL_CLOCKS
    bound = np.maximum(clocks, dram.transfer_clocks(requests, lines * words))
    return Transfer(start + bound, dram.moved_bytes(lines, words))


def load_input(config: ArrayConfig, dram: DramModel, c: GemmColumns, tile_m: Ints, tile_k: Ints) -> Transfer:
    """Loading an A tile. Of patches all are counted: a pixel that does not exist takes a clock too."""
    transposed = c.transpose_a == 1
    lines, length = np.where(transposed, tile_k, tile_m), np.where(transposed, tile_m, tile_k)
    turned = transposed
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
    row = np.maximum(ceil_div(tile_n, lanes), row_words)
    groups = ceil_div(tile_n, np.int64(group_columns(config)))
    # Reads and writes have channels of their own, so each has its own rate and requests in flight.
    # Of two ports each has every second row.
    rows = ceil_div(tile_m, config.output_ports)
    bound = dram.transfer_clocks(dram.requests(rows, row_words), rows * row_words)
    scales = (c.scale_a > 0) + np.where(c.scale_b == ScaleMode.VECTOR, groups, c.scale_b > 0)
    waits = scales + groups * (c.bias + c.accumulate) + 1
    vector_clocks = vectors * (config.bus_bytes // FLOAT_BYTES)
    moving = np.maximum(tile_m * row + groups * EPILOGUE_CLOCKS, bound)
    moved = vectors * config.bus_bytes + (1 + c.accumulate) * dram.moved_bytes(tile_m, row_words)
    return Transfer(waits * (dram.latency + CALL_CLOCKS) + vector_clocks + moving, moved)


def fetch_clocks(config: ArrayConfig, dram: DramModel, instruction_bytes: int) -> int:
    """Fetching and decoding one instruction: one latency, its words, and a clock for each of its sixteen fields words."""
    return dram.latency + instruction_bytes // config.bus_bytes + instruction_bytes // 8
