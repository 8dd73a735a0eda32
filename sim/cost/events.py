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
from systolora.hls.config import MIN_TILE_CLOCKS, ArrayConfig
from systolora.hls.isa import INSTRUCTION_BYTES, Axis, End, Gemm, Instruction, Quantize
from systolora.sim.functional.counts import TileStep, tile_steps

from .columns import GemmColumns
from .quantize_times import FILL_CLOCKS, lanes_used, piece_shape, quantize_time
from .tile_times import BOTH, FULL, LAST, Machine, TileTimes
from .unit_times import Transfer, fetch_clocks

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
    """A QUANTIZE by its phases; the passes are summed up round by round, piece by piece, not by `quantize_times`' closed form."""
    time = quantize_time(machine, op)
    kept = (
        op.axis == Axis.ROW
        and -(-op.n * SOURCE_BYTES[op.source] // machine.config.bus_bytes) <= machine.config.row_words
    )
    phases = [("load input", "column factors", time.factors)]
    if kept:
        both = _pass_clocks(machine, op, measures=True, converts=True)
        phases += [
            ("epilogue and store", "magnitudes and integers", both),
            ("epilogue and store", "scales", time.scales),
        ]
    else:
        find = _pass_clocks(machine, op, measures=True, converts=False)
        store = _pass_clocks(machine, op, measures=False, converts=True)
        phases += [
            ("load input", "pass 1: largest magnitudes", find),
            ("epilogue and store", "scales", time.scales),
            ("epilogue and store", "pass 2: integers", store),
        ]
    clock += time.fetch
    for track, name, clocks in phases:
        if clocks:
            yield Event(track, name, clock, clock + clocks, index)
            clock += clocks


def _pass_clocks(machine: Machine, op: Quantize, *, measures: bool, converts: bool) -> int:
    """Clocks of a pass: its rounds one by one, but not fewer than device memory takes; and the latencies at its ends."""
    shape = piece_shape(machine.config, op)
    rows = np.diff(np.append(np.arange(0, op.m, shape.rows), op.m))
    columns = np.diff(np.append(np.arange(0, op.n, shape.columns), op.n))
    piece_rows, piece_columns = np.repeat(rows, len(columns)), np.tile(columns, len(rows))
    steps = -(-piece_columns // lanes_used(machine.config, op))
    if op.axis == Axis.COLUMN and measures:
        steps = np.maximum(steps, MIN_TILE_CLOCKS)
    delay = len(columns) if measures and converts else 0
    units = [(0, piece_rows * steps)]
    if converts:
        units += [(delay, piece_rows * steps), (delay + 1, piece_rows * -(-piece_columns // machine.config.bus_bytes))]
    rounds = np.zeros((len(units), len(steps) + units[-1][0]), np.int64)
    for row, (behind, clocks) in enumerate(units):
        rounds[row, behind : behind + len(clocks)] = clocks
    work = int((rounds.max(axis=0) + FILL_CLOCKS).sum())
    return _with_memory(machine, op, work, written=converts)


def _with_memory(machine: Machine, op: Quantize, work: int, written: bool) -> int:
    """Clocks of a pass whose work takes so long: latencies, rate and requests in flight per port, bandwidth for both."""
    dram, bus = machine.dram, machine.config.bus_bytes
    sides = [(op.n * SOURCE_BYTES[op.source], op.a_stride), *([(op.n, op.c_stride)] if written else [])]
    longest, moved = work, 0
    for size, stride in sides:
        row = -(-size // bus)
        runs = np.array([op.m * row]) if stride <= row * bus else np.full(op.m, row)
        requests = int((-(-runs // dram.burst_words)).sum())
        at_rate = ceil(op.m * row * bus / dram.port_bytes)
        held = max(op.m * row, at_rate)
        longest = max(longest, at_rate, -(-(requests * dram.latency + held) // dram.in_flight))
        moved += int((-(-runs * bus // dram.access_bytes) * dram.access_bytes).sum())
    return max(longest + len(sides) * dram.latency, ceil(moved / dram.bytes_per_clock))


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
