"""How long a QUANTIZE takes.

    cycles = fetch + column factors + pass 1 + scales + pass 2        or, with rows that are kept, no pass 1

A pass goes through the matrix in pieces (`PieceShape`: some whole rows, or a part of one), a piece a round. While a piece is worked
on, a step of `lanes` columns a clock, the integers of the one before are written. Reading is part of the work, with requests ahead of
data: a step waits for a bus word at most, and each word has a step. With rows that are kept the piece that is made integers is the
one read a row's pieces before (`across`), so the pass takes as many rounds more. Each round also fills the pipelines of the work.

A pass takes one latency for its first word, its rounds, and another for the answer to its last, unless the rate of a port, its requests in
flight or the bandwidth of device memory take longer. Scales come out one a clock, then in bus words; factors go in by segments of the output memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from systolora.hls.check import SOURCE_BYTES, scale_count
from systolora.hls.config import FLOAT_BYTES, MIN_TILE_CLOCKS, ArrayConfig
from systolora.hls.isa import INSTRUCTION_BYTES, Axis, Quantize
from systolora.hls.lanes import PIECE_ROWS
from systolora.sim.functional.counts import ceil_div, count_instruction, rows_kept

from .energy import Work
from .tile_times import Machine
from .unit_times import fetch_clocks

FILL_CLOCKS = 45
"""From the first step of a round to its last result, start and end of the loop included: two float products, a sum and rounding, or a
product, the maximum and a division. Judgement, not a measurement: no tool has scheduled the loop."""


@dataclass(frozen=True)
class QuantizeTime:
    """Clocks of a QUANTIZE by phase, one after the other; `find` is zero if rows are kept."""

    fetch: int
    factors: int
    find: int
    scales: int
    store: int

    @property
    def cycles(self) -> int:
        """Clocks of all phases."""
        return self.fetch + self.factors + self.find + self.scales + self.store


@dataclass(frozen=True)
class PieceShape:
    """How a matrix is cut: pieces of `rows` whole rows (across = 1), or of `columns` of one row, `across` of them."""

    rows: int
    columns: int
    across: int


def piece_shape(config: ArrayConfig, op: Quantize) -> PieceShape:
    """The pieces of a QUANTIZE, as pieces.hpp cuts them."""
    bus, size, words = config.bus_bytes, SOURCE_BYTES[op.source], config.piece_words
    most = words * bus // size
    if op.n > most:
        return PieceShape(1, most, ceil_div(op.n, most))
    read, written = words // ceil_div(op.n * size, bus), words // 2 // ceil_div(op.n, bus)
    return PieceShape(min(read, written, PIECE_ROWS), op.n, 1)


def lanes_used(config: ArrayConfig, op: Quantize) -> int:
    """Columns that QUANTIZE takes in a clock: its lanes, but no more than a bus word holds."""
    return min(config.quantize_width, config.bus_bytes // SOURCE_BYTES[op.source])


@dataclass(frozen=True)
class Sides:
    """Clocks for a whole piece, and for the last one of a row (or of the matrix, if pieces are rows)."""

    full: int
    last: int


def pass_clocks(lines: int, pieces: int, work: Sides, write: Sides, delay: int) -> tuple[int, int]:
    """Clocks and number of the rounds of a pass over `lines` rows of `pieces` pieces, whose integers are made `delay` rounds later.

    Pieces of whole rows are one line. A piece is never written in more clocks than it is worked on, so writing shows where a last
    piece is worked on while a whole one is written, and behind the last. `delay` is 0 or `pieces`, or 1 if there is one line.
    """
    rounds = lines * pieces + delay + (1 if write.last else 0)
    short = max(work.last, write.full if pieces > 1 else 0)
    if lines == 1 and delay <= 1:
        # One more round at the end of the line if what is made integers was read before: it is the last piece's.
        first = (work.full if pieces > 1 else work.last) if delay else 0
        return first + (pieces - 1) * work.full + short + write.last, rounds
    # The first line of a pass with kept rows is only read, so nothing is written beside its last piece.
    read_only = (pieces - 1) * work.full + work.last if delay else 0
    return read_only + lines * ((pieces - 1) * work.full + short) + write.last, rounds


def quantize_time(machine: Machine, op: Quantize) -> QuantizeTime:
    """Clocks of a QUANTIZE whose input is finite."""
    config, dram = machine.config, machine.dram
    bus, kept, scales = config.bus_bytes, rows_kept(config, op), scale_count(op)
    store = _pass_time(machine, op, measures=kept, converts=True)
    factor_clocks = ceil_div(FLOAT_BYTES * op.n, bus) * (bus // FLOAT_BYTES // config.output_segment)
    return QuantizeTime(
        fetch=fetch_clocks(config, dram, INSTRUCTION_BYTES),
        factors=dram.latency + factor_clocks if op.multiply else 0,
        find=0 if kept else _pass_time(machine, op, measures=True, converts=False),
        scales=dram.latency + scales + ceil_div(FLOAT_BYTES * scales, bus),
        store=store,
    )


def _pass_time(machine: Machine, op: Quantize, *, measures: bool, converts: bool) -> int:
    config, dram = machine.config, machine.dram
    bus, size, lanes = config.bus_bytes, SOURCE_BYTES[op.source], lanes_used(config, op)
    shape = piece_shape(config, op)
    lines, pieces = (1, ceil_div(op.m, shape.rows)) if shape.across == 1 else (op.m, shape.across)
    rows = (shape.rows, op.m - (pieces - 1) * shape.rows) if shape.across == 1 else (1, 1)
    columns = (shape.columns, op.n - (shape.across - 1) * shape.columns)
    fewest = MIN_TILE_CLOCKS if op.axis == Axis.COLUMN and measures else 1
    work = Sides(*(count * max(fewest, ceil_div(width, lanes)) for count, width in zip(rows, columns, strict=True)))
    write = Sides(*(count * ceil_div(width, bus) for count, width in zip(rows, columns, strict=True)))
    delay = shape.across if measures and converts else 0
    clocks, rounds = pass_clocks(lines, pieces, work, write if converts else Sides(0, 0), delay)
    bounds = [clocks + rounds * FILL_CLOCKS]
    moved = 0
    for row_bytes, stride in ((op.n * size, op.a_stride), (op.n, op.c_stride))[: 2 if converts else 1]:
        words = ceil_div(row_bytes, bus)
        # Rows without gaps between them are asked for as one long row.
        runs, run_words = (1, op.m * words) if stride <= words * bus else (op.m, words)
        requests = dram.requests(np.int64(runs), np.int64(run_words))
        bounds.append(int(dram.transfer_clocks(requests, np.int64(runs * run_words))))
        moved += int(dram.moved_bytes(np.int64(runs), np.int64(run_words)))
    return max(dram.latency * (2 if converts else 1) + max(bounds), int(dram.shared_clocks(np.int64(moved))))


def quantize_work(config: ArrayConfig, op: Quantize) -> Work:
    """What a QUANTIZE whose input is finite is paid for in energy.

    Device memory is what the counters count. On chip the integers go into a buffer and out of it, and so do rows that are kept; a
    column's own magnitude is read and written in the first pass and read in the second, its factor read in each, 4 bytes each.
    """
    counters = count_instruction(config, op)
    kept = rows_kept(config, op)
    values = op.m * op.n
    own = (3 if op.axis == Axis.COLUMN else 0) + ((1 if kept else 2) if op.multiply else 0)
    buffered = counters.quantized_words + (counters.source_words if kept else 0)
    return Work(
        elements=values,
        sram_bytes=2 * config.bus_bytes * buffered + FLOAT_BYTES * own * values,
        dram_bytes=config.bus_bytes * (counters.words_read + counters.words_written),
    )
