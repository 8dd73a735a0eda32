"""Each kind of prediction has its target; what is not known is refused by name; min-SNR weights have their limits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from systolora.errors import UserError
from systolora.training.batches import Batch
from systolora.training.objective import PREDICTIONS, Objective, finite


def batch(timesteps: list[int]) -> Batch:
    torch.manual_seed(0)
    shape = (len(timesteps), 4, 8, 8)
    return Batch(torch.randn(shape), torch.randn(shape), torch.tensor(timesteps), torch.randn(len(timesteps), 3, 5))


def exact_answer(noise: Any, given: Batch, kind: str) -> torch.Tensor:
    """The prediction of a perfect model, from the definitions (Salimans and Ho 2022), in float64."""
    kept = noise.alphas_cumprod[given.timesteps].double()[:, None, None, None]
    velocity = kept.sqrt() * given.noise - (1 - kept).sqrt() * given.latents
    return {"epsilon": given.noise, "sample": given.latents, "v_prediction": velocity}[kind].float()


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_a_perfect_model_of_each_kind_has_no_loss_and_of_another_kind_has_one(kind: str) -> None:
    noise = DDPMScheduler(prediction_type=kind)
    given = batch([0, 500, 999])
    for other in PREDICTIONS:
        answer = exact_answer(noise, given, other)
        loss = Objective(noise).loss(lambda *_, answer=answer: SimpleNamespace(sample=answer), given)
        assert (float(loss) < 1e-10) == (other == kind)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"prediction_type": "flow_prediction"}, "prediction_type is 'flow_prediction'; trained are epsilon"),
        ({"prediction_type": "x0"}, "prediction_type is 'x0'"),
        ({"prediction_type": None}, "prediction_type is 'None'"),
        ({"use_flow_sigmas": True}, "flow-matching"),
    ],
)
def test_what_is_not_known_is_refused_by_name(config: dict[str, Any], message: str) -> None:
    noise = DDPMScheduler()
    with pytest.raises(UserError, match=message):
        Objective(SimpleNamespace(config={**noise.config, **config}))


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("zero", [False, True])
def test_min_snr_weights_are_finite_and_what_the_equation_says(kind: str, zero: bool) -> None:
    noise = DDPMScheduler(prediction_type=kind, rescale_betas_zero_snr=zero)
    times = torch.arange(1000)
    weights = Objective(noise, snr_gamma=5.0).weight(times)
    kept = noise.alphas_cumprod.double()
    snr = kept / (1 - kept)
    capped = snr.clamp(max=5.0)
    expected = {"epsilon": capped / snr, "v_prediction": capped / (snr + 1), "sample": capped}[kind]
    if zero:
        assert snr[-1] == 0
        expected[-1] = 1.0 if kind == "epsilon" else 0.0
    assert torch.isfinite(weights).all()
    torch.testing.assert_close(weights.double(), expected, rtol=1e-4, atol=1e-9)


def test_a_schedule_that_ends_without_signal_has_a_finite_loss() -> None:
    objective = Objective(DDPMScheduler(rescale_betas_zero_snr=True), snr_gamma=5.0)
    given = batch([999])
    loss = objective.loss(lambda *_: SimpleNamespace(sample=given.latents), given)
    assert finite([loss]) and float(loss) > 0
