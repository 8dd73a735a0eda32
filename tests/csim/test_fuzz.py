"""No instruction word makes the hardware's source read or write out of bounds, overflow, hang, or answer wrongly.

The source is compiled with AddressSanitizer and UndefinedBehaviorSanitizer; the memory that a program sees is a block of its own,
so a byte outside the window is a report. Each start must leave the status and the memory that the emulator leaves.
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from systolora.hls.check import Region
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Axis, End, ErrorCode, Gemm, Instruction, Quantize, encode_program
from systolora.sim.csim.build import build_sanitized, compile_cached, csim_sources, sanitized
from systolora.sim.functional.controller import Controller
from systolora.sim.functional.memory import DEFAULT_BASE, DeviceMemory

from .mutations import DATA, MEMORY_BYTES, Mutator, Start

CONFIG = ArrayConfig(rows=4, cols=8, input_bytes=2 * 4 * 64, weight_bytes=2 * 8 * 32, output_bytes=8 * 8 * 32)
"""The smallest memories that are allowed, so that tiles which do not fit come up often."""


def record(start: Start, sequence: int) -> bytes:
    """A start as the runner reads it."""
    call = (start.window.address, start.window.size, start.program_address, start.count, start.status_address, sequence)
    return struct.pack("<7Q", *call, len(start.code)) + start.code


def expect(
    memory: DeviceMemory, controller: Controller, image: NDArray[np.uint8], start: Start, sequence: int
) -> bytes:
    """What the runner must answer: error, its index, fingerprint, and all of the memory."""
    memory.bytes[:] = image
    if start.code:
        memory.view(start.program_address, len(start.code))[:] = np.frombuffer(start.code, np.uint8)
    status = controller.run(start.window, start.program_address, start.count, start.status_address, sequence)
    return struct.pack("<3I", status.error, status.error_index, controller.config.fingerprint) + memory.bytes.tobytes()


def fuzz(program: Path, folder: Path, seed: int, starts: int) -> Counter[ErrorCode]:
    """Runs random starts and compares each answer; returns how often each error code came."""
    mutator = Mutator(CONFIG, seed)
    image = np.frombuffer(mutator.image(), np.uint8)
    return compare(program, folder, image, [mutator.start() for _ in range(starts)], f"seed {seed}")


def compare(
    program: Path, folder: Path, image: NDArray[np.uint8], drawn: list[Start], name: str, config: ArrayConfig = CONFIG
) -> Counter[ErrorCode]:
    """Runs starts, each on a fresh image; returns how often each error code came."""
    request = folder / "request.bin"
    answer = folder / "answer.bin"
    head = struct.pack("<2Q", DEFAULT_BASE, MEMORY_BYTES) + image.tobytes()
    request.write_bytes(head + b"".join(record(start, index) for index, start in enumerate(drawn)))
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    with request.open("rb") as source, answer.open("wb") as sink:
        done = subprocess.run(
            [program], stdin=source, stdout=sink, stderr=subprocess.PIPE, env=environment, timeout=800
        )
    report = done.stderr.decode(errors="replace")
    assert done.returncode == 0 and not report, f"{name}: the sanitizers report\n{report[:4000]}"

    memory = DeviceMemory(MEMORY_BYTES)
    controller = Controller(config, memory)
    seen: Counter[ErrorCode] = Counter()
    with answer.open("rb") as answers:
        for index, start in enumerate(drawn):
            expected = expect(memory, controller, image, start, index)
            got = answers.read(len(expected))
            assert got == expected, f"{name}, start {index}: {explain(expected, got)}\n{start}"
            seen[ErrorCode(struct.unpack_from("<I", expected)[0])] += 1
        assert answers.read() == b""
    return seen


def explain(expected: bytes, got: bytes) -> str:
    """Where two answers differ."""
    if len(got) < len(expected):
        return "no answer"
    if got[:12] != expected[:12]:
        return f"error, index and fingerprint are {struct.unpack_from('<3I', got)}, not {struct.unpack_from('<3I', expected)}"
    different = [index for index, (x, y) in enumerate(zip(expected[12:], got[12:], strict=True)) if x != y]
    return f"{len(different)} bytes of memory differ, the first at {DEFAULT_BASE + different[0]:#x}"


def test_random_and_mutated_instructions(tmp_path: Path) -> None:
    seen = fuzz(build_sanitized(CONFIG), tmp_path, seed=1, starts=3000)
    assert set(seen) == set(ErrorCode), f"the draw misses {set(ErrorCode) - set(seen)}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 20))
def test_a_hundred_thousand_instructions(tmp_path: Path, seed: int) -> None:
    # Ten seeds; a start has two instructions on average beside END, and of seven of them one is left unchanged.
    seen = fuzz(build_sanitized(CONFIG), tmp_path, seed, starts=6000)
    assert sum(seen.values()) == 6000


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("src/operands.hpp", "return region.address >= window.address &&", "return region.address >= 0 ||"),
        ("src/decoder.hpp", "* length <= depth", "* length <= 2 * depth"),
        ("src/load_input.hpp", "if (place.bytes_left != 0)", "if (true)"),
    ],
    ids=["window", "tile", "edge of a row"],
)
def test_a_hole_in_the_checks_is_found(tmp_path: Path, file: str, right: str, wrong: str) -> None:
    sources = csim_sources(CONFIG)
    assert right in sources[file]
    sources[file] = sources[file].replace(right, wrong)
    with pytest.raises(AssertionError, match=r"seed 1"):
        fuzz(compile_cached(sanitized(sources)), tmp_path, seed=1, starts=3000)


def full_programs() -> dict[str, Instruction]:
    """Instructions that fill a memory to its last word; strides are one bus word or as short as can be."""
    limit, place = CONFIG.quantize_limit, DATA.address
    rows = Quantize(limit, 1, place, place + 4096, 16, 16, place + 8192, axis=Axis.ROW)
    columns = Quantize(1, limit, place, place + 4096, 4 * limit, limit, place + 8192, axis=Axis.COLUMN)
    wide = Quantize(1, 3 * limit, place, place + 4096, 12 * limit, 3 * limit, place + 8192, axis=Axis.ROW)
    sizes = {"tile_m": 32, "tile_n": 8, "tile_k": 8}
    gemm = Gemm(
        32,
        8,
        8,
        **sizes,
        a_address=place,
        b_address=place + 512,
        c_address=place + 1024,
        a_stride=16,
        b_stride=16,
        c_stride=32,
    )
    return {"rows": rows, "columns": columns, "wide rows": wide, "tile": gemm}


@pytest.mark.parametrize("name", full_programs())
def test_memories_filled_to_the_last_word(tmp_path: Path, name: str) -> None:
    image = np.zeros(MEMORY_BYTES, np.uint8)
    image[3::4] = 0x40
    code = encode_program([full_programs()[name], End()])
    start = Start(Region(DEFAULT_BASE, MEMORY_BYTES), DEFAULT_BASE, 2, DEFAULT_BASE + 2048, code)
    assert compare(build_sanitized(CONFIG), tmp_path, image, [start], name) == {ErrorCode.OK: 1}
