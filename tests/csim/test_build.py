"""Compiling the generated C++: no warning from any compiler, the testbench without Python, and the cache."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from systolora.hls.config import ArrayConfig
from systolora.hls.generate import GOLDEN_FILE, write_project
from systolora.sim.csim import build as csim_build
from systolora.sim.csim.build import (
    WARNINGS,
    CsimBuildError,
    build_library,
    cache_folder,
    compile_cached,
    csim_sources,
    sanitized,
)
from systolora.sim.csim.golden import golden_programs, write_golden

CONFIGURATIONS = {
    "64x64": ArrayConfig(),
    "8x16": ArrayConfig(rows=8, cols=16),
    "6x10, bus 4, one product": ArrayConfig(
        rows=6, cols=10, bus_bytes=4, packed_dsp=False, input_bytes=3072, weight_bytes=5120, output_bytes=20480
    ),
    "12x8, two output ports": ArrayConfig(
        rows=12, cols=8, output_ports=2, input_bytes=3072, weight_bytes=5120, output_bytes=20480
    ),
    "256x256, bus 64": ArrayConfig(rows=256, cols=256, bus_bytes=64),
}


def write_all(config: ArrayConfig, folder: Path) -> None:
    """A generated project with its golden data."""
    write_project(config, folder)
    write_golden(config, folder)


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
@pytest.mark.parametrize(("name", "standard"), [*((name, "c++14") for name in CONFIGURATIONS), ("8x16", "c++17")])
def test_no_warning(name: str, compiler: str, standard: str, tmp_path: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    write_all(CONFIGURATIONS[name], tmp_path)
    for source in ("src/systolora_top.cpp", "tb/testbench.cpp"):
        command = [
            compiler,
            f"-std={standard}",
            "-O1",
            *WARNINGS,
            "-Werror",
            "-DSYSTOLORA_NATIVE",
            "-Isrc",
            "-Itb/standin",
            "-c",
            source,
        ]
        done = subprocess.run([*command, "-o", "/dev/null"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr, done.stderr[:3000]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_testbench_needs_no_python(name: str, tmp_path: Path) -> None:
    write_all(CONFIGURATIONS[name], tmp_path)
    done = make_bare(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "on plain integer types" in done.stdout
    assert done.stdout.count("ok: ") == len(golden_programs(CONFIGURATIONS[name]))


def test_ap_int_is_taken_where_the_compiler_finds_it(tmp_path: Path, ap_headers: Path) -> None:
    write_all(CONFIGURATIONS["8x16"], tmp_path)
    assert "-DSYSTOLORA_NATIVE" in make_bare(tmp_path, "--dry-run").stdout
    assert "-DSYSTOLORA_NATIVE" not in make_bare(tmp_path, "--dry-run", CPATH=str(ap_headers)).stdout
    assert "-DSYSTOLORA_NATIVE" in make_bare(tmp_path, "--dry-run", "NATIVE=1", CPATH=str(ap_headers)).stdout
    installed = tmp_path / "vitis"
    (installed / "include").mkdir(parents=True)
    (installed / "include" / "ap_int.h").touch()
    assert f"-isystem {installed}/include" in make_bare(tmp_path, "--dry-run", XILINX_HLS=str(installed)).stdout


def test_a_folder_without_ap_int_is_refused(tmp_path: Path) -> None:
    write_all(CONFIGURATIONS["8x16"], tmp_path)
    done = make_bare(tmp_path, f"AP_TYPES={tmp_path}")
    assert done.returncode != 0 and f"AP_TYPES={tmp_path}: there is no ap_int.h" in done.stderr


def make_bare(project: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`make csim` where PATH holds a compiler and make's own tools alone: no Python, and nothing set from outside."""
    tools = project / "tools"
    tools.mkdir(exist_ok=True)
    for name in ("make", "g++", "as", "ld", "sh", "mkdir", "rm", "echo"):
        found = shutil.which(name)
        assert found is not None, name
        (tools / name).unlink(missing_ok=True)
        (tools / name).symlink_to(found)
    command = [str(tools / "make"), "csim", *arguments]
    return subprocess.run(
        command, cwd=project, env={"PATH": str(tools), **environment}, capture_output=True, text=True, check=False
    )


def test_testbench_on_ap_int(tmp_path: Path, ap_headers: Path) -> None:
    write_all(CONFIGURATIONS["8x16"], tmp_path)
    command = ["make", "csim", f"AP_TYPES={ap_headers}", "CXXFLAGS=-O1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[:3000]


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        (GOLDEN_FILE, "constexpr uint32_t kGoldenStatus = 2048;", "constexpr uint32_t kGoldenStatus = 2048 + 128;"),
        ("src/epilogue.hpp", "op.scales_swapped ? factors.scale_a : factors.scale_b", "1.0f"),
        ("src/compute.hpp", "plan.input = sweep_plan(kLeadClocks, ", "plan.input = sweep_plan(kLeadClocks + 1, "),
        ("src/quantize.hpp", "        results.word = zero_bus_word();\n", ""),
        ("src/config.hpp", "kFingerprint = 0x", "kFingerprint = 1 + 0x"),
    ],
    ids=["status", "scale", "clock", "padding", "fingerprint"],
)
def test_testbench_finds_what_is_wrong(tmp_path: Path, file: str, right: str, wrong: str) -> None:
    write_all(CONFIGURATIONS["8x16"], tmp_path)
    text = (tmp_path / file).read_text()
    assert right in text
    (tmp_path / file).write_text(text.replace(right, wrong))
    done = subprocess.run(["make", "csim", "NATIVE=1"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "WRONG: " in done.stdout and "differences" in done.stdout


def test_second_build_comes_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = CONFIGURATIONS["8x16"]
    first = build_library(config)
    assert first.parent == cache_folder() == tmp_path / "systolora"
    made = first.stat().st_mtime_ns
    assert build_library(config) == first and first.stat().st_mtime_ns == made
    assert build_library(config.with_changes(packed_dsp=False)) != first
    assert sorted(path.suffix for path in first.parent.iterdir()) == [".so", ".so"]


def test_broken_sources_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sources = csim_sources(CONFIGURATIONS["8x16"]) | {"src/config.hpp": "constexpr int kRows = 8;\n"}
    with pytest.raises(CsimBuildError, match="did not compile the generated sources"):
        compile_cached(sanitized(sources))
    assert not list((tmp_path / "systolora").iterdir())


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(CsimBuildError, match=r"needs a C\+\+ compiler: install g\+\+"):
        build_library(CONFIGURATIONS["8x16"])


def test_without_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(CsimBuildError, match="pip install --no-deps hls4ml"):
        csim_build.build_library(CONFIGURATIONS["8x16"], native=False)


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("kRows = 8;", "kRows = 3;", "4 to 256 rows"),
        ("kInputLanes = 8;", "kInputLanes = 16;", "segments fill input words"),
        ("kQuantizeLanes = 8;", "kQuantizeLanes = 3;", "lanes are a part of an output word"),
        ("kPieceWords = 1024;", "kPieceWords = 1022;", "a piece gives whole words of integers"),
        ("kInputDepth = 32768;", "kInputDepth = 65537;", "at most 65536 words"),
        ("kMaxK = 131071;", "kMaxK = 131072;", "no sum of kMaxK products overflows"),
        ("kTestbenchBytes = 131072;", "kTestbenchBytes = 131080;", "whole bus words"),
    ],
)
def test_rules_are_asserted(tmp_path: Path, right: str, wrong: str, message: str) -> None:
    text = csim_sources(CONFIGURATIONS["8x16"])["src/config.hpp"]
    assert right in text
    (tmp_path / "config.hpp").write_text(text.replace(right, wrong))
    done = subprocess.run(
        ["g++", "-std=c++14", "-fsyntax-only", "-x", "c++", "config.hpp"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode != 0 and message in done.stderr
