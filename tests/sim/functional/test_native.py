"""The compiled kernels: how they are built and proved, and that nothing depends on them but speed."""

from __future__ import annotations

import ctypes
import os
import stat
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import FIELDS, Axis, Opcode, Result, Rounding, ScaleMode
from systolora.sim.functional import compiled, native
from systolora.sim.functional.compiled import CompiledExecutor, fastest_executor, self_check
from systolora.sim.functional.emulator import EmulatorDevice
from systolora.sim.functional.native import Unit, best_unit
from systolora.sim.functional.randoms import GEMM_PATTERNS, random_gemm, random_quantize
from systolora.sim.functional.trials import gemm_trial, quantize_trial
from systolora.sim.functional.whole import NumpyExecutor

CONFIG = ArrayConfig(rows=8, cols=8)
BIG = ArrayConfig(input_bytes=1 << 23, weight_bytes=1 << 23, output_bytes=1 << 24)


@pytest.fixture
def library() -> ctypes.CDLL:
    loaded = native.load_library()
    if loaded is None:
        pytest.skip("no C++ compiler here")
    return loaded


@pytest.fixture
def fresh_caches() -> Iterator[None]:
    def clear() -> None:
        native.load_library.cache_clear()
        compiled.proved_unit.cache_clear()

    clear()
    yield
    clear()


def test_the_header_names_every_field() -> None:
    header = native.fields_header()
    for opcode in (Opcode.GEMM, Opcode.QUANTIZE):
        for field in FIELDS[opcode]:
            assert f" {field.name};" in header


def test_the_self_check_passes_here(library: ctypes.CDLL) -> None:
    assert self_check(NumpyExecutor) == ""
    assert isinstance(fastest_executor(CONFIG), CompiledExecutor)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_any_number_of_threads_gives_the_same_bits(
    library: ctypes.CDLL, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shapes that are large enough for the kernels to share the work: by rows, by columns, in parts of k."""
    monkeypatch.setattr(compiled, "thread_count", lambda: threads)
    shapes = [(700, 640, 700), (40, 9000, 1300), (500, 300, 3000)]
    for seed, (m, n, k) in enumerate(shapes):
        rng = np.random.default_rng(seed)
        op = random_gemm(BIG, rng, m, n, k)
        op = replace(op, result=Result(seed), tile_m=16, tile_n=16, tile_k=16)
        if not seed:
            op = replace(op, scale_a=ScaleMode.NONE, scale_b=ScaleMode.NONE, bias=False)
        with EmulatorDevice(BIG, 1 << 28) as device:
            trial = gemm_trial(device, rng, op)
            device.run(trial.program)
            assert trial.mismatch() == ""
    for axis in Axis:
        rng = np.random.default_rng(axis)
        op_quantize = replace(random_quantize(rng, 2000, 700), axis=axis, rounding=Rounding(axis % 2))
        with EmulatorDevice(BIG, 1 << 28) as device:
            trial = quantize_trial(device, rng, op_quantize)
            device.run(trial.program)
            assert trial.mismatch() == ""


@pytest.mark.parametrize("form", ["int32", "float"])
@pytest.mark.parametrize(
    "shape",
    [
        (1, 300, 640),
        (3, 77, 5),
        (4, 33, 1300),
        (50, 4, 77),
        (1100, 3, 320),
        (1, 1, 4000),
        (1030, 50, 1700),
        (1024, 40, 77),
    ],
    ids=lambda shape: "x".join(map(str, shape)),
)
def test_each_unit_multiplies_what_it_has_a_way_of_its_own_for(
    library: ctypes.CDLL, shape: tuple[int, int, int], form: str
) -> None:
    """Few rows, few columns, many rows in strips with k in parts; sums made in C, or finished on the way there."""
    for unit in range(1, best_unit(library) + 1):
        for seed, pattern in enumerate(GEMM_PATTERNS):
            rng = np.random.default_rng(seed)
            op = replace(random_gemm(BIG, rng, *shape), transpose_a=False, transpose_b=seed % 4 != 3, accumulate=False)
            if form == "int32":
                bare = {"scale_a": ScaleMode.NONE, "scale_b": ScaleMode.NONE, "bias": False, "result": Result.INT32}
                op = replace(op, **bare)
            with EmulatorDevice(BIG, 1 << 28, executor=CompiledExecutor(BIG, library, Unit(unit))) as device:
                trial = gemm_trial(device, rng, op, pattern)
                device.run(trial.program)
                assert trial.mismatch() == ""


def test_a_unit_that_is_not_there_writes_nothing(library: ctypes.CDLL) -> None:
    if best_unit(library) == Unit.MATRIX:
        pytest.skip("this processor has every unit")
    rng = np.random.default_rng(0)
    with EmulatorDevice(CONFIG, 1 << 24, executor=CompiledExecutor(CONFIG, library, Unit.MATRIX)) as device:
        trial = gemm_trial(device, rng, random_gemm(CONFIG, rng, 90, 90, 90))
        with pytest.raises(RuntimeError, match="a unit that this processor does not have"):
            device.run(trial.program)


def test_a_large_result_is_written_past_the_caches(library: ctypes.CDLL) -> None:
    """More than 8 MB of C takes another way to memory; also where the last cache line of a row is not full."""
    for result, n in ((Result.FLOAT32, 1100), (Result.BFLOAT16, 2050), (Result.INT32, 1088)):
        rng = np.random.default_rng(int(result))
        op = replace(
            random_gemm(BIG, rng, 2100, n, 20), result=result, accumulate=False, tile_m=16, tile_n=16, tile_k=20
        )
        if result == Result.INT32:
            op = replace(op, scale_a=ScaleMode.NONE, scale_b=ScaleMode.NONE, bias=False)
        with EmulatorDevice(BIG, 1 << 28) as device:
            trial = gemm_trial(device, rng, op)
            device.run(trial.program)
            assert trial.mismatch() == ""


def test_two_devices_may_work_in_two_threads(library: ctypes.CDLL) -> None:
    wrong: list[str] = []

    def work(seed: int) -> None:
        with EmulatorDevice(CONFIG, 1 << 26) as device:
            rng = np.random.default_rng(seed)
            for _ in range(30):
                trial = gemm_trial(device, rng, random_gemm(CONFIG, rng, *rng.integers(1, 100, 3)))
                device.run(trial.program)
                wrong.append(trial.mismatch())
                trial.free()

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == [""] * 90


def test_without_a_compiler_numpy_does_it(fresh_caches: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.warns(
        RuntimeWarning, match="emulating with numpy, which is slower but exact: no C.. compiler; install g"
    ):
        assert isinstance(fastest_executor(CONFIG), NumpyExecutor)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(fastest_executor(CONFIG), NumpyExecutor)


def test_a_compiler_that_fails_is_quoted(fresh_caches: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken-g++"
    broken.write_text("#!/bin/sh\necho out of registers >&2\nexit 1\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(native.BuildError, match="the compiler failed: out of registers"):
        native.build_library()
    assert not list((tmp_path / "cache").rglob("*.so"))


def test_kernels_that_give_wrong_bits_are_not_used(
    library: ctypes.CDLL, fresh_caches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong:
        """The kernels, but QUANTIZE does nothing."""

        systolora_best_unit = staticmethod(lambda: 0)
        systolora_epilogue = library.systolora_epilogue
        systolora_quantize = staticmethod(lambda *arguments: 0)

    monkeypatch.setattr(compiled, "load_library", Wrong)
    with pytest.warns(
        RuntimeWarning, match="the compiled kernels gave wrong bits .*integers: byte .* will not be used"
    ):
        assert isinstance(fastest_executor(CONFIG), NumpyExecutor)


@pytest.mark.filterwarnings("ignore:the vector unit gave wrong bits")  # after the matrix unit, it is tried as well
@pytest.mark.parametrize("unit", [Unit.VECTOR, Unit.MATRIX])
def test_a_unit_that_gives_wrong_bits_is_not_used(
    library: ctypes.CDLL, unit: Unit, fresh_caches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong:
        """The kernels, but the product does nothing, on any unit."""

        systolora_best_unit = staticmethod(lambda: int(unit))
        systolora_gemm = staticmethod(lambda *arguments: 0)
        systolora_epilogue = library.systolora_epilogue
        systolora_quantize = library.systolora_quantize

    monkeypatch.setattr(compiled, "load_library", Wrong)
    with pytest.warns(RuntimeWarning, match=f"the {unit.name.lower()} unit gave wrong bits"):
        executor = fastest_executor(CONFIG)
    assert isinstance(executor, CompiledExecutor) and executor.unit == Unit.NONE
    assert self_check(lambda config: executor if config == CONFIG else fastest_executor(config)) == ""


@pytest.mark.parametrize("architecture", ["x86-64", "x86-64-v3", "icelake-server", "sapphirerapids"])
def test_every_kernel_compiles_for_other_processors(library: ctypes.CDLL, architecture: str, tmp_path: Path) -> None:
    (tmp_path / "fields.hpp").write_text(native.fields_header())
    flags = [f"-march={architecture}" if flag == "-march=native" else flag for flag in native.FLAGS]
    for unit in native.UNITS:
        command = [native._compiler(), *flags, "-fsyntax-only", f"-I{tmp_path}", str(native.SOURCES / unit)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["x86-64", "x86-64-v3", "x86-64-v4"])
def test_other_processors_get_the_same_bits(
    library: ctypes.CDLL, fresh_caches: None, architecture: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the compiler makes for processors without a matrix unit, or without wide vectors, as far as this one runs it."""
    if architecture == "x86-64-v4" and "avx512f" not in native._processor():
        pytest.skip("no AVX-512 here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    flags = [f"-march={architecture}" if flag == "-march=native" else flag for flag in native.FLAGS]
    monkeypatch.setattr(native, "_flags", lambda: flags)
    executor = fastest_executor(CONFIG)
    assert isinstance(executor, CompiledExecutor) and executor.unit == Unit.NONE


def test_they_can_be_left_out(fresh_caches: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYSTOLORA_NATIVE", "0")
    assert isinstance(fastest_executor(CONFIG), NumpyExecutor)


def test_the_cache_depends_on_sources_compiler_and_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = native.library_path()
    assert before.parent == tmp_path / "systolora"
    monkeypatch.setattr(native, "_processor", lambda: "another one")
    assert native.library_path() != before
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(native, "fields_header", lambda: "// another instruction set")
    assert native.library_path() != before


def test_threads_follow_torch_or_the_environment() -> None:
    """In a process of its own, because torch, once imported, decides."""
    code = "from systolora.sim.functional.native import thread_count as t; print(t())"
    available = len(os.sched_getaffinity(0))
    for setting, expected in (("1", 1), ("", available), ("1000", available)):
        environment = {**os.environ, "OMP_NUM_THREADS": setting}
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert int(run.stdout) == expected
    import torch

    assert native.thread_count() == torch.get_num_threads()
