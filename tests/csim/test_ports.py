"""Memory ports: what the stand-in for `hls::burst_maxi` refuses, and how far the generated loops ask ahead."""

from __future__ import annotations

import ctypes
import subprocess
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from systolora.hls.config import ArrayConfig
from systolora.hls.design import BURST_WORDS, REQUESTS_IN_FLIGHT
from systolora.hls.generate import render_sources, render_standin
from systolora.hls.isa import Axis, Dataflow, Gemm, OperandA, OperandB, Quantize, Result, Source
from systolora.sim.csim.build import Build, compile_cached, csim_sources
from systolora.sim.functional.controller import Controller

from .random_programs import Case, ProgramBuilder, random_case
from .test_bits import small_memories

PORTS = ("program", "input", "weight", "output")

FAULTS = {
    "a word that was not asked for": ("port.read_request(0, 1); port.read(); port.read();", "port.write(1);"),
    "a request of no words": ("port.read_request(0, 0);", "port.write_request(0, 0);"),
    "a request is left over": (
        "port.read_request(0, 2); port.read();",
        "port.write_request(0, 1); port.write(1);",
    ),
    "more requests than the port holds": (
        "for (int i = 0; i < HELD + 1; ++i) port.read_request(i, 1);",
        # Words have passed, answers were not taken.
        "for (int i = 0; i < HELD + 1; ++i) { port.write_request(i, 1); port.write(i); }",
    ),
    "more words ahead than the port holds": (
        "port.read_request(0, 1); port.read_request(1, HELD * WORDS);",
        "port.write_request(0, HELD * WORDS); port.write_request(0, 1);",
    ),
    "an answer to a request whose words have not passed": (
        "port.write_response();",
        "port.write_request(0, 2); port.write(1); port.write_response();",
    ),
}

RIGHT = """
    Port copy = port;
    for (int i = 0; i < HELD; ++i) copy.read_request(i * WORDS, WORDS);
    for (int i = 0; i < HELD * WORDS; ++i) if (port.read() != i) return 3;
    port.read_request(0, 2 * HELD * WORDS);  // longer than the buffer, but nothing is asked for behind it
    for (int i = 0; i < 2 * HELD * WORDS; ++i) if (port.read() != i) return 4;
    for (int i = 0; i < HELD; ++i) port.write_request(i, 1);
    for (int i = 0; i < HELD; ++i) copy.write(-i);
    for (int i = 0; i < HELD; ++i) port.write_response();
    if (words[HELD - 1] != 1 - HELD || port.most_reads() != HELD || copy.most_writes() != HELD) return 5;
"""


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that runs the case of its argument."""
    folder = tmp_path_factory.mktemp("standin")
    (folder / "hls_burst_maxi.h").write_text(render_standin(ArrayConfig()))
    texts = [text for pair in FAULTS.values() for text in pair] + [RIGHT]
    cases = "\n".join(f"case {number}: {{ {text} }} break;" for number, text in enumerate(texts))
    (folder / "main.cpp").write_text(
        '#include "hls_burst_maxi.h"\n#include <cstdlib>\ntypedef hls::burst_maxi<int> Port;\n'
        f"enum {{ HELD = {REQUESTS_IN_FLIGHT}, WORDS = {BURST_WORDS} }};\nstatic int words[2 * HELD * WORDS];\n"
        "static int run(Port port, int number)\n{\n"
        f"    switch (number) {{\n{cases}\n    }}\n    return 0;\n}}\n"
        "int main(int, char **arguments)\n{\n"
        "    for (int i = 0; i < 2 * HELD * WORDS; ++i) words[i] = i;\n"
        "    return run(words, std::atoi(arguments[1]));\n}\n"
    )
    command = ["g++", "-std=c++14", "-fsanitize=address,undefined", "-Wall", "-Werror", "main.cpp", "-o", "main"]
    subprocess.run(command, cwd=folder, check=True)
    return folder / "main"


@pytest.mark.parametrize("side", ["read", "write"])
@pytest.mark.parametrize("fault", FAULTS)
def test_the_stand_in_refuses(standin: Path, fault: str, side: str) -> None:
    number = 2 * list(FAULTS).index(fault) + ("read", "write").index(side)
    done = subprocess.run([standin, str(number)], capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr.startswith(f"hls::burst_maxi: {fault}\n")


def test_the_stand_in_takes_what_is_right(standin: Path) -> None:
    done = subprocess.run([standin, str(2 * len(FAULTS))], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def most_open(config: ArrayConfig, case: Case) -> dict[str, tuple[int, int]]:
    """Most reads and writes that each port had open at once while a case ran, which gives the emulator's memory."""
    kernels = files("systolora.sim") / "kernels"
    sources = csim_sources(config) | {
        "src/csim_entry.cpp": (kernels / "csim_entry.cpp").read_text(encoding="utf-8"),
        "src/csim.cpp": (Path(__file__).parent / "count_requests.cpp").read_text(encoding="utf-8"),
    }
    flags = ("-std=c++14", "-ffp-contract=off", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-DSYSTOLORA_NATIVE")
    library = ctypes.CDLL(str(compile_cached(Build(sources, "src/csim.cpp", flags, ".so"))))
    expected, got = case.memory(), case.memory()
    Controller(config, expected).run(case.window, case.program_address, case.count, case.status_address, 7)
    call = (ctypes.c_uint64 * 6)(
        case.window.address, case.window.size, case.program_address, case.count, case.status_address, 7
    )
    result, most = (ctypes.c_uint32 * 3)(), ((ctypes.c_uint * 2) * 4)()
    library.count_requests(ctypes.c_void_p(got.pointer), call, result, most)
    assert np.array_equal(expected.bytes, got.bytes)
    return {name: (most[port][0], most[port][1]) for port, name in enumerate(PORTS)}


CONFIG = small_memories(16, 16)


def one_gemm(**changes: object) -> Case:
    """64 x 64 x 64 with every row a run of its own: strides are longer than rows."""
    builder = ProgramBuilder(CONFIG, np.random.default_rng(0))
    a, b = (builder.place(builder.integers((64, 64)), 64, 96) for _ in range(2))
    c = builder.place(builder.floats(64 * 80, wild=False).reshape(64, 80), 64, 320)
    places = {"a_address": a, "b_address": b, "c_address": c, "a_stride": 96, "b_stride": 96, "c_stride": 320}
    op = Gemm(64, 64, 64, 64, 64, 64, **places, result=Result.FLOAT32)  # type: ignore[arg-type]
    assert builder.add(replace(op, **changes))
    return builder.case()


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dataflow", list(Dataflow))
def test_strided_operands_are_asked_for_as_far_ahead_as_the_port_holds(
    dataflow: Dataflow, turned: bool, accumulate: bool
) -> None:
    case = one_gemm(dataflow=dataflow, transpose_a=turned, transpose_b=turned, accumulate=accumulate)
    most = most_open(CONFIG, case)
    held = REQUESTS_IN_FLIGHT
    assert most == {"program": (1, 1), "input": (held, 0), "weight": (held, 0), "output": (held * accumulate, held)}


def test_rows_of_results_are_shared_by_two_ports() -> None:
    """Even rows through one port, odd ones through that of programs, each with as many requests as it holds."""
    case = one_gemm(accumulate=True)
    most = most_open(CONFIG.with_changes(output_ports=2), case)
    held = REQUESTS_IN_FLIGHT
    assert (most["output"], most["program"]) == ((held, held), (held, held))


def test_patches_and_reversed_blocks_are_asked_for_ahead_too() -> None:
    """A 3 x 3 kernel over 16 x 16 pixels of 16 channels: a run a pixel, none for the padding."""
    builder = ProgramBuilder(CONFIG, np.random.default_rng(0))
    image = builder.place(builder.integers((256, 16)), 256, 32)
    weight = builder.place(builder.integers((9 * 16, 16)), 9 * 16, 32)
    c = builder.reserve(256 * 64)
    geometry = {"channels": 16, "image_height": 16, "image_width": 16, "out_height": 16, "out_width": 16}
    kernel = {"kernel_height": 3, "kernel_width": 3, "step": 1, "pad_top": 1, "pad_left": 1}
    forms = {"a_form": OperandA.PATCHES, "b_form": OperandB.REVERSED_BLOCKS, "transpose_b": True}
    places = {"a_address": image, "b_address": weight, "c_address": c, "a_stride": 32, "b_stride": 32, "c_stride": 64}
    op = Gemm(256, 16, 144, 48, 16, 144, **places, **geometry, **kernel, **forms)  # type: ignore[arg-type]
    assert builder.add(op)
    most = most_open(CONFIG, builder.case())
    assert most["input"] == most["weight"] == (REQUESTS_IN_FLIGHT, 0)


@pytest.mark.parametrize("axis", list(Axis))
@pytest.mark.parametrize("columns", [4, 600])
def test_rows_of_quantize_are_asked_for_ahead_too(columns: int, axis: Axis) -> None:
    """Rows with gaps: runs of one word, which a piece has many of, and rows that are longer than a run."""
    builder = ProgramBuilder(CONFIG, np.random.default_rng(0))
    rows, a_stride, c_stride = 24, 4 * columns + 16, (columns + 15) // 16 * 16 + 16
    a = builder.place(builder.floats(rows * columns, wild=False).reshape(rows, columns), rows, a_stride)
    c, scales = builder.reserve(rows * c_stride), builder.reserve(4 * max(rows, columns))
    places = {"a_address": a, "c_address": c, "a_stride": a_stride, "c_stride": c_stride, "scale_a_address": scales}
    assert builder.add(Quantize(m=rows, n=columns, **places, source=Source.FLOAT32, axis=axis))
    most = most_open(CONFIG, builder.case())
    assert (most["input"], most["output"]) == ((REQUESTS_IN_FLIGHT, 0), (0, REQUESTS_IN_FLIGHT))


@pytest.mark.parametrize(
    "config", [CONFIG, CONFIG.with_changes(output_ports=2), ArrayConfig()], ids=["small", "two output ports", "default"]
)
def test_no_function_asks_behind_a_word_that_it_reads(config: ArrayConfig) -> None:
    """In a pipelined loop the request of a later turn would stand behind a word that may wait for it: a hang that
    C-simulation cannot show, as it runs turn by turn."""
    readers = 0
    for name, text in render_sources(config).items():
        for function in text.split("\n}\n"):
            word = function.find(".read()")
            readers += word >= 0
            assert word < 0 or max(function.rfind(" ask("), function.rfind(".read_request(")) < word, (name, function)
    assert readers >= 5


@pytest.mark.parametrize("seed", range(8))
def test_random_programs_ask_ahead_and_for_no_more_than_a_port_holds(seed: int) -> None:
    most = most_open(CONFIG, random_case(CONFIG, 400 + seed))
    assert 1 < max(most["input"] + most["weight"]) <= REQUESTS_IN_FLIGHT
    assert max(most["output"] + most["program"]) <= REQUESTS_IN_FLIGHT
