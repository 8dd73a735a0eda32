"""What a program touches, and whether it may be run twice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from systolora.hls.check import Region
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Axis, End, Gemm, Instruction, Quantize, Result, Rounding, encode_program
from systolora.programs.check import Misplaced, ProgramRegions
from systolora.sim.functional.device import Device, Program
from systolora.sim.functional.emulator import EmulatorDevice
from systolora.sim.functional.randoms import random_gemm, random_quantize
from systolora.sim.functional.trials import gemm_trial, quantize_trial

CONFIG = ArrayConfig(rows=8, cols=8, input_bytes=16384, weight_bytes=16384, output_bytes=32768)
A, B, C, D = 0x1000, 0x2000, 0x3000, 0x4000


def gemm(a: int, b: int, c: int, **changes: object) -> Gemm:
    """16 x 16 x 16, int32: A and B are 256 bytes, C is 1,024."""
    op = Gemm(*(16,) * 6, a, b, c, 16, 16, 64, result=Result.INT32)
    return replace(op, **changes)  # type: ignore[arg-type]


def quantize(source: int, result: int, scales: int, **changes: object) -> Quantize:
    """16 x 16 floats (1,024 bytes) to 256 bytes and 64 bytes of scales."""
    op = Quantize(16, 16, source, result, 64, 16, scales, axis=Axis.ROW)
    return replace(op, **changes)  # type: ignore[arg-type]


def code_of(*instructions: Instruction) -> bytes:
    return encode_program([*instructions, End()])


def test_regions_of_an_instruction() -> None:
    (only,) = ProgramRegions(CONFIG).touched(code_of(gemm(A, B, C)))
    assert only.reads == (Region(A, 256), Region(B, 256))
    assert only.writes == (Region(C, 1024),)
    (only,) = ProgramRegions(CONFIG).touched(code_of(gemm(A, B, C, accumulate=True)))
    assert Region(C, 1024) in only.reads


@pytest.mark.parametrize(
    ("readable", "writable", "expected"),
    [
        ([Region(A, 512), Region(B, 256)], [Region(C, 1024)], None),
        ([Region(A, 255), Region(B, 256)], [Region(C, 1024)], Misplaced(0, Region(A, 256))),
        ([Region(A, 256), Region(B, 256), Region(C, 1024)], [], Misplaced(0, Region(C, 1024))),
        ([Region(A, 256), Region(B, 256)], [Region(C, 1008)], Misplaced(0, Region(C, 1024))),
    ],
)
def test_misplaced(readable: list[Region], writable: list[Region], expected: Misplaced | None) -> None:
    assert ProgramRegions(CONFIG).find_misplaced(code_of(gemm(A, B, C)), readable, writable) == expected


def test_the_index_of_the_misplaced_instruction_counts_all() -> None:
    code = code_of(gemm(A, B, C), gemm(A, B, D))
    areas = [Region(A, 256), Region(B, 256)], [Region(C, 1024)]
    assert ProgramRegions(CONFIG).find_misplaced(code, *areas) == Misplaced(1, Region(D, 1024))


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [
        ([gemm(A, B, C)], True),
        ([gemm(A, B, C, accumulate=True)], False),
        ([gemm(A, B, C), gemm(A, B, C, accumulate=True)], True),
        ([gemm(A, B, C, accumulate=True), gemm(A, B, C)], False),
        ([quantize(A, B, C), gemm(B, D, 0x5000)], True),
        ([gemm(B, D, 0x5000), quantize(A, B, C)], False),
        ([quantize(A, B, C), quantize(A, B, C, seed=1, rounding=Rounding.STOCHASTIC)], True),
    ],
)
def test_replayable(instructions: list[Instruction], expected: bool) -> None:
    assert ProgramRegions(CONFIG).replayable(code_of(*instructions)) is expected


def image(device: Device, program: Program) -> list[bytes]:
    return [buffer.read().tobytes() for buffer in dict.fromkeys((*program.reads, *program.writes))]


def test_replayable_programs_give_the_same_bytes_after_any_part_of_them_has_run() -> None:
    rng = np.random.default_rng(3)
    regions, replayed = ProgramRegions(CONFIG), 0
    for index in range(60):
        with EmulatorDevice(CONFIG, 1 << 22) as device:
            trials = [quantize_trial(device, rng, random_quantize(rng, 9, 20))]
            trials.append(gemm_trial(device, rng, random_gemm(CONFIG, rng, 10, 11, 12)))
            codes = [trial.program.code[:-128] for trial in trials]
            code = b"".join(codes) * 2 + trials[0].program.code[-128:]
            program = Program(
                code,
                tuple(buffer for trial in trials for buffer in trial.program.reads),
                tuple(buffer for trial in trials for buffer in trial.program.writes),
            )
            before = image(device, program)
            device.run(program)
            once = image(device, program)
            for buffer, content in zip(dict.fromkeys((*program.reads, *program.writes)), before, strict=True):
                buffer.write()[:] = np.frombuffer(content, np.uint8)
            part = index % 4
            device.run(replace(program, code=code[: 128 * part] + code[-128:]))
            device.run(program)
            if regions.replayable(code):
                replayed += 1
                assert image(device, program) == once
    assert 10 < replayed < 60, "both kinds must occur"


def test_the_regions_of_a_stochastic_quantize_are_known_whatever_its_seed() -> None:
    regions = ProgramRegions(CONFIG)
    for seed in range(100):
        code = code_of(quantize(A, B, C, rounding=Rounding.STOCHASTIC, seed=seed))
        assert [item.writes for item in regions.touched(code)] == [(Region(B, 256), Region(C, 64))]
    assert len(regions._known) == 2
