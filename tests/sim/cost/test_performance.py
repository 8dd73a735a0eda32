"""The closed forms: counters exact, bounds kept, choices never worse; SCALE-Sim's totals to the digit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from systolora.hls.check import input_words, weight_words
from systolora.hls.config import ArrayConfig
from systolora.hls.design import REQUESTS_IN_FLIGHT
from systolora.hls.generate import group_columns
from systolora.hls.isa import Axis, Dataflow, Gemm, LoopOrder, Quantize, Result, ScaleMode, Source
from systolora.sim.cost.columns import GemmColumns
from systolora.sim.cost.dram import DramModel
from systolora.sim.cost.energy import TECHNOLOGIES, Work, energy, peak_figures, technology
from systolora.sim.cost.mapping import Tiling, best_products, best_tilings, transposed_product
from systolora.sim.cost.performance import bound, gemm_costs
from systolora.sim.cost.quantize_times import FILL_CLOCKS, Sides, pass_clocks, quantize_time
from systolora.sim.cost.scalesim import scalesim_report
from systolora.sim.cost.tile_times import Machine, TileTimes
from systolora.sim.cost.unit_times import CALL_CLOCKS, EPILOGUE_CLOCKS, ArrayKind, array_work, load_input, store
from systolora.sim.functional.counts import array_time, count_instruction
from systolora.sim.functional.randoms import random_gemm, random_patches

COUNTERS = (
    *("array_cycles", "busy_cycles", "input_words", "weight_words", "vector_words"),
    *("result_words_loaded", "result_words_stored", "program_words"),
)
REFERENCE = Path(__file__).parent / "data" / "scalesim_totals.json"


def random_config(random: np.random.Generator) -> ArrayConfig:
    rows, cols = (int(x) for x in random.integers(4, 40, 2))
    bus = int(random.choice([4, 8, 16, 32]))
    depths = [max(16, -(-bus // lanes) * bus) * int(random.integers(4, 24)) for lanes in (rows, cols, cols)]
    return ArrayConfig(
        rows=rows,
        cols=cols,
        bus_bytes=bus,
        input_bytes=2 * rows * depths[0],
        weight_bytes=2 * cols * depths[1],
        output_bytes=8 * cols * depths[2],
        dram_gbps=float(random.choice([0.5, 2.0, 19.2])),
        port_mhz=float(random.choice([0.0, 90.0, 300.0])),
    )


def random_gemms(config: ArrayConfig, random: np.random.Generator, count: int) -> list[Gemm]:
    ops = []
    for index in range(count):
        shape = (int(x) for x in random.integers(1, 160, 3))
        patches = index % 4 == 0
        ops.append(random_patches(config, random, next(shape)) if patches else random_gemm(config, random, *shape))
    return ops


def shape(m: int, n: int, k: int, **options: object) -> Gemm:
    return Gemm(m, n, k, m, n, k, 0, 0, 0, 0, 0, 0, **options)  # type: ignore[arg-type]


def dense(m: int, n: int, k: int, **options: object) -> Gemm:
    fields = {"result": Result.FLOAT32, "scale_a": ScaleMode.VECTOR, "scale_b": ScaleMode.TENSOR, **options}
    return shape(m, n, k, **fields)


@pytest.mark.parametrize("seed", range(12))
def test_counters_are_those_of_the_instruction(seed: int) -> None:
    random = np.random.default_rng(seed)
    config = random_config(random)
    ops = random_gemms(config, random, 60)
    costs = gemm_costs(Machine.of(config), GemmColumns.of(config, ops))
    for row, op in enumerate(ops):
        expected = count_instruction(config, op)
        for name in COUNTERS:
            assert getattr(costs, name)[row] == getattr(expected, name), (name, op)


@pytest.mark.parametrize("dataflow", list(Dataflow))
def test_the_array_of_columns_is_the_array_of_the_pe_model(dataflow: Dataflow) -> None:
    """`test_pe_model` proves `array_time` on 1,000 tiles; the columns here equal it on 1,000 more."""
    random = np.random.default_rng(3)
    config = ArrayConfig(rows=7, cols=12, input_bytes=7 * 128, weight_bytes=12 * 128, output_bytes=12 * 512)
    tiles = random.integers(1, 90, (3, 1000))
    work = array_work(config, ArrayKind.OVERLAPPED, np.full(1000, int(dataflow)), *tiles)
    for row in range(1000):
        expected = array_time(config, dataflow, *(int(tile[row]) for tile in tiles))
        assert (work.cycles[row], work.busy[row]) == (expected.cycles, expected.busy)


@pytest.mark.parametrize("kind", list(ArrayKind))
@pytest.mark.parametrize("seed", range(4))
def test_time_is_never_below_bytes_over_bandwidth_nor_below_the_array(kind: ArrayKind, seed: int) -> None:
    random = np.random.default_rng(seed)
    config = random_config(random)
    machine = Machine.of(config, kind)
    columns = GemmColumns.of(config, random_gemms(config, random, 80))
    costs = gemm_costs(machine, columns)
    # Words that do not exist in patches are not moved, so the counted bytes are at most those that take time.
    moved = costs.words * config.bus_bytes
    assert np.all(costs.cycles >= moved / machine.dram.bytes_per_clock)
    assert np.all(costs.stall_cycles > 0)
    assert np.all(bound(TileTimes(machine, columns)) <= costs.cycles)


def test_a_slow_memory_binds_and_a_fast_one_does_not() -> None:
    op = replace(dense(512, 512, 512), tile_m=128, tile_n=128, tile_k=256)
    slow, fast = (ArrayConfig(bus_bytes=64, dram_gbps=gbps) for gbps in (0.2, 2000.0))
    costs = [gemm_costs(Machine.of(config), GemmColumns.of(config, [op])) for config in (slow, fast)]
    moved = int(costs[0].words[0]) * 64
    assert costs[0].cycles[0] == pytest.approx(moved / 1.0, rel=0.02)
    assert costs[1].cycles[0] < 2 * costs[1].array_cycles[0]


def test_each_row_waits_for_the_one_before_if_one_request_is_in_flight() -> None:
    config = ArrayConfig()
    many, one = (DramModel.of(config, in_flight=flight) for flight in (16, 1))
    assert DramModel.of(config).in_flight == 8, "what the generated loops hold open"
    columns = GemmColumns.of(config, [dense(256, 64, 64)])
    tile_m, tile_k = np.array([256]), np.array([64])
    begun = many.latency + CALL_CLOCKS
    assert load_input(config, many, columns, tile_m, tile_k).clocks[0] == begun + 256 * 4 + CALL_CLOCKS
    assert load_input(config, one, columns, tile_m, tile_k).clocks[0] == begun + 256 * (one.latency + 4)


def test_the_requests_that_run_ahead_are_made_before_the_first_word_is_taken() -> None:
    config = ArrayConfig()
    columns = GemmColumns.of(config, [dense(16, 64, 512)])
    tile = np.array([16]), np.array([512])
    clocks = [load_input(config, DramModel.of(config, ns), columns, *tile).clocks[0] for ns in (0, 30, 200)]
    assert [int(time - clocks[0]) for time in clocks] == [0, 0, 40 - 7]


def test_a_store_waits_for_its_vectors_and_once_for_its_answers() -> None:
    """By hand, 100 x 64 float32 in rows of 16 words, four columns a clock, with 16-byte words: scale of rows 25 words, one scale."""
    config = ArrayConfig()
    dram = DramModel.of(config)
    tile = np.array([100]), np.array([64])
    plain, added = (
        int(store(config, dram, GemmColumns.of(config, [dense(100, 64, 64, accumulate=flag)]), *tile).clocks[0])
        for flag in (False, True)
    )
    assert plain == 3 * (60 + CALL_CLOCKS) + (25 + 1) * 4 + 100 * 16 + EPILOGUE_CLOCKS
    assert added - plain == 60 + CALL_CLOCKS
    # 320 columns are two groups, each with its own scales and bias.
    wide = GemmColumns.of(config, [dense(100, 320, 64, bias=True, scale_b=ScaleMode.VECTOR)])
    clocks = int(store(config, dram, wide, np.array([100]), np.array([320])).clocks[0])
    assert clocks == (1 + 2 + 2 + 1) * (60 + CALL_CLOCKS) + (25 + 80 + 80) * 4 + 100 * 80 + 2 * EPILOGUE_CLOCKS


@pytest.mark.parametrize("transposed", [False, True])
def test_turning_a_corner_costs_the_longer_of_reading_and_writing(transposed: bool) -> None:
    """By hand, 128 x 256 bytes into 64 lanes: straight 128 lines of 16 words; turned 8 groups of 16 lines, 256 byte columns each."""
    config = ArrayConfig()
    dram = DramModel.of(config, latency_ns=0)
    columns = GemmColumns.of(config, [dense(256, 64, 128, transpose_a=True) if transposed else dense(128, 64, 256)])
    tile_m, tile_k = (np.array([256]), np.array([128])) if transposed else (np.array([128]), np.array([256]))
    clocks = load_input(config, dram, columns, tile_m, tile_k).clocks[0]
    begun = REQUESTS_IN_FLIGHT - 1 + CALL_CLOCKS
    assert clocks == begun + (16 * 16 + 8 * 256 + 9 * CALL_CLOCKS if transposed else 128 * 16 + CALL_CLOCKS)


@pytest.mark.parametrize(
    ("clock", "port", "rate"), [(166.67, 300.0, 28.8), (250.0, 300.0, 19.2), (250.0, 250.0, 16.0), (200.0, 100.0, 8.0)]
)
def test_a_wide_port_moves_what_the_processor_s_takes(clock: float, port: float, rate: float) -> None:
    """A long transfer through a port of 32 bytes: its bytes at 16 bytes a clock of the processor's port, on each side, and no faster."""
    config = ArrayConfig(bus_bytes=32, clock_mhz=clock, port_mhz=port, dram_gbps=1000.0)
    dram = DramModel.of(config, latency_ns=0)
    megabyte = np.array([1024])
    columns = GemmColumns.of(config, [dense(1024, 1024, 1024, result=Result.BFLOAT16)])
    loaded = int(load_input(config, dram, columns, megabyte, megabyte).clocks[0])
    assert loaded - (REQUESTS_IN_FLIGHT - 1 + CALL_CLOCKS) == pytest.approx(2**20 / rate, rel=1e-3)
    stored = int(store(config, dram, columns, megabyte, megabyte).clocks[0])
    assert stored == pytest.approx(2**21 / rate, rel=0.03)
    read = quantize_time(
        Machine(config, dram), Quantize(1024, 1024, 0, 2048, 0, 1024, 0, axis=Axis.TENSOR, source=Source.BFLOAT16)
    )
    # Sixteen values a clock could be worked on.
    assert read.find == pytest.approx(2**21 / rate, rel=0.03)


@pytest.mark.parametrize(("rows", "at_rate"), [(1024, 512), (1023, 512), (1, 1)])
def test_two_ports_share_the_rows_of_results(rows: int, at_rate: int) -> None:
    """2 KB a row at 8 bytes a clock; the epilogue's 16 lanes take 64 clocks a row. Of an odd number one port has one row more."""
    config = ArrayConfig(bus_bytes=32, clock_mhz=200.0, port_mhz=100.0, output_ports=2, dram_gbps=1000.0)
    dram = DramModel.of(config, latency_ns=0)
    columns = GemmColumns.of(
        config, [dense(1024, 1024, 1024, result=Result.BFLOAT16, scale_a=ScaleMode.NONE, scale_b=ScaleMode.NONE)]
    )
    clocks = int(store(config, dram, columns, np.array([rows]), np.array([1024])).clocks[0])
    groups = 1024 // group_columns(config)
    assert clocks == CALL_CLOCKS + max(at_rate * 256, rows * 64 + groups * EPILOGUE_CLOCKS)


def test_requests_of_a_wide_port_are_of_256_bytes() -> None:
    """The processor's side cuts bursts to 16 beats of its own 16 bytes: eight of those in 50 clocks of latency are 2,048 bytes."""
    config = ArrayConfig(bus_bytes=32, clock_mhz=200.0, port_mhz=300.0)
    dram = DramModel.of(config, latency_ns=250)
    assert dram.burst_words == 8
    words = np.array([8_000])
    assert dram.request_clocks(dram.requests(np.array([1]), words), words)[0] == (1000 * 50 + 8_000 * 32 / 24 + 7) // 8
    # The array's own port of 16 bytes, or of 8: 16 beats are 16 words.
    assert DramModel.of(config.with_changes(bus_bytes=16)).burst_words == 16
    assert DramModel.of(config.with_changes(bus_bytes=8)).burst_words == 16


def test_a_quantize_by_tensor_takes_two_passes() -> None:
    config = ArrayConfig()
    machine = Machine(config, DramModel.of(config, latency_ns=0))
    time = quantize_time(machine, Quantize(64, 320, 0, 0, 0, 0, 0, axis=Axis.TENSOR))
    # A row is 80 words, 12 rows a piece: 5 pieces of 960 steps of four floats, and one of 4 rows. The last piece's integers, 80
    # words of 16, are written alone; those of the piece before it, 240 words, while the last is worked on.
    assert (time.find, time.factors) == (5 * 960 + 320 + 6 * FILL_CLOCKS, 0)
    assert time.store == 5 * 960 + 320 + 4 * 20 + 7 * FILL_CLOCKS
    # bfloat16: 40 words a row, 25 rows a piece, eight a clock.
    half = quantize_time(machine, Quantize(64, 320, 0, 0, 0, 0, 0, axis=Axis.TENSOR, source=Source.BFLOAT16))
    assert half.find == 2 * 1000 + 14 * 40 + 3 * FILL_CLOCKS
    starved = Machine(config, DramModel(0.1, 200.0, 16, latency=0))
    assert quantize_time(starved, Quantize(64, 320, 0, 0, 0, 0, 0, axis=Axis.TENSOR)).find == 64 * 320 * 4 / 0.5


def test_rows_that_are_kept_take_one_pass() -> None:
    config = ArrayConfig()
    machine = Machine(config, DramModel.of(config, latency_ns=0))
    time = quantize_time(machine, Quantize(64, 320, 0, 0, 0, 0, 0, axis=Axis.ROW))
    # The first piece is read before it can be made integers, so there is a round more than by tensor.
    assert (time.find, time.store) == (0, 960 + 5 * 960 + 320 + 4 * 20 + 8 * FILL_CLOCKS)
    # A row of 8,192 floats is two pieces: a row's integers are made while the next row is read, two rounds later.
    time = quantize_time(machine, Quantize(10, 8192, 0, 0, 0, 0, 0, axis=Axis.ROW))
    assert time.store == 11 * 2048 + 256 + (11 * 2 + 1) * FILL_CLOCKS
    longest = config.row_words * config.bus_bytes // 4
    assert quantize_time(machine, Quantize(2, longest, 0, 0, 0, 0, 0, axis=Axis.ROW)).find == 0
    assert quantize_time(machine, Quantize(2, longest + 1, 0, 0, 0, 0, 0, axis=Axis.ROW)).find > 0


@pytest.mark.parametrize("delayed", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_quantize_s_closed_form_is_the_sum_of_its_rounds(seed: int, delayed: bool) -> None:
    """Against a walk through the pieces, one after the other, with any clocks a piece that writing does not exceed."""
    random = np.random.default_rng(seed)
    for _ in range(200):
        lines, pieces = (int(x) for x in random.integers(1, 9, 2))
        full = int(random.integers(0, 50))
        last = int(random.integers(0, full + 1))
        work = Sides(full, last)
        written = int(random.integers(0, full + 1))
        write = Sides(written, int(random.integers(0, min(last, written) + 1)))
        delay = (1 if lines == 1 else pieces) if delayed else 0
        kinds = [place == pieces - 1 for _ in range(lines) for place in range(pieces)]
        clocks = rounds = 0
        for now in range(len(kinds) + delay + 1):
            units = [(work, now), (work, now - delay), (write, now - delay - 1)]
            clocks += max(
                [(unit.last if kinds[at] else unit.full) for unit, at in units if 0 <= at < len(kinds)], default=0
            )
            rounds += 1
        assert pass_clocks(lines, pieces, work, write, delay) == (clocks, rounds - (write.last == 0)), (lines, pieces)


def test_the_choice_is_never_slower_than_one_dataflow() -> None:
    random = np.random.default_rng(7)
    for kind in ArrayKind:
        config = random_config(random)
        machine = Machine.of(config, kind)
        ops = random_gemms(config, random, 40)
        cycles = {}
        for name, flows in (("ws", [Dataflow(0)]), ("os", [Dataflow(1)]), ("auto", list(Dataflow))):
            tilings = best_tilings(machine, ops, flows)
            tiled = [replace(op, **vars(tiling)) for op, tiling in zip(ops, tilings, strict=True)]
            cycles[name] = gemm_costs(machine, GemmColumns.of(config, tiled)).cycles
        assert np.array_equal(cycles["auto"], np.minimum(cycles["ws"], cycles["os"]))


def tiled_columns(machine: Machine, op: Gemm, tiling: Tiling) -> GemmColumns:
    return GemmColumns.of(machine.config, [replace(op, **vars(tiling))])


def any_tilings(config: ArrayConfig, random: np.random.Generator, op: Gemm, count: int) -> list[Gemm]:
    """Legal random tilings of a GEMM, most of them with large tiles."""
    bus, found = config.bus_bytes, []
    while len(found) < count:
        flow = Dataflow(int(random.integers(2)))
        m, n, k = (min(size, bus * int(random.integers(1, -(-size // bus) + 1))) for size in (op.m, op.n, op.k))
        while weight_words(config, n, max(k, m)) > min(config.weight_depth, config.output_depth):
            m, n, k = (min(size, -(-size // 2 // bus) * bus) for size in (m, n, k))
        while input_words(config, flow, m, k) > config.input_depth:
            m, k = (min(size, -(-size // 2 // bus) * bus) for size in (m, k))
        order = LoopOrder(int(random.integers(2)))
        found.append(replace(op, dataflow=flow, loop_order=order, tile_m=m, tile_n=n, tile_k=k))
    return found


def test_no_random_tiling_is_much_better_than_the_chosen_one() -> None:
    """The candidates are balanced sizes only; 40,000 tilings of any size beat the best of them by little, and rarely."""
    random = np.random.default_rng(11)
    gains = []
    for _ in range(40):
        config = random_config(random)
        machine = Machine.of(config)
        op = random_gemm(config, random, *(int(x) for x in random.integers(1, 500, 3)))
        others = GemmColumns.of(config, any_tilings(config, random, op, 1000))
        chosen = replace(op, **vars(best_tilings(machine, [op])[0]))
        best = gemm_costs(machine, others).cycles.min()
        gains.append(gemm_costs(machine, GemmColumns.of(config, [chosen])).cycles[0] / best)
    assert max(gains) < 1.1
    assert np.mean(gains) < 1.0


def test_a_product_is_turned_only_where_that_is_faster() -> None:
    """grad_up of a key projection has few columns: turned, its rows fill bus words."""
    machine = Machine.of(ArrayConfig(bus_bytes=64))
    ops = [dense(1280, 4, 77, transpose_a=True), dense(4096, 320, 320, transpose_b=True), dense(64, 64, 64, bias=True)]
    products = best_products(machine, ops)
    plain = best_tilings(machine, ops)
    assert products[0].transposed and not products[2].transposed
    assert products[0].cycles < 0.6 * gemm_costs(machine, tiled_columns(machine, ops[0], plain[0])).cycles[0]
    turned = products[0].op
    assert (turned.m, turned.n, turned.k, turned.transpose_a, turned.transpose_b) == (4, 1280, 77, True, False)
    for op, tiling, product in zip(ops, plain, products, strict=True):
        assert product.cycles <= gemm_costs(machine, tiled_columns(machine, op, tiling)).cycles[0]
    with pytest.raises(ValueError, match="no transposed form"):
        transposed_product(ops[2])


def test_turning_twice_changes_nothing() -> None:
    op = dense(100, 60, 30, transpose_a=True, accumulate=True)
    assert transposed_product(transposed_product(op)) == op


def test_scalesim_totals_are_reproduced_exactly() -> None:
    runs = json.loads(REFERENCE.read_text())["runs"]
    assert len(runs) > 80
    for run in runs:
        report = scalesim_report(*(run[name] for name in ("rows", "cols", "dataflow", "m", "n", "k")))
        assert (report.total_cycles, report.stall_cycles) == (run["total_cycles"], run["stall_cycles"]), run
        for name in ("overall_util", "mapping_efficiency", "compute_util"):
            assert getattr(report, name) == pytest.approx(run[name], rel=1e-12)


def test_an_unknown_scalesim_dataflow_is_refused() -> None:
    with pytest.raises(ValueError, match="ws, os, is"):
        scalesim_report(64, 64, "rs", 1, 1, 1)


def test_the_paper_s_array_pays_for_every_block() -> None:
    """Serial arrays by hand: 2 column blocks x 3 k blocks of 77 rows on 64 x 64."""
    config = ArrayConfig()
    arguments = (np.array([77]), np.array([128]), np.array([192]))
    cycles = {
        (kind, flow): int(array_work(config, kind, np.array([int(flow)]), *arguments).cycles[0])
        for kind in ArrayKind
        for flow in Dataflow
    }
    assert cycles[ArrayKind.SERIAL_SKEWED, Dataflow(0)] == 6 * (128 + 64 + 77 - 2)
    assert cycles[ArrayKind.SERIAL_SKEWED, Dataflow(1)] == 4 * (128 + 64 + 192 - 2)
    assert cycles[ArrayKind.SERIAL_BROADCAST, Dataflow(0)] == 6 * (64 + 77 + 63)
    assert cycles[ArrayKind.SERIAL_BROADCAST, Dataflow(1)] == 4 * (192 + 63)


def test_energy_is_counted_work_times_the_table() -> None:
    work = Work(macs=10**12, pe_cycles=2 * 10**12, elements=10**9, sram_bytes=8 * 10**9, dram_bytes=8 * 10**9)
    spent = energy(technology("45nm"), work)
    assert spent.mac == pytest.approx(0.3)
    assert spent.register == pytest.approx(0.2)
    assert spent.sram == pytest.approx(20e-12 * 10**9)
    assert spent.dram == pytest.approx(1.3)
    assert spent.total == pytest.approx(sum(spent.as_dict().values()))
    assert TECHNOLOGIES["7nm"].mac < TECHNOLOGIES["16nm"].mac < TECHNOLOGIES["28nm"].mac < TECHNOLOGIES["45nm"].mac
    assert TECHNOLOGIES["fpga16nm"].mac > TECHNOLOGIES["16nm"].mac
    with pytest.raises(ValueError, match="45nm"):
        technology("3nm")


def test_peak_figures() -> None:
    peak = peak_figures(ArrayConfig(), technology("45nm"))
    assert peak.tops == pytest.approx(1.6384)
    assert peak.port_gbps == pytest.approx(9.6)
    assert peak.ridge == pytest.approx(1638.4 / 9.6)
    assert peak_figures(ArrayConfig(bus_bytes=64), technology("45nm")).ridge == pytest.approx(1638.4 / 19.2)
    # Three ports of 32 bytes whose processor's side runs with 300 MHz: 3 x 16 x 0.3.
    assert peak_figures(ArrayConfig(bus_bytes=32, port_mhz=300.0), technology("45nm")).port_gbps == pytest.approx(14.4)
    assert 0 < peak.array_mm2 < 10
    assert 0 < peak.memory_mm2 < 20


def test_forms_are_chosen_among_the_dataflows_that_the_hardware_has() -> None:
    shapes = [(77, 320, 768), (77, 320, 80), (4096, 64, 77), (96, 96, 129)]
    ops = [Gemm(*size, *size, 0, 0, 0, 0, 0, 0) for size in shapes]
    both, alone = (
        {product.op.dataflow for product in best_products(Machine.of(ArrayConfig(dataflows=flows)), ops)}
        for flows in (("os", "ws"), ("ws",))
    )
    assert both == set(Dataflow) and alone == {Dataflow.WEIGHT_STATIONARY}
