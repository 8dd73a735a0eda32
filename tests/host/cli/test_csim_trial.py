"""`systolora csim`: the prediction is of the program that ran, however many instructions the compiler made of the GEMM."""

from __future__ import annotations

import pytest
from systolora.cli.app import app
from systolora.cli.csim_trial import run_trial
from systolora.hls.config import MAX_K, ArrayConfig
from typer.testing import CliRunner

SMALL = ArrayConfig(rows=8, cols=8, input_bytes=16384, weight_bytes=16384, output_bytes=32768)


@pytest.mark.parametrize("dataflow", ["ws", "os", "auto"])
@pytest.mark.parametrize("k", [33, MAX_K, MAX_K + 1, 200_000])
def test_counters_equal_the_prediction(k: int, dataflow: str) -> None:
    trial = run_trial(SMALL, 3, 5, k, dataflow, seed=0)
    assert trial.mismatches == 0
    assert trial.counters == trial.predicted


def test_the_command_ends_well_with_a_long_k() -> None:
    done = CliRunner().invoke(app, ["csim", "--rows", "8", "--cols", "8", "--m", "3", "--n", "5", "--k", "200000"])
    assert done.exit_code == 0, done.output
    assert "0 of 15 results differ" in done.output
