"""Contiguous memory (CMA) of a board: how much there is, and a text for when it is not enough."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEMINFO = "/proc/meminfo"
_MB = 1 << 20


@dataclass(frozen=True)
class CmaState:
    """Size and free part of the pool, in bytes."""

    total: int
    free: int


def read_cma(device: Any) -> CmaState | None:
    """The pool of the computer that the pynq device belongs to, or None if its kernel does not say.

    A device that is elsewhere (PYNQ.remote) has `read_file`; a board reads its own /proc.
    """
    try:
        if hasattr(device, "read_file"):
            text = bytes(device.read_file(MEMINFO)).decode()
        else:
            text = Path(MEMINFO).read_text()
    except (OSError, RuntimeError):
        return None
    found = {
        name: int(size) * 1024 for name, size in re.findall(r"^(CmaTotal|CmaFree):\s+(\d+) kB", text, re.MULTILINE)
    }
    if not found.get("CmaTotal"):
        return None
    return CmaState(found["CmaTotal"], found.get("CmaFree", 0))


def cma_message(nbytes: int, label: str, state: CmaState | None, own: Iterable[tuple[str, int]]) -> str:
    """Why an allocation of `nbytes` failed and what to do; `own` are (label, bytes) of the buffers that are held."""
    held = sorted(own, key=lambda item: -item[1])
    what = f" for {label}" if label else ""
    largest = ", ".join(f"{name or 'unnamed'} {size / _MB:.1f} MiB" for name, size in held[:3])
    mine = f"this process holds {sum(size for _, size in held) / _MB:.1f} MiB in {len(held)} buffers"
    mine += f" (largest: {largest})" if held else ""
    return f"no contiguous memory{what}: {_bytes(nbytes)} asked for; {_pool(nbytes, state)}; {mine}. {_advice(nbytes, state)}"


def _bytes(nbytes: int) -> str:
    return f"{nbytes / _MB:.1f} MiB"


def _pool(nbytes: int, state: CmaState | None) -> str:
    if state is None:
        return "the kernel does not say how large its pool (CMA) is"
    text = f"{_bytes(state.free)} of the {_bytes(state.total)} pool (CMA) are free"
    return text + (" but in pieces (fragmented)" if state.free >= nbytes else "")


def _advice(nbytes: int, state: CmaState | None) -> str:
    if state is not None and state.free >= nbytes:
        return "Close other programs that hold buffers, or reboot, to get the pool back in one piece"
    total = 0 if state is None else state.total
    wanted = max(512, 1 << (2 * (total + nbytes) // _MB - 1).bit_length())
    return f"Add cma={wanted}M to the kernel's boot arguments, or use a smaller batch, resolution or set of targets"
