"""The chosen tiling against every legal one, by the model's exact clocks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Dataflow, Gemm, LoopOrder, Result, ScaleMode
from systolora.sim.cost.columns import GemmColumns, Ints, ceil_div
from systolora.sim.cost.mapping import best_tilings
from systolora.sim.cost.performance import bound, gemm_cycles, rough_bound
from systolora.sim.cost.tile_times import Machine, TileTimes
from systolora.sim.cost.unit_times import ArrayKind


def random_config(random: np.random.Generator) -> ArrayConfig:
    rows, cols = (int(x) for x in random.integers(4, 40, 2))
    bus = int(random.choice([4, 8, 16, 32]))
    depths = [max(16, -(-bus // lanes) * bus) * int(random.integers(4, 24)) for lanes in (rows, cols, cols)]
    sizes = {
        "input_bytes": 2 * rows * depths[0],
        "weight_bytes": 2 * cols * depths[1],
        "output_bytes": 8 * cols * depths[2],
    }
    return ArrayConfig(rows, cols, bus_bytes=bus, **sizes, dram_gbps=float(random.choice([0.5, 2.0, 19.2])))


def random_gemm(random: np.random.Generator) -> Gemm:
    size = [int(x) for x in random.integers(1, 200, 3)]
    flags = [bool(x) for x in random.integers(0, 2, 3)]
    result = Result(int(random.integers(len(Result))))
    scales = ScaleMode.NONE if result == Result.INT32 else ScaleMode.VECTOR
    return Gemm(
        *(*size, *size, 0, 0, 0, 0, 0, 0),
        **dict(zip(("transpose_a", "transpose_b", "accumulate"), flags, strict=True)),
        result=result,
        scale_a=scales,
        scale_b=scales,
    )


def all_tilings(config: ArrayConfig, op: Gemm) -> GemmColumns:
    """Every legal tiling: whole bus words or the dimension itself."""
    bus = config.bus_bytes
    sizes = [[*range(bus, length, bus), length] for length in (op.m, op.n, op.k)]
    axes = np.meshgrid(list(Dataflow), list(LoopOrder), *sizes, indexing="ij")
    flow, order, m, n, k = (axis.ravel().astype(np.int64) for axis in axes)
    band, standing = config.band_rows, config.stationary_rows
    stationary = ceil_div(k, config.rows) * m
    words = np.where(flow == Dataflow.WEIGHT_STATIONARY, stationary, ceil_div(m, standing) * ceil_div(k, band) * band)
    columns = ceil_div(n, config.cols)
    legal = (words <= config.input_depth) & (columns * k <= config.weight_depth) & (columns * m <= config.output_depth)
    chosen = [column[legal] for column in (flow, order, m, n, k)]
    return GemmColumns.of(config, [op]).take(np.zeros(len(chosen[0]), np.int64)).tiled(*chosen)


def clocks(machine: Machine, columns: GemmColumns) -> Ints:
    return gemm_cycles(TileTimes(machine, columns))


def test_the_choice_is_within_a_few_percent_of_the_best_of_all() -> None:
    """300 random GEMMs on 300 random arrays. Tiles that are no multiple of the array's lanes, and those that fill a memory, count."""
    random = np.random.default_rng(20)
    gaps = []
    for _ in range(300):
        config, op = random_config(random), random_gemm(random)
        machine = Machine.of(config)
        chosen = replace(op, **vars(best_tilings(machine, [op])[0]))
        found = int(clocks(machine, GemmColumns.of(config, [chosen]))[0])
        others = all_tilings(config, op)
        others = others.take(rough_bound(TileTimes(machine, others)) < found)  # the others cannot be better
        others = others.take(bound(TileTimes(machine, others)) < found)
        best = clocks(machine, others).min(initial=found)
        gaps.append(found / best)
    assert max(gaps) <= 1.06
    assert np.mean(gaps) <= 1.002


def test_no_bound_is_above_what_it_bounds() -> None:
    random = np.random.default_rng(21)
    for kind in ArrayKind:
        for _ in range(20):
            config, op = random_config(random), random_gemm(random)
            machine = Machine.of(config, kind)
            columns = all_tilings(config, op)
            times = TileTimes(machine, columns.take(random.integers(0, len(columns), 200)))
            assert np.all(rough_bound(times) <= bound(times))
            assert np.all(bound(times) <= gemm_cycles(times))
