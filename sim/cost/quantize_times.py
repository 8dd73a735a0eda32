"""How long a QUANTIZE takes.

    cycles = fetch + column factors + pass 1 + scales + pass 2

A pass goes through the rows in parts of one line buffer, in rounds: while one part is read, the one before it is worked on, `lanes`
columns a clock; in pass 2 the one before that is written. A round takes as long as the longest of the three, and a row's last part
may be short, so what is read beside it is not hidden behind it. A pass takes one latency and all of its rounds, unless the requests
in flight or the bandwidth of device memory take longer. Scales come out one a clock; factors go in one a clock.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from systolora.hls.check import SOURCE_BYTES, scale_count
from systolora.hls.config import FLOAT_BYTES, ArrayConfig
from systolora.hls.generate import LINE_WORDS
from systolora.hls.isa import INSTRUCTION_BYTES, Axis, Quantize
from systolora.sim.functional.counts import ceil_div, count_instruction

from .energy import Work
from .tile_times import Machine
from .unit_times import epilogue_lanes, fetch_clocks


@dataclass(frozen=True)
class QuantizeTime:
    """Clocks of a QUANTIZE by phase, one after the other."""

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
class Sides:
    """Clocks of one unit for a whole part and for a row's last part, which may be shorter."""

    full: int
    last: int

    def at(self, place: int, parts: int) -> int:
        """For the part at a place of its row; places before the row are those of the row before."""
        return self.last if place % parts == parts - 1 else self.full


def rounds_clocks(rows: int, parts: int, read: Sides, work: Sides, write: Sides) -> int:
    """Clocks of a pass over `rows` rows of `parts` parts, of which one is read, one worked on and one written in each round."""

    def clocks(place: int, reads: bool, works: bool, writes: bool) -> int:
        return max(
            read.at(place, parts) if reads else 0,
            work.at(place - 1, parts) if works else 0,
            write.at(place - 2, parts) if writes else 0,
        )

    total = rows * parts
    # Filling: two rounds in which something is missing. Emptying: two more.
    edges = (
        clocks(0, True, False, False) + clocks(total, False, True, total > 1) + clocks(total + 1, False, False, True)
    )
    if total > 1:
        edges += clocks(1, True, True, False)
    places = dict.fromkeys(range(min(parts, 3)), 1)
    if parts > 3:
        places[parts - 1] = 1
    if parts > 4:
        places[3] = parts - 4  # as good as every place between: whole parts on all sides
    inside = 0
    for place, alike in places.items():
        missing = sum(1 for first in range(min(2, total)) if first % parts == place)
        inside += (rows * alike - missing) * clocks(place, True, True, True)
    return edges + inside


def quantize_time(machine: Machine, op: Quantize) -> QuantizeTime:
    """Clocks of a QUANTIZE whose input is finite."""
    config, dram = machine.config, machine.dram
    bus, latency = config.bus_bytes, dram.latency
    size = SOURCE_BYTES[op.source]
    part = LINE_WORDS * bus // size
    row_words, result_row = ceil_div(op.n * size, bus), ceil_div(op.n, bus)
    parts = ceil_div(op.n, part)
    counts = (min(op.n, part), op.n - (parts - 1) * part)
    read = Sides(*(ceil_div(count * size, bus) for count in counts))
    work = Sides(*(ceil_div(count, epilogue_lanes(config)) for count in counts))
    write = Sides(*(ceil_div(count, bus) for count in counts))
    rows = np.int64(op.m)
    reads, writes = (dram.requests(rows, np.int64(words)) for words in (row_words, result_row))
    read_bound = int(dram.request_clocks(reads, rows * row_words))
    write_bound = int(dram.request_clocks(writes, rows * result_row))
    read_bytes, write_bytes = (dram.moved_bytes(rows, np.int64(words)) for words in (row_words, result_row))
    scales = scale_count(op)
    factor_words = ceil_div(FLOAT_BYTES * op.n, bus) if op.multiply else 0
    find = latency + max(rounds_clocks(op.m, parts, read, work, Sides(0, 0)), read_bound)
    store = latency + max(rounds_clocks(op.m, parts, read, work, write), read_bound, write_bound)
    return QuantizeTime(
        fetch=fetch_clocks(config, dram, INSTRUCTION_BYTES),
        factors=latency + factor_words * (bus // FLOAT_BYTES) if op.multiply else 0,
        find=max(find, int(dram.shared_clocks(read_bytes))),
        scales=latency + scales + ceil_div(FLOAT_BYTES * scales, bus),
        store=max(store, int(dram.shared_clocks(read_bytes + write_bytes))),
    )


def quantize_work(config: ArrayConfig, op: Quantize) -> Work:
    """What a QUANTIZE whose input is finite is paid for in energy.

    Device memory is what the counters count. On chip each word read goes into a line buffer and out of it; a column's own
    magnitude is read and written in the first pass and read in the second, its factor read in both, 4 bytes each.
    """
    counters = count_instruction(config, op)
    values = op.m * op.n
    own = (3 if op.axis == Axis.COLUMN else 0) + (2 if op.multiply else 0)
    return Work(
        elements=values,
        sram_bytes=2 * config.bus_bytes * (counters.source_words + counters.quantized_words)
        + FLOAT_BYTES * own * values,
        dram_bytes=config.bus_bytes * (counters.words_read + counters.words_written),
    )
