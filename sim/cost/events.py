"""A program step by step: when each unit works on what, for traces that Perfetto and chrome://tracing show.

The steps come from the controller's sequence (`counts.tile_steps`), one after the other, and the times of their parts from
`tile_times`. So the ends of the instructions are a second way to what `performance` has in closed form, and equal it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray
from systolora.hls.check import SOURCE_BYTES
from systolora.hls.config import ArrayConfig
from systolora.hls.generate import LINE_WORDS
from systolora.hls.isa import INSTRUCTION_BYTES, End, Gemm, Instruction, Quantize
from systolora.sim.functional.counts import TileStep, tile_steps

from .columns import GemmColumns
from .quantize_times import quantize_time
from .tile_times import BOTH, FULL, LAST, Machine, TileTimes
from .unit_times import Transfer, epilogue_lanes, fetch_clocks

Ints = NDArray[np.int64]

TRACE_MARK = b'{"otherData": {"made_by": "systolora simulate"}'
"""How every trace begins."""

TRACKS = ("instruction", "load input", "load weight", "array", "epilogue and store")
"""The rows of a trace, from top to bottom."""


@dataclass(frozen=True)
class Event:
    """One unit at work, in clocks from the program's start.

    Attributes:
        track: one of TRACKS. name: what it does. instruction: index of the instruction.
    """

    track: str
    name: str
    begin: int
    end: int
    instruction: int


@dataclass(frozen=True)
class _Part:
    """Plain numbers of a `Transfer` of one GEMM."""

    clocks: int
    moved: int


class _GemmTable:
    """The times of one GEMM's tiles as plain numbers, by FULL and LAST."""

    def __init__(self, times: TileTimes, row: int) -> None:
        def part(transfer: Transfer) -> _Part:
            return _Part(int(transfer.clocks[row]), int(transfer.moved[row]))

        self.input = [[part(times.input[i][t]) for t in BOTH] for i in BOTH]
        self.weight = [[part(times.weight[j][t]) for t in BOTH] for j in BOTH]
        self.store = [[part(times.store[i][j]) for j in BOTH] for i in BOTH]
        self.array = [[[int(times.array[i][j][t].cycles[row]) for t in BOTH] for j in BOTH] for i in BOTH]


@dataclass(frozen=True)
class _StepKind:
    m: int
    n: int
    k: int

    @classmethod
    def of(cls, op: Gemm, step: TileStep) -> _StepKind:
        ends = ((step.m1, op.m), (step.n1, op.n), (step.k1, op.k))
        return cls(*(LAST if end == length else FULL for end, length in ends))


def program_events(
    machine: Machine, program: Sequence[Instruction], labels: dict[int, str] | None = None
) -> Iterator[Event]:
    """The events of a program in the order in which its instructions run.

    Args:
        program: instructions that pass the checks; what follows an END is not run.
        labels: names of instructions, by index.
    """
    gemms = [op for op in program if isinstance(op, Gemm)]
    times = TileTimes(machine, GemmColumns.of(machine.config, gemms)) if gemms else None
    clock, gemm = 0, 0
    fetch = fetch_clocks(machine.config, machine.dram, INSTRUCTION_BYTES)
    for index, op in enumerate(program):
        label = (labels or {}).get(index, type(op).__name__.upper())
        begin = clock
        if isinstance(op, Gemm) and times is not None:
            for event in _gemm_events(machine, op, _GemmTable(times, gemm), index, clock + fetch):
                clock = max(clock, event.end)
                yield event
            gemm += 1
        elif isinstance(op, Quantize):
            for event in _quantize_events(machine, op, index, clock):
                clock = event.end
                yield event
        else:
            clock += fetch
        yield Event("instruction", label, begin, clock, index)
        if isinstance(op, End):
            break


def _gemm_events(machine: Machine, op: Gemm, table: _GemmTable, index: int, clock: int) -> Iterator[Event]:
    bandwidth = machine.dram.bytes_per_clock
    step: TileStep | None = None
    finished: TileStep | None = None
    # Each turn is one step with what runs beside it; the first turn only loads, the last one only stores.
    for following in [*tile_steps(op), None]:
        parts = _parts_of_turn(op, table, step, following, finished)
        moved = sum(part.moved for _, _, part in parts)
        for track, name, part in parts:
            yield Event(track, name, clock, clock + part.clocks, index)
        clock += max(max(part.clocks for _, _, part in parts), ceil(moved / bandwidth))
        finished, step = (step if step is not None and step.last_k else None), following
    if finished is not None:
        ((track, name, part),) = _parts_of_turn(op, table, None, None, finished)
        yield Event(track, name, clock, clock + max(part.clocks, ceil(part.moved / bandwidth)), index)


def _parts_of_turn(
    op: Gemm, table: _GemmTable, step: TileStep | None, following: TileStep | None, finished: TileStep | None
) -> list[tuple[str, str, _Part]]:
    """What runs at the same time: a step, the loads for the next one, and the store of the tile finished before it."""
    parts = []
    if following is not None:
        kind = _StepKind.of(op, following)
        if following.load_a:
            parts.append(("load input", f"A {_span(following, 'mk')}", table.input[kind.m][kind.k]))
        if following.load_b:
            parts.append(("load weight", f"B {_span(following, 'kn')}", table.weight[kind.n][kind.k]))
    if step is not None:
        kind = _StepKind.of(op, step)
        parts.append(("array", _span(step, "mnk"), _Part(table.array[kind.m][kind.n][kind.k], 0)))
    if finished is not None:
        kind = _StepKind.of(op, finished)
        parts.append(("epilogue and store", f"C {_span(finished, 'mn')}", table.store[kind.m][kind.n]))
    return parts


def _span(step: TileStep, axes: str) -> str:
    return " ".join(f"{axis}{getattr(step, axis + '0')}:{getattr(step, axis + '1')}" for axis in axes)


def _quantize_events(machine: Machine, op: Quantize, index: int, clock: int) -> Iterator[Event]:
    """A QUANTIZE by its phases; the two passes are summed up round by round, part by part, not by `quantize_times`' closed form."""
    time = quantize_time(machine, op)
    reads, works, writes = _part_clocks(machine, op)
    find, store = _round_clocks(reads, works), _round_clocks(reads, works, writes)
    bound = machine.dram.latency
    phases = (
        ("load input", "column factors", time.factors),
        ("load input", "pass 1: largest magnitudes", max(bound + find, _memory_clocks(machine, op, written=False))),
        ("epilogue and store", "scales", time.scales),
        ("epilogue and store", "pass 2: integers", max(bound + store, _memory_clocks(machine, op, written=True))),
    )
    clock += time.fetch
    for track, name, clocks in phases:
        if clocks:
            yield Event(track, name, clock, clock + clocks, index)
            clock += clocks


def _part_clocks(machine: Machine, op: Quantize) -> tuple[Ints, Ints, Ints]:
    """Clocks to read, work on and write each part, in the order of the parts; int64 [parts] each."""
    config = machine.config
    size, bus = SOURCE_BYTES[op.source], config.bus_bytes
    starts = np.arange(0, op.n, LINE_WORDS * bus // size)
    columns = np.tile(np.diff(np.append(starts, op.n)), op.m)
    return -(-columns * size // bus), -(-columns // epilogue_lanes(config)), -(-columns // bus)


def _round_clocks(*units: Ints) -> int:
    """Sum over rounds of the longest unit; each unit is one part behind the one before it."""
    rounds = np.zeros((len(units), len(units[0]) + len(units) - 1), np.int64)
    for delay, clocks in enumerate(units):
        rounds[delay, delay : delay + len(clocks)] = clocks
    return int(rounds.max(axis=0).sum())


def _memory_clocks(machine: Machine, op: Quantize, written: bool) -> int:
    """Clocks below which device memory does not let a pass come: requests in flight per port, bandwidth for both."""
    dram, bus = machine.dram, machine.config.bus_bytes
    sizes = [op.n * SOURCE_BYTES[op.source], *([op.n] if written else [])]
    words = [-(-size // bus) for size in sizes]
    requests = [op.m * -(-row // dram.burst_words) for row in words]
    waiting = [
        dram.latency + -(-(count * dram.latency + op.m * row) // dram.in_flight)
        for count, row in zip(requests, words, strict=True)
    ]
    moved = sum(op.m * -(-row * bus // dram.access_bytes) * dram.access_bytes for row in words)
    return max(*waiting, ceil(moved / dram.bytes_per_clock))


def render_trace(config: ArrayConfig, events: Sequence[Event], notes: Mapping[str, object] | None = None) -> str:
    """Events as a Chrome trace (JSON object format), which ui.perfetto.dev and chrome://tracing open; 1 us is 1 us.

    `notes` stand in its `metadata`: such as how much of a program the events are.
    """
    head = [
        {"ph": "M", "pid": 1, "tid": tid, "name": "thread_name", "args": {"name": track}}
        for tid, track in enumerate(TRACKS)
    ]
    body = [
        {
            "ph": "X",
            "pid": 1,
            "tid": TRACKS.index(event.track),
            "name": event.name,
            "ts": event.begin / config.clock_mhz,
            "dur": (event.end - event.begin) / config.clock_mhz,
            "args": {"instruction": event.instruction, "begin": event.begin, "clocks": event.end - event.begin},
        }
        for event in events
    ]
    made_by = {"made_by": "systolora simulate"}
    return json.dumps(
        {"otherData": made_by, "metadata": dict(notes or {}), "traceEvents": head + body, "displayTimeUnit": "ns"}
    )
