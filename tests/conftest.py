"""Options of the test suite."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import settings

# A verdict belongs to the commit: the same draws each time. `pytest --hypothesis-profile fresh` draws anew (so does `make slow`).
settings.register_profile("fixed", derandomize=True)
settings.register_profile("fresh", derandomize=False, print_blob=True)
settings.load_profile("fixed")

# The models of the tests are tiny: a second thread costs more than it brings, and on a busy machine very much more.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts the tests in the background has Ctrl-C ignored, nohup SIGHUP, in all that they start as well; tests are about both.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-golden` writes the expected texts in tests/golden anew instead of comparing with them."""
    parser.addoption("--update-golden", action="store_true", help="write the expected texts in tests/golden anew")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether the expected texts are to be written."""
    return bool(request.config.getoption("--update-golden"))
