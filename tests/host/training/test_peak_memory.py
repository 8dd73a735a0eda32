"""The largest memory of the process: it grows with what is allocated, and its count can be started anew."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
from systolora.training.peak_memory import peak_bytes


def test_it_grows_with_what_is_used() -> None:
    before = peak_bytes()
    assert before > 1 << 20
    assert len(np.ones((before + (64 << 20)) // 8)) and peak_bytes() > before


def test_its_count_can_be_started_anew() -> None:
    """In a process of its own: others would see their peak vanish."""
    code = (
        "from systolora.training.peak_memory import *; x = bytearray(300 << 20); high = peak_bytes(); del x; "
        "print(not reset_peak() or peak_bytes() < high - (200 << 20))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "True"
