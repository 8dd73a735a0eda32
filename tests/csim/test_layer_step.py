"""One full LoRA layer step of Stable Diffusion 1.5 (77 x 768 x 320, rank 4) on the 64 x 64 array, forward and backward."""

from __future__ import annotations

import numpy as np
import pytest
from systolora.hls.check import STATUS_BYTES
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Dataflow, ErrorCode
from systolora.hls.registers import Status
from systolora.sim.csim.build import build_library
from systolora.sim.csim.device import open_csim
from systolora.sim.functional.controller import Controller

from .layer_step import LayerStep

TOKENS, INPUTS, OUTPUTS, RANK = 77, 768, 320, 4


@pytest.mark.parametrize("dataflow", list(Dataflow))
def test_layer_step(dataflow: Dataflow) -> None:
    config = ArrayConfig()
    step = LayerStep(config, TOKENS, INPUTS, OUTPUTS, RANK, dataflow, seed=5)
    case = step.case()
    place = (case.window, case.program_address, case.count, case.status_address, 1)
    expected, got = case.memory(), case.memory()
    status = Controller(config, expected).run(*place)
    assert status.error == ErrorCode.OK
    assert open_csim(build_library(config)).start(got, *place) == (ErrorCode.OK, 0)
    assert Status.decode(got.view(case.status_address, STATUS_BYTES).tobytes()) == status
    assert np.array_equal(got.bytes, expected.bytes)


def test_the_step_is_the_one_of_the_formulas() -> None:
    """The program is right, not only the same everywhere: its results are near those of float arithmetic."""
    config = ArrayConfig()
    step = LayerStep(config, TOKENS, INPUTS, OUTPUTS, RANK, Dataflow.WEIGHT_STATIONARY, seed=5)
    case = step.case()
    memory = case.memory()
    open_csim(build_library(config)).start(memory, case.window, case.program_address, case.count, case.status_address)
    rng = np.random.default_rng(5)
    x = rng.normal(size=(TOKENS, INPUTS))
    g = rng.normal(size=(TOKENS, OUTPUTS)) * 1e-3
    down, up = rng.normal(size=(RANK, INPUTS)), rng.normal(size=(OUTPUTS, RANK)) * 1e-2
    weight = rng.integers(-127, 128, (OUTPUTS, INPUTS)) * 0.003
    h, grad_h = x @ down.T, 0.5 * g @ up
    wanted = {
        "h": h,
        "y": x @ weight.T + 0.5 * h @ up.T,
        "grad_up": 0.5 * g.T @ h,
        "grad_h": grad_h,
        "grad_down": grad_h.T @ x,
        "grad_x": g @ weight + grad_h @ down,
    }
    for name, want in wanted.items():
        c = step.results[name]
        got = memory.view(c.address, c.rows * c.stride).view(np.float32).reshape(c.rows, -1)[:, : c.cols]
        error = np.linalg.norm(got - want) / np.linalg.norm(want)
        assert error < 0.02, f"{name}: relative error {error:.3f}"
