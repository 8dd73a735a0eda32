"""Options of the test suite."""

from __future__ import annotations

import os

import pytest

# The models of the tests are tiny: a second thread costs more than it brings, and on a busy machine very much more.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-golden` writes the expected texts in tests/golden anew instead of comparing with them."""
    parser.addoption("--update-golden", action="store_true", help="write the expected texts in tests/golden anew")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether the expected texts are to be written."""
    return bool(request.config.getoption("--update-golden"))
