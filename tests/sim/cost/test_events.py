"""The event mode: its ends are the closed forms', units never work on two things at once, and traces open in Perfetto."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import End, Fence, Gemm, Instruction
from systolora.sim.cost.events import TRACKS, program_events, render_trace
from systolora.sim.cost.instruction_times import instruction_cycles
from systolora.sim.cost.tile_times import Machine
from systolora.sim.cost.unit_times import ArrayKind
from systolora.sim.functional.counts import count_instruction
from systolora.sim.functional.randoms import random_gemm, random_patches, random_quantize


def random_program(config: ArrayConfig, random: np.random.Generator, length: int) -> list[Instruction]:
    program: list[Instruction] = []
    for _ in range(length):
        size = [int(x) for x in random.integers(1, 150, 3)]
        makers = (
            lambda size=size: random_gemm(config, random, *size),
            lambda size=size: random_gemm(config, random, *size),
            lambda size=size: random_patches(config, random, size[0]),
            lambda size=size: random_quantize(random, *size[:2]),
            Fence,
        )
        program.append(makers[int(random.integers(len(makers)))]())
    return [*program, End(), Fence()]


def machine(random: np.random.Generator, kind: ArrayKind = ArrayKind.OVERLAPPED) -> Machine:
    rows, cols = (int(x) for x in random.integers(4, 24, 2))
    gbps = float(random.choice([0.5, 3.0, 19.2]))
    config = ArrayConfig(rows, cols, input_bytes=512 * rows, weight_bytes=512 * cols, output_bytes=2048 * cols)
    return Machine.of(config.with_changes(dram_gbps=gbps, port_mhz=float(random.choice([0.0, 90.0]))), kind)


@pytest.mark.parametrize("kind", list(ArrayKind))
@pytest.mark.parametrize("seed", range(8))
def test_instructions_end_when_the_closed_forms_say(seed: int, kind: ArrayKind) -> None:
    random = np.random.default_rng(seed)
    at = machine(random, kind)
    program = random_program(at.config, random, 25)
    lengths = [e.end - e.begin for e in program_events(at, program) if e.track == "instruction"]
    assert lengths == instruction_cycles(at, program)
    assert len(lengths) == 26, "what follows the END is not run"


@pytest.mark.parametrize("seed", range(4))
def test_long_rows_are_quantized_in_the_time_that_the_closed_form_says(seed: int) -> None:
    """Rows of up to forty parts; the event mode sums their rounds one by one."""
    random = np.random.default_rng(50 + seed)
    at = machine(random)
    program = [random_quantize(random, int(random.integers(1, 40)), int(random.integers(1, 5000))) for _ in range(20)]
    lengths = [e.end - e.begin for e in program_events(at, program) if e.track == "instruction"]
    assert lengths == instruction_cycles(at, program)


@pytest.mark.parametrize("seed", range(4))
def test_no_unit_works_on_two_things_at_once_and_the_array_works_as_counted(seed: int) -> None:
    random = np.random.default_rng(100 + seed)
    at = machine(random)
    program = random_program(at.config, random, 15)
    by_track = defaultdict(list)
    array = defaultdict(int)
    for event in program_events(at, program):
        by_track[event.track].append(event)
        if event.track == "array":
            array[event.instruction] += event.end - event.begin
    for events in by_track.values():
        events.sort(key=lambda event: event.begin)
        assert all(one.end <= other.begin for one, other in zip(events, events[1:], strict=False))
    for index, op in enumerate(program):
        if isinstance(op, Gemm):
            assert array[index] == count_instruction(at.config, op).array_cycles


def test_a_trace_is_chrome_s_format(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    at = machine(random)
    program = random_program(at.config, random, 6)
    events = list(program_events(at, program, {0: "forward_base of to_k"}))
    (tmp_path / "trace.json").write_text(render_trace(at.config, events))
    trace = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = [item["args"]["name"] for item in trace if item["ph"] == "M"]
    assert tuple(names) == TRACKS
    spans = [item for item in trace if item["ph"] == "X"]
    assert len(spans) == len(events)
    assert any(item["name"] == "forward_base of to_k" for item in spans)
    last = max(item["ts"] + item["dur"] for item in spans)
    assert last == pytest.approx(sum(instruction_cycles(at, program)) / at.config.clock_mhz)
