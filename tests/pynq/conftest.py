"""The board driver on the real pynq package, against an emulated board.

These tests run in environments of their own (tests/pynq/run.sh): pynq needs numpy < 2. Elsewhere they are skipped, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from systolora.board.lane import Timing
from systolora.emulated_board.faults import Faults
from systolora.emulated_board.hardware import BoardOptions
from systolora.emulated_board.opening import open_emulated_board
from systolora.hls.config import ArrayConfig

SMALL = ArrayConfig(rows=8, cols=8, input_bytes=16384, weight_bytes=16384, output_bytes=32768)


@pytest.fixture(autouse=True)
def quiet_pynq() -> None:
    """Skips where pynq is missing, and silences what it says about a computer that is no board."""
    pytest.importorskip(
        "pynq", reason="pynq is not installed here; tests/pynq/run.sh makes the environments for these tests"
    )


@pytest.fixture
def config() -> ArrayConfig:
    """A small array with small memories."""
    return SMALL


@pytest.fixture
def open_board() -> Iterator[Callable[..., Any]]:
    """Opens emulated boards; they are closed after the test. Keyword arguments of `Timing` shorten its times."""
    opened: list[Any] = []

    def make(
        config: ArrayConfig = SMALL, options: BoardOptions | None = None, faults: Faults | None = None, **times: float
    ) -> Any:
        device = open_emulated_board(config, options, faults, Timing(**times))
        opened.append(device)
        return device

    yield make
    for device in opened:
        device.close()
