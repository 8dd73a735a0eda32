"""Options of the test suite."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-golden` writes the expected texts in tests/golden anew instead of comparing with them."""
    parser.addoption("--update-golden", action="store_true", help="write the expected texts in tests/golden anew")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether the expected texts are to be written."""
    return bool(request.config.getoption("--update-golden"))
