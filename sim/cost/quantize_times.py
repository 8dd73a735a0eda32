"""How long a QUANTIZE takes.

    cycles = fetch + column factors + pass 1 + scales + pass 2

A pass goes through the rows in parts of one line buffer. While one part is read, the one before is worked on, `lanes` columns a
clock; in pass 2 the one before that is written. Working takes at least as long as reading or writing does, so a pass takes one
latency, the reading of the first part, the working on all of them, and (pass 2) the writing of the last, unless the requests in
flight or the bandwidth of device memory take longer. Scales come out one a clock; factors go in one a clock.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from systolora.hls.check import SOURCE_BYTES, scale_count
from systolora.hls.config import FLOAT_BYTES
from systolora.hls.generate import LINE_WORDS
from systolora.hls.isa import INSTRUCTION_BYTES, Quantize
from systolora.sim.functional.counts import ceil_div

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


def quantize_time(machine: Machine, op: Quantize) -> QuantizeTime:
    """Clocks of a QUANTIZE whose input is finite."""
    config, dram = machine.config, machine.dram
    bus, latency = config.bus_bytes, dram.latency
    size = SOURCE_BYTES[op.source]
    part = LINE_WORDS * bus // size
    row_words, result_row = ceil_div(op.n * size, bus), ceil_div(op.n, bus)
    working = op.m * ceil_div(op.n, epilogue_lanes(config))
    first_part = ceil_div(min(op.n, part) * size, bus)
    last_part = ceil_div((op.n - 1) % part + 1, bus)
    rows = np.int64(op.m)
    reads, writes = (dram.requests(rows, np.int64(words)) for words in (row_words, result_row))
    read_bound = int(dram.request_clocks(reads, rows * row_words))
    write_bound = int(dram.request_clocks(writes, rows * result_row))
    read_bytes, write_bytes = (dram.moved_bytes(rows, np.int64(words)) for words in (row_words, result_row))
    scales = scale_count(op)
    factor_words = ceil_div(FLOAT_BYTES * op.n, bus) if op.multiply else 0
    find = latency + max(first_part + working, read_bound)
    store = latency + max(first_part + working + last_part, read_bound, write_bound)
    return QuantizeTime(
        fetch=fetch_clocks(config, dram, INSTRUCTION_BYTES),
        factors=latency + factor_words * (bus // FLOAT_BYTES) if op.multiply else 0,
        find=max(find, int(dram.shared_clocks(read_bytes))),
        scales=latency + scales + ceil_div(FLOAT_BYTES * scales, bus),
        store=max(store, int(dram.shared_clocks(read_bytes + write_bytes))),
    )
