"""What sharing does to the key and value projections: x loaded once, all of them as one wide GEMM, low-rank GEMMs stacked.

The projections of all layers multiply the same text tokens, and with a small rank their GEMMs move far more than they compute. Each
variant here keeps what the ones before it do. The arithmetic stays the same bit for bit (each layer keeps its own scales), but
for bfloat16 results.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from systolora.hls.isa import Gemm, Quantize, Result, ScaleMode, Source
from systolora.sim.cost.columns import GemmColumns
from systolora.sim.cost.mapping import best_tilings
from systolora.sim.cost.performance import gemm_costs
from systolora.sim.cost.quantize_times import quantize_time
from systolora.sim.cost.tile_times import Machine
from systolora.sim.functional.counts import count_instruction

from .workloads import Workload

Counted = list[tuple[Gemm, int]]


@dataclass(frozen=True)
class Variant:
    """One way to run the projections of a step.

    Attributes:
        title: what is done.
        expressible: whether the instruction set can say it.
        gemm_cycles, quantize_cycles, array_cycles: clocks of the instructions, and those of the array in them.
        weight_clocks: clocks in which the weight port is busy: what binds once x is shared.
        dram_bytes: to and from device memory.
    """

    title: str
    expressible: bool
    gemm_cycles: int
    quantize_cycles: int
    array_cycles: int
    weight_clocks: int
    dram_bytes: int

    @property
    def cycles(self) -> int:
        """Clocks of all instructions."""
        return self.gemm_cycles + self.quantize_cycles


def key_value_variants(machine: Machine, workload: Workload) -> list[Variant]:
    """The variants for a workload traced with targets "kv", from nothing shared to everything."""
    gemms = {item.gemm: item.count for item in workload.gemms}
    quantizes = [(item.quantize.op, item.count) for item in workload.quantizes]
    plain = [(gemm.op, count) for gemm, count in gemms.items()]
    on_x = [(gemm.op, count) for gemm, count in gemms.items() if gemm.kind in ("forward_base", "forward_down")]
    others = [(gemm.op, count) for gemm, count in gemms.items() if gemm.kind not in ("forward_base", "forward_down")]
    grad_down = [(gemm.op, count) for gemm, count in gemms.items() if gemm.kind == "grad_down"]
    rest = [pair for pair in others if pair not in grad_down]
    wide = [*_widened(gemms, "forward_base"), *_widened(gemms, "forward_down")]
    wide_and_stacked = [*_reusing(wide), *rest, *_stacked(grad_down)]
    half = [(replace(op, result=Result.BFLOAT16), count) for op, count in wide_and_stacked]
    half_quantizes = [(replace(op, source=Source.BFLOAT16), count) for op, count in quantizes]
    variants = [
        _variant(machine, "each GEMM by itself", plain, quantizes),
        _variant(machine, "x loaded once (reuse_a)", [*_reusing(on_x), *others], quantizes),
        _variant(machine, "one wide GEMM, stacked low-rank GEMMs", wide_and_stacked, quantizes),
        _variant(machine, "bfloat16 instead of float32", half, half_quantizes),
    ]
    on_chip = _rank_on_chip(machine, workload, variants[-1])
    return [*variants, on_chip, _fused_up(machine, workload, on_chip)]


def _widened(gemms: dict, kind: str) -> Counted:
    """The GEMMs of a kind side by side, one for each different A."""
    widths: dict[tuple[int, int], int] = {}
    samples: dict[tuple[int, int], Gemm] = {}
    for gemm, count in gemms.items():
        if gemm.kind == kind:
            key = (gemm.op.m, gemm.op.k)
            widths[key] = widths.get(key, 0) + count * gemm.op.n
            samples.setdefault(key, gemm.op)
    # Each column has the scale of its layer.
    return [(replace(samples[key], n=width, scale_b=ScaleMode.VECTOR), 1) for key, width in widths.items()]


def _stacked(pairs: Counted) -> Counted:
    """grad_down = grad_h^T x of all layers as one: their grad_h side by side."""
    return [(replace(op, m=op.m * count), 1) for op, count in pairs]


def _reusing(pairs: Iterable[tuple[Gemm, int]]) -> Counted:
    """The same GEMMs one after another, A loaded by the first only."""
    found: Counted = []
    loaded: set[tuple[int, int]] = set()
    for op, count in pairs:
        first = (op.m, op.k) not in loaded
        loaded.add((op.m, op.k))
        found += [(op, 1)] * first + [(replace(op, reuse_a=True), count - first)] * (count > first)
    return found


def _variant(machine: Machine, title: str, gemms: Counted, quantizes: Sequence[tuple[Quantize, int]]) -> Variant:
    ops = [op for op, _ in gemms]
    tilings = best_tilings(machine, ops)
    tiled = [replace(op, **vars(tiling)) for op, tiling in zip(ops, tilings, strict=True)]
    costs = gemm_costs(machine, GemmColumns.of(machine.config, tiled))
    counts = np.array([count for _, count in gemms])
    words = int(counts @ costs.words)
    for op, count in quantizes:
        counted = count_instruction(machine.config, op)
        words += count * (counted.words_read + counted.words_written)
    return Variant(
        title=title,
        expressible=True,
        gemm_cycles=int(counts @ costs.cycles),
        quantize_cycles=sum(count * quantize_time(machine, op).cycles for op, count in quantizes),
        array_cycles=int(counts @ costs.array_cycles),
        weight_clocks=int(counts @ costs.weight_clocks),
        dram_bytes=words * machine.config.bus_bytes,
    )


def _rank_on_chip(machine: Machine, workload: Workload, before: Variant) -> Variant:
    """What would be left if h and grad_h never went to device memory: their quantizations, stores and loads are taken off."""
    bus = machine.config.bus_bytes
    cycles = moved = 0
    for item in workload.quantizes:
        if item.quantize.tensor in ("h", "grad_h"):
            op = replace(item.quantize.op, source=Source.BFLOAT16)
            counted = count_instruction(machine.config, op)
            cycles += item.count * quantize_time(machine, op).cycles
            moved += item.count * bus * (counted.words_read + counted.words_written)
    for cost in workload.gemms:
        gemm = cost.gemm.op
        if cost.gemm.kind in ("forward_down", "grad_hidden"):
            moved += cost.count * gemm.m * bus * -(-2 * gemm.n // bus)
        elif cost.gemm.kind == "forward_up":
            moved += cost.count * gemm.m * bus * -(-gemm.k // bus)
    return replace(
        before,
        title="rank-r intermediates on chip",
        expressible=False,
        quantize_cycles=before.quantize_cycles - cycles,
        dram_bytes=before.dram_bytes - moved,
    )


def _fused_up(machine: Machine, workload: Workload, before: Variant) -> Variant:
    """What would be left if h up^T were added to y before y is stored: of these GEMMs the array's clocks and the weights stay."""
    pairs = [
        (replace(item.gemm.op, result=Result.BFLOAT16), item.count)
        for item in workload.gemms
        if item.gemm.kind == "forward_up"
    ]
    tilings = best_tilings(machine, [op for op, _ in pairs])
    tiled = [replace(op, **vars(tiling)) for (op, _), tiling in zip(pairs, tilings, strict=True)]
    costs = gemm_costs(machine, GemmColumns.of(machine.config, tiled))
    counts = np.array([count for _, count in pairs])
    words = costs.result_words_loaded + costs.result_words_stored + costs.vector_words
    return replace(
        before,
        title="and h up^T added before y is stored",
        gemm_cycles=before.gemm_cycles - int(counts @ costs.stall_cycles),
        dram_bytes=before.dram_bytes - int(counts @ words) * machine.config.bus_bytes,
    )
