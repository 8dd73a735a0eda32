"""What a training step computes beside its products, on the processor: which operators, on how many elements, and what autograd keeps.

Products (linear layers, convolutions, fused attention) are replaced by stand-ins that give an empty result of the right shape, so that what
torch dispatches in forward and backward is everything else. It all happens on the meta device: no value is computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .step_trace import OPERATORS, OTHER

_OPERATOR = {name: operator for operator, names in OPERATORS.items() for name in names}
_COPIES = ("slice_backward", "select_backward", "upsample", "index", "repeat")
"""Beginnings of the names of what moves elements and computes nothing."""
_FREE = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "detach"})


class OperatorCount(TorchDispatchMode):
    """Counts the elements that each operator works on.

    Attributes:
        elements: by operator, one of OPERATORS or OTHER.
    """

    def __init__(self) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Counts one operator and has it run."""
        result = function(*args, **(kwargs or {}))
        name = function._schema.name.partition("::")[2].rstrip("_")
        if name not in _FREE and not _is_view(function):
            self.elements[_operator_of(name)] += max((t.numel() for t in _tensors((args, result))), default=0)
        return result


def _operator_of(name: str) -> str:
    """The operator of one of torch's."""
    return _OPERATOR.get(name, "copy" if name.startswith(_COPIES) else OTHER)


def _is_view(function: Any) -> bool:
    """Whether torch's operator gives another view of the same memory."""
    returned = function._schema.returns
    return any(value.alias_info is not None and not value.alias_info.is_write for value in returned)


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in nested tuples and lists."""
    if isinstance(value, Tensor):
        return [value]
    return [tensor for item in value for tensor in _tensors(item)] if isinstance(value, (tuple, list)) else []


class KeptTensors:
    """Adds up what autograd keeps for the backward pass, each storage once; those of parameters are not counted.

    Attributes:
        nbytes: of the tensors.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.nbytes = 0
        # Storages are kept alive, so that no two of them ever share an identity.
        self._seen = {_identity(tensor): tensor.untyped_storage() for tensor in parameters}

    def hooks(self) -> Any:
        """A context in which tensors that are saved are counted."""
        return torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)

    def _keep(self, tensor: Tensor) -> Tensor:
        key = _identity(tensor)
        if key not in self._seen:
            self._seen[key] = tensor.untyped_storage()
            self.nbytes += self._seen[key].nbytes()
        return tensor


def _identity(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


class StandIn(torch.autograd.Function):
    """In place of a product: an empty result, and empty gradients of those inputs that need one."""

    @staticmethod
    def forward(
        ctx: Any, make: Callable[[], Tensor], saved: Sequence[int], with_result: bool, *inputs: Tensor
    ) -> Tensor:
        """The result.

        Args:
            make: makes it. saved: numbers of the inputs that the real product keeps for its backward. with_result: it keeps its result too.
            inputs: of the product; gradients are made for all but parameters.
        """
        result = make()
        ctx.save_for_backward(*(inputs[index] for index in saved), *([result] if with_result else []))
        ctx.inputs = [(x.shape, x.stride(), isinstance(x, torch.nn.Parameter)) for x in inputs]
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Empty gradients, laid out as the inputs are."""
        needed = ctx.needs_input_grad[3:]
        return (
            None,
            None,
            None,
            *(
                torch.empty_strided(shape, stride, device="meta") if wanted and not parameter else None
                for wanted, (shape, stride, parameter) in zip(needed, ctx.inputs, strict=True)
            ),
        )
