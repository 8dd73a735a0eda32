"""Every optimizer by its name: it trains, its options are checked, and a run that goes on has the same bits."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from systolora.errors import UserError
from systolora.training.optimization import Optimization
from systolora.training.optimizers import OPTIMIZERS, check_optimizer, parse_options
from systolora.training.settings import TrainSettings
from torch import nn

OPTIONS = {
    "adamw": "amsgrad=True",
    "sgd": "momentum=0.9 nesterov=True",
    "rmsprop": "momentum=0.5 centered=True",
    "adafactor": "beta2_decay=-0.7",
    "asgd": "t0=2",
}


class Model(nn.Module):
    """A factor that 8-bit optimizers take as bytes, a small one, and one that never gets a gradient."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down, self.up = nn.Parameter(torch.randn(64, 80)), nn.Parameter(torch.randn(6, 64))
        self.idle = nn.Parameter(torch.randn(3))


def settings(name: str, options: str = "", **changes: Any) -> TrainSettings:
    return TrainSettings(optimizer=name, optimizer_options=options, steps=9, learning_rate=1e-2, **changes)


def steps(model: Model, optimization: Optimization, first: int, last: int) -> None:
    torch.manual_seed(1)
    x = torch.randn(last, 80, 5)
    for step in range(first, last):
        (model.up @ model.down @ x[step]).square().mean().backward()
        optimization.apply(step)


def goes_on_with_the_same_bits(name: str, options: str, **changes: Any) -> None:
    given = settings(name, options, **changes)
    whole, begun, resumed = Model(), Model(), Model()
    optimization = Optimization(whole, given)
    start = whole.up.detach().clone()
    steps(whole, optimization, 0, 6)
    assert not torch.equal(whole.up, start), "it trains"
    first, second = Optimization(begun, given), Optimization(resumed, given)
    steps(begun, first, 0, 3)
    second.put(first.take(None), None)
    steps(resumed, second, 3, 6)
    mine, theirs = second.take(None), optimization.take(None)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) and mine[key].dtype == theirs[key].dtype for key in mine)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_goes_on_with_the_same_bits(name: str) -> None:
    if OPTIMIZERS[name].install:
        pytest.importorskip(OPTIMIZERS[name].module.partition(".")[0], reason=f"pip install {OPTIMIZERS[name].install}")
    goes_on_with_the_same_bits(name, "")
    if name in OPTIONS:
        goes_on_with_the_same_bits(name, OPTIONS[name])


def test_the_default_is_torchs_adamw_to_the_bit() -> None:
    ours, plain = Model(), Model()
    steps(ours, Optimization(ours, TrainSettings(steps=9, max_grad_norm=0.0, learning_rate=1e-2)), 0, 6)
    adamw = torch.optim.AdamW(plain.parameters(), lr=1e-2, weight_decay=1e-2)
    torch.manual_seed(1)
    x = torch.randn(6, 80, 5)
    for step in range(6):
        adamw.zero_grad()
        (plain.up @ plain.down @ x[step]).square().mean().backward()
        adamw.step()
    assert torch.equal(ours.up, plain.up) and torch.equal(ours.down, plain.down)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adamw", "betas", "--optimizer-options betas: expected name=value, several separated by spaces"),
        ("adamw", "eps=tiny", "--optimizer-options eps=tiny: expected a number, numbers with commas"),
        ("adamw", "eps=1e-8 eps=1e-7", "eps is given twice"),
        ("adamw", "lr=1", "--optimizer-options lr=1: that is --learning-rate"),
        ("sgd", "weight_decay=1", "that is --weight-decay"),
        ("adamw", "beta=0.9,0.99", "adamw has no such option; it has amsgrad, betas, eps.*; did you mean 'betas'"),
        ("sgd", "betas=0.9,0.99", "--optimizer-options betas: sgd has no such option; it has .*momentum"),
        ("adamw", "betas=0.9,1.5", "--optimizer adamw --optimizer-options 'betas=0.9,1.5': Invalid beta parameter"),
        ("adamw", "eps=-1", "Invalid epsilon value: -1"),
        ("sgd", "nesterov=True", "Nesterov momentum requires a momentum"),
    ],
)
def test_options_that_are_not_there_get_one_line(name: str, options: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Optimization(Model(), settings(name, options))


def test_options_are_numbers_several_numbers_and_switches() -> None:
    assert parse_options("betas=0.9,0.95  eps=1e-7 amsgrad=True d0=None") == {
        "betas": (0.9, 0.95),
        "eps": 1e-7,
        "amsgrad": True,
        "d0": None,
    }


def test_weight_decay_is_refused_where_there_is_none() -> None:
    with pytest.raises(UserError, match="--weight-decay 0.5: --optimizer rprop has none; leave it out"):
        Optimization(Model(), settings("rprop", weight_decay=0.5))


@pytest.mark.parametrize("name", [name for name, source in OPTIMIZERS.items() if source.install])
def test_a_missing_package_is_named_with_how_to_get_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    package = OPTIMIZERS[name].install
    with pytest.raises(
        UserError, match=f"--optimizer {name}: the package {package} is not installed: pip install {package}"
    ):
        check_optimizer(name, "")


PACKAGE = """
import torch
class Prodigy(torch.optim.Optimizer):
    '''Not the real one: it has the real one's way of keeping numbers in its group, which grow.'''
    def __init__(self, params, lr=1.0, weight_decay=0, d0=1e-6, decouple=True):
        super().__init__(params, dict(lr=lr, weight_decay=weight_decay, d=d0, k=0, decouple=decouple))
    def step(self, closure=None):
        group = self.param_groups[0]
        group["k"] += 1
        group["d"] = group["d"] * 1.1
        for p in group["params"]:
            if p.grad is not None:
                state = self.state[p]
                state["s"] = state.get("s", torch.zeros_like(p)) + p.grad
                state["step"] = state.get("step", 0) + 1
                p.data.add_(state["s"], alpha=-group["lr"] * group["d"])
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of another's name, with the shape of its optimizer; the real one need not be installed."""
    path = tmp_path / "prodigyopt.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "prodigyopt", raising=False)
    yield path
    sys.modules.pop("prodigyopt", None)


def test_an_optimizer_of_a_package_is_loaded_and_its_numbers_are_kept(package: Path) -> None:
    package.write_text(PACKAGE)
    check_optimizer("prodigy", "d0=1e-3")
    goes_on_with_the_same_bits("prodigy", "d0=1e-3")
    optimization = Optimization(Model(), settings("prodigy", "d0=1e-3"))
    assert optimization.optimizer.defaults["decouple"] is True and "--learning-rate 1" in optimization.notes[0]


@pytest.mark.parametrize("text", ["raise OSError('libcudart is missing')", "Other = 1"])
def test_a_package_that_cannot_be_used_gets_one_line(package: Path, text: str) -> None:
    package.write_text(text)
    with pytest.raises(UserError, match="--optimizer prodigy: the package prodigyopt cannot be used here"):
        Optimization(Model(), settings("prodigy"))


def test_the_average_goes_on_with_the_same_bits() -> None:
    goes_on_with_the_same_bits("adamw", "", ema=0.9)


@pytest.mark.parametrize("kind", ["missing", "shape", "nan"])
def test_an_average_that_does_not_fit_is_refused(kind: str) -> None:
    given = settings("adamw", ema=0.9)
    first, second = Optimization(Model(), given), Optimization(Model(), given)
    state = first.take(None)
    if kind == "missing":
        del state["average/up"]
    else:
        state["average/up"] = state["average/up"][:1] if kind == "shape" else state["average/up"] * torch.nan
    with pytest.raises(UserError, match="--resume: the checkpoint does not fit the run .average/up"):
        second.put(state, None)


def test_a_state_of_another_optimizer_is_refused() -> None:
    model = Model()
    first = Optimization(model, settings("sgd", "momentum=0.9"))
    steps(model, first, 0, 2)
    with pytest.raises(UserError, match="momentum_buffer, which the model has not"):
        Optimization(Model(), settings("adam")).put(first.take(None), None)


@pytest.mark.parametrize(
    ("schedule", "falls", "ends"),
    [("cosine_with_restarts", 2, 0.0), ("polynomial", 0, 1e-7), ("linear", 0, 0.0), ("cosine", 0, 0.0)],
)
def test_schedules_by_name(schedule: str, falls: int, ends: float) -> None:
    given = replace(settings("adamw"), schedule=schedule, steps=40, schedule_cycles=3, schedule_power=2.0, warmup=4)
    rate = Optimization(Model(), given).rate
    rates = [rate(step) for step in range(40)]
    assert rates[:4] == pytest.approx([0, 0.25e-2, 0.5e-2, 0.75e-2]) and max(rates) == pytest.approx(1e-2)
    assert sum(after > before for before, after in zip(rates[4:], rates[5:], strict=False)) == falls
    assert rate(40) == pytest.approx(ends, abs=1e-9)


def test_a_polynomial_schedule_below_its_end_is_refused() -> None:
    with pytest.raises(UserError, match="--schedule polynomial: .*raise --learning-rate"):
        Optimization(Model(), replace(settings("adamw"), schedule="polynomial", learning_rate=1e-8))
