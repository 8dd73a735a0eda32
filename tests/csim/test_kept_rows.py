"""Rows that QUANTIZE keeps in the input memory, up to its last word, under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from systolora.hls.check import Region, round_up
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Axis, End, ErrorCode, Gemm, Instruction, Quantize, Source, encode_program
from systolora.sim.csim.build import build_sanitized
from systolora.sim.functional.memory import DEFAULT_BASE

from .mutations import DATA, MEMORY_BYTES, Start
from .test_fuzz import compare

CONFIG = ArrayConfig(rows=20, cols=12, input_bytes=2 * 20 * 32, weight_bytes=2 * 12 * 32, output_bytes=8 * 12 * 64)
"""32 words of which each keeps a bus word in 16 of its 20 lanes."""


def quantize(m: int, n: int, source: Source, axis: Axis = Axis.ROW) -> Quantize:
    """A matrix without gaps, its integers with, its scales, and factors, in that order."""
    size = 2 if source == Source.BFLOAT16 else 4
    stride, c_stride = round_up(n * size, 16), round_up(n, 16) + 16
    c = DATA.address + m * stride
    scales = c + m * c_stride
    op = Quantize(m, n, DATA.address, c, stride, c_stride, scales, source=source, axis=axis)
    return replace(op, multiply=True, scale_b_address=scales + round_up(4 * max(m, n), 16))


def test_nothing_is_touched_beyond_the_memories(tmp_path: Path) -> None:
    """Rows of the last word that is kept, and one more; rows of one column, up to as many as one round takes; and a GEMM after
    them, which must load its tile anew."""
    longest = CONFIG.row_words * CONFIG.bus_bytes
    programs: dict[str, list[Instruction]] = {}
    for source, size in ((Source.FLOAT32, 4), (Source.BFLOAT16, 2)):
        for n in (1, 7, longest // size - 1, longest // size, longest // size + 1):
            rows = min(129, 4096 // round_up(n * size, 16))
            programs[f"{source.name} {rows} x {n}"] = [quantize(rows, n, source)]
    a, sizes = DATA.address, {"tile_m": 16, "tile_n": 16, "tile_k": 16}
    gemm = Gemm(
        16, 16, 16, **sizes, a_address=a, b_address=a, c_address=a + 4096, a_stride=16, b_stride=16, c_stride=64
    )
    programs["between GEMMs"] = [gemm, quantize(4, 100, Source.FLOAT32), gemm]
    random = np.random.default_rng(3)
    image = random.integers(0, 256, MEMORY_BYTES).astype(np.uint8)
    image[3::4] &= 0x3F  # finite
    image[1::4] &= 0x3F
    starts = []
    for program in programs.values():
        code = encode_program([*program, End()])
        starts.append(
            Start(Region(DEFAULT_BASE, MEMORY_BYTES), DEFAULT_BASE, len(program) + 1, DEFAULT_BASE + 2048, code)
        )
    seen = compare(build_sanitized(CONFIG), tmp_path, image, starts, "kept rows", CONFIG)
    assert seen == {ErrorCode.OK: len(starts)}
