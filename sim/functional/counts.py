"""What an instruction costs, in array clocks and bus words: the closed formulas of docs/architecture.md.

`count_instruction` is the whole instruction, `tile_steps` the controller's sequence that it sums up. The emulator reports
these numbers, C-simulation counts them one by one, and the performance model turns them into time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import lru_cache
from itertools import product
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray
from systolora.hls.check import RESULT_BYTES, SOURCE_BYTES, round_up, scale_count
from systolora.hls.config import FLOAT_BYTES, MIN_TILE_CLOCKS, ArrayConfig
from systolora.hls.isa import (
    INSTRUCTION_BYTES,
    Axis,
    Dataflow,
    Gemm,
    Instruction,
    LoopOrder,
    OperandA,
    Quantize,
    ScaleMode,
)
from systolora.hls.registers import Counters

from .patches import PatchGeometry, existing_patches


@dataclass(frozen=True)
class TileStep:
    """One step of the controller: C[m0:m1, n0:n1] += A[m0:m1, k0:k1] B[k0:k1, n0:n1].

    Attributes:
        load_a, load_b: whether the tile is loaded; if not, it is still in its memory.
        first_k: the array stores into the output memory instead of adding.
        last_k: the C tile is finished and goes through the epilogue to device memory.
    """

    m0: int
    m1: int
    n0: int
    n1: int
    k0: int
    k1: int
    load_a: bool
    load_b: bool
    first_k: bool
    last_k: bool


@dataclass(frozen=True)
class ArrayTime:
    """Clocks of the array for one tile step; `busy` are those in which an activation word enters."""

    cycles: int
    busy: int


def ceil_div(value: int, unit: int) -> int:
    """`value / unit`, rounded up."""
    return -(-value // unit)


def array_time(config: ArrayConfig, dataflow: Dataflow, tile_m: int, tile_n: int, tile_k: int) -> ArrayTime:
    """Clocks that the array needs for a tile of tile_m x tile_k x tile_n."""
    column_blocks = ceil_div(tile_n, config.cols)
    if dataflow == Dataflow.WEIGHT_STATIONARY:
        blocks = ceil_div(tile_k, config.rows) * column_blocks
        spacing = max(tile_m, config.rows, MIN_TILE_CLOCKS)
        return ArrayTime((blocks - 1) * spacing + tile_m + config.rows + 2, blocks * tile_m)
    blocks = ceil_div(tile_m, config.stationary_rows) * column_blocks
    depth = round_up(tile_k, config.band_rows)
    spacing = max(depth, config.stationary_rows)
    return ArrayTime((blocks - 1) * spacing + depth + stationary_end(config), blocks * depth)


def stationary_end(config: ArrayConfig) -> int:
    """Array clocks of an output-stationary tile besides those in which k enters its last block."""
    bands = config.stationary_rows // config.band_rows
    rest = config.groups - config.stationary_rows // config.chain
    return config.stationary_rows + bands + rest + 1


def tile_steps(op: Gemm) -> Iterator[TileStep]:
    """The steps of a GEMM in the order in which the controller takes them."""
    spans_m, spans_n, spans_k = _spans(op.m, op.tile_m), _spans(op.n, op.tile_n), _spans(op.k, op.tile_k)
    if op.loop_order == LoopOrder.M_OUTER:
        corners = ((m, n) for m in spans_m for n in spans_n)
    else:
        corners = ((m, n) for n in spans_n for m in spans_m)
    held_a: object = ((0, min(op.tile_m, op.m)), (0, min(op.tile_k, op.k))) if op.reuse_a else None
    held_b: object = None
    for m, n in corners:
        for k in spans_k:
            yield TileStep(*m, *n, *k, (m, k) != held_a, (k, n) != held_b, first_k=k[0] == 0, last_k=k[1] == op.k)
            held_a, held_b = (m, k), (k, n)


def input_tile_words(config: ArrayConfig, op: Gemm, m0: int, m1: int, k0: int, k1: int) -> int:
    """Bus words that loading A[m0:m1, k0:k1] reads. Of patches only those of logical pixels that exist."""
    bus = config.bus_bytes
    if op.a_form == OperandA.PATCHES:
        geometry = PatchGeometry.of(op)
        patches = existing_patches(geometry, m1) - existing_patches(geometry, m0)
        return int(patches @ _words_per_position(op, bus, k0, k1))
    if op.transpose_a:
        return (k1 - k0) * ceil_div(m1 - m0, bus)
    return (m1 - m0) * ceil_div(k1 - k0, bus)


def weight_tile_words(config: ArrayConfig, op: Gemm, tile_n: int, tile_k: int) -> int:
    """Bus words that loading a B tile reads."""
    if op.transpose_b:
        return tile_n * ceil_div(tile_k, config.bus_bytes)
    return tile_k * ceil_div(tile_n, config.bus_bytes)


def vector_tile_words(config: ArrayConfig, op: Gemm, tile_m: int, tile_n: int) -> int:
    """Bus words of scales and bias that the epilogue of a C tile reads."""
    words = _scale_words(config, op.scale_a, tile_m) + _scale_words(config, op.scale_b, tile_n)
    return words + _scale_words(config, ScaleMode.VECTOR if op.bias else ScaleMode.NONE, tile_n)


def result_tile_words(config: ArrayConfig, op: Gemm, tile_m: int, tile_n: int) -> int:
    """Bus words of a C tile: stored once, and loaded once if the instruction accumulates."""
    return tile_m * ceil_div(tile_n * RESULT_BYTES[op.result], config.bus_bytes)


def count_instruction(config: ArrayConfig, op: Instruction, *, nonfinite: bool = False) -> Counters:
    """Counters of one instruction that passed its checks, its fetch included.

    Args:
        nonfinite: the instruction is a QUANTIZE that ended with NONFINITE.
    """
    if isinstance(op, Gemm):
        return _count_gemm(config, _Countable(_counted_fields(op), op))
    if isinstance(op, Quantize):
        return _count_quantize(config, op, nonfinite)
    return count_fetch(config)


def count_fetch(config: ArrayConfig) -> Counters:
    """Counters of an instruction that is fetched and does nothing, or is refused."""
    return Counters(program_words=INSTRUCTION_BYTES // config.bus_bytes)


def _spans(length: int, tile: int) -> list[tuple[int, int]]:
    return [(start, min(start + tile, length)) for start in range(0, length, tile)]


def _span_kinds(length: int, tile: int) -> list[tuple[int, int]]:
    """(size, how many) of the full tiles and of the last, smaller one."""
    full, rest = divmod(length, tile)
    return [(size, count) for size, count in ((tile, full), (rest, 1)) if size and count]


def _scale_words(config: ArrayConfig, mode: ScaleMode, length: int) -> int:
    if mode == ScaleMode.NONE:
        return 0
    return 1 if mode == ScaleMode.TENSOR else ceil_div(FLOAT_BYTES * length, config.bus_bytes)


_PLACES = {"a_address", "b_address", "c_address", "scale_a_address", "scale_b_address", "bias_address", "tag"}
_counted_fields = attrgetter(*(field.name for field in fields(Gemm) if field.name not in _PLACES))


@dataclass(frozen=True)
class _Countable:
    """A GEMM that equals all others with the same counts: those that differ only in where their operands lie."""

    key: tuple[object, ...]
    op: Gemm = field(compare=False)


@lru_cache(maxsize=4096)
def _count_gemm(config: ArrayConfig, countable: _Countable) -> Counters:
    op = countable.op
    kinds_m, kinds_n, kinds_k = (
        _span_kinds(op.m, op.tile_m),
        _span_kinds(op.n, op.tile_n),
        _span_kinds(op.k, op.tile_k),
    )
    cycles = busy = vectors = results = 0
    for (tile_m, count_m), (tile_n, count_n) in product(kinds_m, kinds_n):
        tiles = count_m * count_n
        vectors += tiles * vector_tile_words(config, op, tile_m, tile_n)
        results += tiles * result_tile_words(config, op, tile_m, tile_n)
        for tile_k, count_k in kinds_k:
            time = array_time(config, op.dataflow, tile_m, tile_n, tile_k)
            cycles += tiles * count_k * time.cycles
            busy += tiles * count_k * time.busy
    return Counters(
        array_cycles=cycles,
        busy_cycles=busy,
        input_words=_all_input_words(config, op),
        weight_words=_all_weight_words(config, op, kinds_n, kinds_k),
        vector_words=vectors,
        result_words_loaded=results if op.accumulate else 0,
        result_words_stored=results,
        program_words=INSTRUCTION_BYTES // config.bus_bytes,
    )


def _all_input_words(config: ArrayConfig, op: Gemm) -> int:
    if op.reuse_a:
        return 0
    tiles_m, tiles_n, tiles_k = ceil_div(op.m, op.tile_m), ceil_div(op.n, op.tile_n), ceil_div(op.k, op.tile_k)
    # Consecutive steps share the A tile if k is one tile and the column of C changes but not its row of tiles.
    kept = tiles_k == 1 and (op.loop_order == LoopOrder.M_OUTER or tiles_m == 1)
    passes = 1 if kept else tiles_n
    if op.a_form == OperandA.PATCHES:
        return passes * input_tile_words(config, op, 0, op.m, 0, op.k)
    if op.transpose_a:
        lines = sum(count * ceil_div(tile, config.bus_bytes) for tile, count in _span_kinds(op.m, op.tile_m))
        return passes * op.k * lines
    lines = sum(count * ceil_div(tile, config.bus_bytes) for tile, count in _span_kinds(op.k, op.tile_k))
    return passes * op.m * lines


def _all_weight_words(
    config: ArrayConfig, op: Gemm, kinds_n: list[tuple[int, int]], kinds_k: list[tuple[int, int]]
) -> int:
    tiles_m, tiles_n, tiles_k = ceil_div(op.m, op.tile_m), ceil_div(op.n, op.tile_n), ceil_div(op.k, op.tile_k)
    kept = tiles_k == 1 and (op.loop_order == LoopOrder.N_OUTER or tiles_n == 1)
    once = sum(
        count_n * count_k * weight_tile_words(config, op, tile_n, tile_k)
        for (tile_n, count_n), (tile_k, count_k) in product(kinds_n, kinds_k)
    )
    return once if kept else tiles_m * once


def rows_kept(config: ArrayConfig, op: Quantize) -> bool:
    """Whether a QUANTIZE reads its matrix once, because its rows can be kept in the input memory."""
    return op.axis == Axis.ROW and ceil_div(op.n * SOURCE_BYTES[op.source], config.bus_bytes) <= config.row_words


def _count_quantize(config: ArrayConfig, op: Quantize, nonfinite: bool) -> Counters:
    bus = config.bus_bytes
    one_pass = op.m * ceil_div(op.n * SOURCE_BYTES[op.source], bus)
    # Rows are all written; a tensor or columns are not when the first pass has met something that is not finite.
    stops = nonfinite and op.axis != Axis.ROW
    return Counters(
        vector_words=ceil_div(FLOAT_BYTES * op.n, bus) if op.multiply else 0,
        source_words=one_pass if stops or rows_kept(config, op) else 2 * one_pass,
        quantized_words=0 if stops else op.m * ceil_div(op.n, bus) + ceil_div(FLOAT_BYTES * scale_count(op), bus),
        program_words=INSTRUCTION_BYTES // bus,
    )


def _words_per_position(op: Gemm, bus: int, k0: int, k1: int) -> NDArray[np.int64]:
    """Per kernel position, the bus words of a pixel that lie in columns k0 .. k1 - 1 of A."""
    starts = np.arange(op.kernel_height * op.kernel_width, dtype=np.int64) * op.channels
    return np.maximum(np.minimum(starts + op.channels, k1) - np.maximum(starts, k0), 0) // bus
