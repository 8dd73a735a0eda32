"""What is said when contiguous memory runs out."""

from __future__ import annotations

import pytest
from systolora.board.cma import CmaState, cma_message, read_cma

MB = 1 << 20


class Far:
    """A device that is elsewhere."""

    def __init__(self, text: str) -> None:
        self._text = text

    def read_file(self, path: str) -> bytes:
        assert path == "/proc/meminfo"
        return self._text.encode()


def test_the_pool_of_the_far_end_is_read() -> None:
    device = Far("MemTotal: 4 kB\nCmaTotal:         524288 kB\nCmaFree:            1024 kB\n")
    assert read_cma(device) == CmaState(512 * MB, MB)
    assert read_cma(Far("MemTotal: 4 kB\n")) is None
    assert read_cma(Far("CmaTotal: 0 kB\nCmaFree: 0 kB\n")) is None


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (CmaState(128 * MB, 2 * MB), ["2.0 MiB of the 128.0 MiB pool (CMA) are free;", "cma=512M"]),
        (CmaState(512 * MB, 2 * MB), ["2.0 MiB of the 512.0 MiB pool", "cma=2048M"]),
        (CmaState(512 * MB, 100 * MB), ["in pieces (fragmented)", "reboot"]),
        (None, ["the kernel does not say", "cma=512M"]),
    ],
)
def test_message(state: CmaState | None, expected: list[str]) -> None:
    text = cma_message(64 * MB, "weights", state, [("small", MB), ("large", 9 * MB), ("", 3 * MB), ("tiny", 1)])
    assert "\n" not in text
    assert (
        "64.0 MiB asked for" in text and "13.0 MiB in 4 buffers (largest: large 9.0 MiB, unnamed 3.0 MiB, small" in text
    )
    for part in expected:
        assert part in text
