"""For all tests of this folder."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """The models are tiny: a second thread costs more than it brings."""
    torch.set_num_threads(1)
