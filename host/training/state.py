"""The tensors that a run goes on with: adapter, optimizer, rounding state, losses; taken, and put back without any leniency."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from systolora.errors import UserError
from torch import Tensor, nn
from torch.optim import Optimizer

from .optimizer_state import Make, expected_optimizer, moments_of, put_optimizer, take_optimizer

_SHOWN = 60


def take_state(parameters: Mapping[str, nn.Parameter], optimizer: Optimizer, handle: Any) -> dict[str, Tensor]:
    """Copies of all tensors of a run's state, by name.

    Args:
        parameters: of the adapter, by name, as the optimizer has them. handle: of the offload or of IntLoRA, or None.
    """
    return _take_fixed(parameters, handle) | take_optimizer(parameters, optimizer)


def put_state(
    state: Mapping[str, Tensor],
    parameters: Mapping[str, nn.Parameter],
    optimizer: Optimizer,
    handle: Any,
    make: Make | None = None,
) -> None:
    """Puts back what `take_state` took.

    Args:
        make: makes another optimizer of the kind, where a copy would not be one.

    Raises:
        UserError: if a tensor is missing, left over, of another shape or type, or not finite; nothing was changed then.
    """
    moments = moments_of(parameters, optimizer, make)
    _check(state, _take_fixed(parameters, handle) | expected_optimizer(state, moments, optimizer))
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[f"adapter/{name}"])
    put_optimizer(state, moments, parameters, optimizer)
    if handle:
        handle.load_state_dict(_filled(handle.state_dict(), state, "device/"))


def _take_fixed(parameters: Mapping[str, nn.Parameter], handle: Any) -> dict[str, Tensor]:
    """What has the same names, shapes and types from the first step to the last."""
    state = {f"adapter/{name}": parameter.detach().clone() for name, parameter in parameters.items()}
    rounding = handle.state_dict() if handle else {}
    return state | {f"device/{name}": tensor.clone() for name, tensor in _flat(rounding).items()}


def _flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Tensor]:
    """The leaves of nested mappings by path; whole numbers as int64 scalars."""
    flat: dict[str, Tensor] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{above}{key}/")
        else:
            flat[f"{above}{key}"] = value if isinstance(value, Tensor) else torch.tensor(int(value))
    return flat


def _filled(like: Mapping[str, Any], flat: Mapping[str, Tensor], above: str) -> dict[str, Any]:
    """Nested mappings shaped as `like` with the leaves of `_flat`."""
    filled: dict[str, Any] = {}
    for key, value in like.items():
        path = f"{above}{key}"
        if isinstance(value, Mapping):
            filled[key] = _filled(value, flat, f"{path}/")
        else:
            filled[key] = flat[path].clone() if isinstance(value, Tensor) else int(flat[path])
    return filled


def _check(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for name, tensor in expected.items():
        if name not in state:
            raise _mismatch(f"it lacks {name[:_SHOWN]}")
        found = state[name]
        if found.shape != tensor.shape or found.dtype != tensor.dtype:
            raise _mismatch(f"{name[:_SHOWN]} is {_kind(found)} in it and {_kind(tensor)} in the model")
        if not torch.isfinite(found).all():
            raise _mismatch(f"{name[:_SHOWN]} holds a NaN or an infinity")
    left = [name for name in state if name not in expected]
    if left:
        raise _mismatch(f"it has {left[0][:_SHOWN]}, which the model has not")


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _mismatch(what: str) -> UserError:
    return UserError(
        f"--resume: the checkpoint does not fit the run ({what}); delete it to go on from the one before, or give another --output"
    )
