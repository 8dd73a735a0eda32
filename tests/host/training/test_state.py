"""The state of a run is put back whole and exactly, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from systolora.errors import UserError
from systolora.training.state import put_state, take_state
from torch import Tensor, nn


class Handle:
    """Rounding state as IntLoRA's: a number and nested tensors."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {
            "step": 0,
            "rules": {"a.b": {"scale": torch.ones(3), "top": torch.zeros(3).int()}},
        }

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.state = dict(state)


def run() -> tuple[dict[str, nn.Parameter], torch.optim.AdamW, Handle]:
    torch.manual_seed(0)
    named = {"down": nn.Parameter(torch.randn(4, 6)), "up": nn.Parameter(torch.randn(5, 4))}
    return named, torch.optim.AdamW(named.values(), lr=0.1), Handle()


def step(named: Mapping[str, nn.Parameter], optimizer: torch.optim.AdamW, _: Handle | None = None) -> None:
    optimizer.zero_grad()
    (named["up"] @ named["down"]).square().sum().backward()
    optimizer.step()


def trained() -> tuple[dict[str, nn.Parameter], torch.optim.AdamW, Handle]:
    named, optimizer, handle = run()
    for _ in range(2):
        step(named, optimizer)
    handle.state = {"step": 2, "rules": {"a.b": {"scale": torch.rand(3), "top": torch.arange(3).int()}}}
    return named, optimizer, handle


def assert_same(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) and found[name].dtype == wanted[name].dtype for name in wanted)


def test_what_was_taken_is_put_back_to_the_bit() -> None:
    first, second = trained(), run()
    state = take_state(*first)
    put_state(state, *second)
    assert_same(take_state(*second), state)
    assert isinstance(second[2].state["step"], int)


def test_a_run_before_its_first_step_has_a_state_too() -> None:
    """Without moments, so putting it back takes away those that are there; the run then goes on as the other one begins."""
    first, second = run(), trained()
    state = take_state(*first)
    assert not any(name.startswith("optimizer/") for name in state)
    assert any(name.startswith("optimizer/") for name in take_state(*second))
    put_state(state, *second)
    assert_same(take_state(*second), state)
    for case in (first, second):
        step(*case)
    assert any(name.startswith("optimizer/") for name in take_state(*second))
    assert_same(take_state(*second), take_state(*first))


def change(state: dict[str, Tensor], name: str, kind: str) -> None:
    if kind == "missing":
        del state[name]
    elif kind == "one row, which would be broadcast":
        state[name] = state[name][:1].clone()
    elif kind == "type":
        state[name] = state[name].half()
    elif kind == "nan":
        state[name].flatten()[-1] = float("nan")
    else:
        state[name + "x"] = state[name]


@pytest.mark.parametrize("name", ["adapter/up", "optimizer/down/exp_avg_sq", "device/rules/a.b/scale"])
@pytest.mark.parametrize("kind", ["missing", "one row, which would be broadcast", "type", "nan", "left over"])
def test_what_does_not_fit_is_refused_and_changes_nothing(name: str, kind: str) -> None:
    state, other = take_state(*trained()), run()
    before = take_state(*other)
    change(state, name, kind)
    with pytest.raises(UserError, match=f"the checkpoint does not fit the run .*{name}.*delete it"):
        put_state(state, *other)
    after = take_state(*other)
    assert all(torch.equal(after[name], before[name]) for name in before)
