"""The kernels of the matrix unit on any processor with wide vectors: compiled against a software model of its instructions."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Result, ScaleMode
from systolora.sim.functional import compiled, native
from systolora.sim.functional.compiled import CompiledExecutor, self_check
from systolora.sim.functional.emulator import EmulatorDevice
from systolora.sim.functional.native import Unit, best_unit
from systolora.sim.functional.randoms import GEMM_PATTERNS, random_gemm, random_patches
from systolora.sim.functional.trials import gemm_trial

MODEL = Path(__file__).parent / "data" / "tile_model.hpp"
CONFIG = ArrayConfig(input_bytes=1 << 22, weight_bytes=1 << 22, output_bytes=1 << 23)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ctypes.CDLL]:
    """The kernels with modelled tiles. Kept out of the cache folder: they are slow."""
    if "avx512bw" not in native._processor():
        pytest.skip("the kernels of the matrix unit pack by AVX-512")
    flags = [*native._flags(), "-include", str(MODEL)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("kernels")))
        patch.setattr(native, "_flags", lambda: flags)
        native.load_library.cache_clear()
        loaded = native.load_library()
        native.load_library.cache_clear()
    if loaded is None:
        pytest.skip("no C++ compiler here")
    yield loaded


def test_the_self_check_passes(library: ctypes.CDLL) -> None:
    assert best_unit(library) == Unit.MATRIX
    assert self_check(lambda config: CompiledExecutor(config, library, Unit.MATRIX)) == ""


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    "shape",
    [(33, 17, 1041), (64, 64, 256), (100, 200, 2700), (700, 90, 130), (1100, 40, 90), (40, 1200, 200), (256, 256, 320)],
    ids=lambda shape: "x".join(map(str, shape)),
)
def test_products_are_the_references(
    library: ctypes.CDLL, shape: tuple[int, int, int], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the size from which the unit is used: parts and chunks of k, strips, threads by rows and by columns."""
    monkeypatch.setattr(compiled, "thread_count", lambda: threads)
    for seed, pattern in enumerate(GEMM_PATTERNS):
        rng = np.random.default_rng(seed)
        op = random_gemm(CONFIG, rng, *shape)
        if seed == 1:
            bare = {"scale_a": ScaleMode.NONE, "scale_b": ScaleMode.NONE, "bias": False, "result": Result.INT32}
            op = replace(op, **bare)
        check(library, op, pattern, rng)


def test_convolutions_are_the_references(library: ctypes.CDLL) -> None:
    for seed in range(12):
        rng = np.random.default_rng(seed)
        op = random_patches(CONFIG, rng, 200)
        check(library, op, GEMM_PATTERNS[seed % len(GEMM_PATTERNS)], rng)


def check(library: ctypes.CDLL, op: object, pattern: str, rng: np.random.Generator) -> None:
    """Runs a trial on the matrix unit."""
    with EmulatorDevice(CONFIG, 1 << 28, executor=CompiledExecutor(CONFIG, library, Unit.MATRIX)) as device:
        trial = gemm_trial(device, rng, op, pattern)
        device.run(trial.program)
        assert trial.mismatch() == ""
