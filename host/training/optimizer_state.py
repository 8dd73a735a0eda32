"""The state of any optimizer as tensors by name: moments of each parameter, and the numbers that some keep beside them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_MOMENTS, _NUMBERS = "optimizer/", "optimizer_numbers/"

Make = Callable[[Sequence[nn.Parameter]], Optimizer]
"""Makes an optimizer of the run's kind for parameters."""

Moments = Mapping[str, Mapping[str, Any]]
"""Of each parameter, by name, what an optimizer keeps of it: tensors, numbers, None."""


def take_optimizer(parameters: Mapping[str, nn.Parameter], optimizer: Optimizer) -> dict[str, Tensor]:
    """Copies of all that an optimizer knows after its steps; of a parameter that never had a gradient, nothing.

    Args:
        parameters: by name; the optimizer has them in one group.
    """
    taken = {
        f"{_MOMENTS}{name}/{key}": _as_tensor(value)
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }
    numbers = {
        f"{_NUMBERS}{key}": _as_tensor(value)
        for key, value in optimizer.param_groups[0].items()
        if key in optimizer.defaults and key != "lr" and _is_number(value) and value != optimizer.defaults[key]
    }
    return taken | numbers


def moments_of(parameters: Mapping[str, nn.Parameter], optimizer: Optimizer, make: Make | None = None) -> Moments:
    """What an optimizer of this kind keeps once it has stepped; found out on copies.

    Args:
        make: makes another one; without it the optimizer itself is copied.
    """
    if make is None:
        another = copy.deepcopy(optimizer)
    else:
        another = make([nn.Parameter(parameter.detach().clone()) for parameter in parameters.values()])
    tried = another.param_groups[0]["params"]
    for parameter in tried:
        parameter.grad = torch.full_like(parameter, 1e-3)
    another.step()
    return {name: dict(another.state[parameter]) for name, parameter in zip(parameters, tried, strict=True)}


def expected_optimizer(saved: Mapping[str, Tensor], moments: Moments, optimizer: Optimizer) -> dict[str, Tensor]:
    """Names, shapes and types that a saved state must have: of each parameter all moments or, as before its first gradient, none."""
    expected = {
        f"{_MOMENTS}{name}/{key}": _as_tensor(value)
        for name, kept in moments.items()
        if any(f"{_MOMENTS}{name}/{key}" in saved for key in kept)
        for key, value in kept.items()
        if value is not None
    }
    numbers = {f"{_NUMBERS}{key}": value for key, value in optimizer.defaults.items() if key != "lr"}
    return expected | {
        name: _as_tensor(value) for name, value in numbers.items() if name in saved and _is_number(value)
    }


def put_optimizer(
    saved: Mapping[str, Tensor], moments: Moments, parameters: Mapping[str, nn.Parameter], optimizer: Optimizer
) -> None:
    """Puts back what `take_optimizer` took, to the bit. Not by `load_state_dict`, which casts bytes to the parameter's type."""
    optimizer.state.clear()
    for name, kept in moments.items():
        if any(f"{_MOMENTS}{name}/{key}" in saved for key in kept):
            optimizer.state[parameters[name]] = {
                key: None if value is None else _as_value(saved[f"{_MOMENTS}{name}/{key}"], value)
                for key, value in kept.items()
            }
    for key, value in optimizer.defaults.items():
        if key != "lr" and _is_number(value):
            stored = saved.get(f"{_NUMBERS}{key}")
            optimizer.param_groups[0][key] = value if stored is None else _as_value(stored, value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (bool, int, float))


def _as_tensor(value: Any) -> Tensor:
    """A copy; a number as a scalar that keeps its bits."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    return torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)


def _as_value(stored: Tensor, like: Any) -> Any:
    return stored.clone() if isinstance(like, Tensor) else type(like)(stored.item())
