"""Compiles the generated C++ for C-simulation: a shared library for ctypes, or a sanitized program.

What was built is kept under `~/.cache/systolora`, by a hash of sources, compiler and flags, so that it is built once.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from systolora.hls.config import ArrayConfig
from systolora.hls.generate import render_sources, render_standin
from systolora.hls.regmap import TOP

WARNINGS = ("-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-unused-label")
"""Pragmas and loop labels are for Vitis HLS; a C++ compiler knows neither."""

# Nothing may be fused: the contract rounds after each operation.
_BASE = ("-std=c++14", "-ffp-contract=off", *WARNINGS)
# Hidden, because the registers of the array are static variables of inline functions: visible ones would be shared by all
# libraries of a process, of whatever configuration.
_LIBRARY = (*_BASE, "-O3", "-march=native", "-fPIC", "-shared", "-fvisibility=hidden")
# An ap_int tidies its unused bits before it has a value; the compiler sees that once it is inlined.
_AP_QUIET = ("-Wno-uninitialized", "-Wno-maybe-uninitialized")
_SANITIZED = (*_BASE, "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


class CsimBuildError(RuntimeError):
    """No compiler, no headers, or sources that do not compile."""


@dataclass(frozen=True)
class Build:
    """What is compiled: the files, the one among them that the compiler is given, and its flags."""

    sources: dict[str, str]
    main: str
    flags: tuple[str, ...]
    suffix: str


def build_library(config: ArrayConfig, *, native: bool = True, ap_headers: Path | None = None) -> Path:
    """A shared library with the function `systolora_csim` (sim/kernels/csim_entry.cpp).

    Args:
        native: plain integer types, fast. Otherwise ap_int, which needs the headers.
        ap_headers: folder with Xilinx's open `ap_int.h`; by default that of an installed hls4ml.

    Raises:
        CsimBuildError: if there is no g++ or no ap_int.h, or the sources do not compile.
    """
    sources = csim_sources(config) | {"src/csim.cpp": _amalgam("csim_entry.cpp")}
    types: tuple[str, ...] = ("-DSYSTOLORA_NATIVE",)
    if not native:
        types = ("-isystem", str(ap_headers or find_ap_headers()), *_AP_QUIET)
    return compile_cached(Build(sources, "src/csim.cpp", (*_LIBRARY, *types), ".so"))


def csim_sources(config: ArrayConfig) -> dict[str, str]:
    """The accelerator's C++ and the header that stands in for one of Vitis HLS: path -> text."""
    return render_sources(config) | {"src/hls_burst_maxi.h": render_standin(config)}


def build_sanitized(config: ArrayConfig) -> Path:
    """A program that runs programs under AddressSanitizer and UndefinedBehaviorSanitizer (sim/kernels/csim_runner.cpp).

    Raises:
        CsimBuildError: as `build_library`.
    """
    return compile_cached(sanitized(csim_sources(config)))


def sanitized(sources: dict[str, str]) -> Build:
    """How the program of `build_sanitized` is made of an accelerator's sources."""
    harness = {"src/csim_entry.cpp": _kernel("csim_entry.cpp"), "src/csim.cpp": _amalgam("csim_runner.cpp")}
    return Build(sources | harness, "src/csim.cpp", (*_SANITIZED, "-DSYSTOLORA_NATIVE"), "")


def find_ap_headers() -> Path:
    """The folder with Xilinx's open `ap_int.h` (Apache-2.0) in an installed hls4ml.

    Raises:
        CsimBuildError: if hls4ml is not installed.
    """
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        listed = distribution("hls4ml").files or []
    except PackageNotFoundError:
        raise CsimBuildError(
            "C-simulation with ap_int needs Xilinx's open headers: pip install --no-deps hls4ml==1.3.0, or give the folder "
            "that holds ap_int.h; the native types need nothing and give the same bits"
        ) from None
    for file in listed:
        if file.name == "ap_int.h" and "vivado" in file.parts:
            return Path(str(file.locate())).parent
    raise CsimBuildError("the installed hls4ml has no ap_int.h: pip install --no-deps hls4ml==1.3.0")


def cache_folder() -> Path:
    """Where builds are kept: `$XDG_CACHE_HOME/systolora` or `~/.cache/systolora`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "systolora"


def compile_cached(build: Build) -> Path:
    """The compiled file, from the cache if it is there. Safe for several processes at once.

    Raises:
        CsimBuildError: if there is no g++, or the sources do not compile; the text holds the compiler's first lines.
    """
    compiler = _compiler()
    key = _key(build, compiler)
    target = cache_folder() / f"csim-{key}{build.suffix}"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="build-") as name:
        folder = Path(name)
        for path, text in build.sources.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
        made = folder / "made"
        command = [compiler, *build.flags, str(folder / build.main), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            first = "\n".join(done.stderr.splitlines()[:12])
            raise CsimBuildError(f"{compiler} did not compile the generated sources:\n{first}")
        os.replace(made, target)
    return target


def _kernel(name: str) -> str:
    return (files("systolora.sim") / "kernels" / name).read_text(encoding="utf-8")


def _amalgam(name: str) -> str:
    # One translation unit: the compiler sees the whole design, and inlines the array into its loop.
    return f'#include "{TOP}.cpp"\n{_kernel(name)}'


def _compiler() -> str:
    found = shutil.which(os.environ.get("CXX", "g++"))
    if found is None:
        raise CsimBuildError(
            "C-simulation needs a C++ compiler: install g++ (apt install g++), or name one in the environment variable CXX"
        )
    return found


def _key(build: Build, compiler: str) -> str:
    text = "\n".join([_version(compiler), _processor(), *build.flags, build.main])
    for path, source in sorted(build.sources.items()):
        text += f"\n--- {path}\n{source}"
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@lru_cache(maxsize=8)
def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout


@lru_cache(maxsize=1)
def _processor() -> str:
    # -march=native: a cache on a shared disk must not give one machine's code to another.
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
