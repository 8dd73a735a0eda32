"""The compiled kernels: built with g++ at first use, kept in a cache folder, proved against the reference before use.

Nothing here is needed for right results: without a compiler, or where the proof fails, the numpy path computes the same
bits, only slower.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from enum import IntEnum
from functools import lru_cache
from pathlib import Path

from systolora.hls.isa import FIELDS, Field, Opcode

SOURCES = Path(__file__).parent.parent / "kernels"
UNITS = ("quantize.cpp", "gemm.cpp", "peak.cpp", "contents.cpp")
HEADERS = (
    *("floats.hpp", "support.hpp", "epilogue.hpp", "pack.hpp", "product.hpp"),
    *("matrix_unit.hpp", "vector_unit.hpp", "dots.hpp"),
)
FLAGS = (
    *("-std=c++20", "-O3", "-march=native", "-shared", "-fPIC", "-fopenmp"),
    # No fused multiply-add: each operation is rounded. The other two only say that nobody looks at errno and at the
    # floating point exception flags; no value depends on them.
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
    # Plain loops stay loops: for rows of some kilobytes the library's copy is slower than they are.
    "-fno-tree-loop-distribute-patterns",
)
WIDE_VECTORS = "-mprefer-vector-width=512"
"""Only where the processor has them: GCC takes half of their width by default."""

_PARAMETERS = (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int64, ctypes.c_int)
"""Of every kernel: the instruction, host and device address of the memory, bytes of a bus word, threads."""


class Unit(IntEnum):
    """What multiplies in the kernels, worst first: nothing (they only quantize and dequantize), AVX512-VNNI, AMX-INT8."""

    NONE = 0
    VECTOR = 1
    MATRIX = 2


class BuildError(RuntimeError):
    """The kernels cannot be compiled here; the text says why."""


def fields_header() -> str:
    """C++ structures that read the fields of an instruction, made from the declaration of the instruction set."""
    structures = [_structure(opcode, FIELDS[opcode]) for opcode in (Opcode.GEMM, Opcode.QUANTIZE)]
    return (
        "// Generated from systolora.hls.isa.FIELDS.\n#pragma once\n\n#include <cstdint>\n#include <cstring>\n\n"
        "namespace systolora {\n\n" + "\n".join(structures) + "\n}  // namespace systolora\n"
    )


def library_path() -> Path:
    """Where the compiled kernels for these sources, this compiler and this processor lie, or will lie."""
    digest = hashlib.sha256()
    for name in (*UNITS, *HEADERS):
        digest.update((SOURCES / name).read_bytes())
    for text in (fields_header(), " ".join(_flags()), _compiler(), _processor()):
        digest.update(text.encode() + b"\0")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "systolora" / f"kernels-{digest.hexdigest()[:16]}.so"


def build_library() -> Path:
    """The compiled kernels, from the cache or fresh.

    Raises:
        BuildError: without a compiler, or if it fails.
    """
    path = library_path()
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            built = Path(folder) / path.name
            (Path(folder) / "fields.hpp").write_text(fields_header())
            sources = [str(SOURCES / name) for name in UNITS]
            command = [_compiler(), *_flags(), f"-I{folder}", *sources, "-o", str(built)]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode:
                raise BuildError(f"the compiler failed: {result.stderr.strip()[:2000]}")
            built.replace(path)  # at once: another process sees all of it or nothing
    except OSError as error:
        raise BuildError(f"{path}: {error}") from error
    return path


@lru_cache(maxsize=1)
def load_library() -> ctypes.CDLL | None:
    """The compiled kernels, or None (after one warning) where they cannot be had. SYSTOLORA_NATIVE=0 leaves them out."""
    if os.environ.get("SYSTOLORA_NATIVE") == "0":
        return None
    try:
        library = ctypes.CDLL(str(build_library()))
    except (BuildError, OSError) as error:
        warnings.warn(f"emulating with numpy, which is slower but exact: {error}", RuntimeWarning, stacklevel=2)
        return None
    library.systolora_quantize.argtypes = list(_PARAMETERS)
    library.systolora_epilogue.argtypes = [*_PARAMETERS, ctypes.c_void_p]
    library.systolora_peak.argtypes = [ctypes.c_int64, ctypes.c_int, ctypes.c_int]
    library.systolora_peak.restype = ctypes.c_double
    library.systolora_gemm.argtypes = [*_PARAMETERS, ctypes.c_int]
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    library.systolora_contents.argtypes = [pointer, size, pointer, pointer, ctypes.c_int]
    library.systolora_contents.restype = None
    return library


@lru_cache(maxsize=1)
def built_library() -> ctypes.CDLL | None:
    """The compiled kernels if they were built before: for those who gain too little from them to wait for a compiler."""
    if os.environ.get("SYSTOLORA_NATIVE") == "0":
        return None
    try:
        return load_library() if library_path().exists() else None
    except BuildError:
        return None


def best_unit(library: ctypes.CDLL) -> Unit:
    """The fastest unit of this processor that the kernels can multiply on."""
    return Unit(library.systolora_best_unit())


def thread_count() -> int:
    """Threads that a kernel may use: torch's setting where torch is loaded, else the processors of this process."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return torch.get_num_threads()
    limit = os.environ.get("OMP_NUM_THREADS", "")
    available = len(os.sched_getaffinity(0))
    return min(available, int(limit)) if limit.isdigit() and int(limit) else available


def _structure(opcode: Opcode, layout: tuple[Field, ...]) -> str:
    name = f"{opcode.name.capitalize()}Fields"
    members, reads = [], []
    for field in layout:
        bits = f"words[{field.word}] >> {field.lsb}"
        if field.bits < 64:
            bits = f"({bits} & {(1 << field.bits) - 1:#x}u)" if field.bits < 32 else f"({bits} & 0xffffffffu)"
        if field.kind is float:
            members.append(f"    float {field.name};")
            reads.append(f"        const uint32_t {field.name}_bits = {bits};")
            reads.append(f"        std::memcpy(&{field.name}, &{field.name}_bits, 4);")
        else:
            kind = "uint64_t" if field.bits == 64 else "int64_t"
            members.append(f"    {kind} {field.name};")
            reads.append(f"        {field.name} = {bits};")
    body = "\n".join(members)
    constructor = "\n".join(reads)
    return f"struct {name} {{\n{body}\n\n    explicit {name}(const uint64_t* words) {{\n{constructor}\n    }}\n}};\n"


def _compiler() -> str:
    path = shutil.which(os.environ.get("CXX", "g++"))
    if path is None:
        raise BuildError("no C++ compiler; install g++, or set CXX")
    return path


def _flags() -> list[str]:
    return [*FLAGS, WIDE_VECTORS] if "avx512f" in _processor() else list(FLAGS)


def _processor() -> str:
    """What the processor can do: a library built for one must not be loaded on another that shares the home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
