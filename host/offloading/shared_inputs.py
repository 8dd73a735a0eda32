"""Int8 copies of tensors that feed several layers: text tokens all keys and values, hidden states query, key and value.

A copy belongs to a tensor object at a version of its contents. It goes when the tensor does, or when a few other tensors came after
it, so that no memory piles up.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict

import torch
from systolora.programs.buffers import Lease
from torch import Tensor

_ENTRIES = 16
"""How many tensors are remembered: those that come between two uses of the text tokens in a transformer block, and some more."""


class InputCopies:
    """The int8 copies of one tensor, by the name of the space that each lies in.

    Attributes:
        leases: where they are.
    """

    def __init__(self) -> None:
        self.leases: dict[str, Lease] = {}

    @property
    def present(self) -> frozenset[str]:
        """The spaces that need not be filled again."""
        return frozenset(self.leases)


class SharedInputs:
    """Finds the copies of a tensor that were made before."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, tuple[weakref.ref[Tensor], tuple[object, ...], InputCopies]] = OrderedDict()

    def copies(self, x: Tensor) -> InputCopies:
        """The copies of this tensor as it is now; empty at first, and for a tensor whose changes torch does not count."""
        if x.is_inference() or torch.is_inference_mode_enabled():
            return InputCopies()
        key, contents = id(x), (x._version, x.data_ptr(), x.shape, x.stride(), x.dtype)
        found = self._known.get(key)
        if found is not None and found[0]() is x and found[1] == contents:
            self._known.move_to_end(key)
            return found[2]
        made = InputCopies()
        known = self._known
        self._known[key] = (weakref.ref(x, lambda _: _forget(known, key)), contents, made)
        self._known.move_to_end(key)
        if len(self._known) > _ENTRIES:
            self._known.popitem(last=False)
        return made

    def clear(self) -> None:
        """Forgets all tensors."""
        self._known.clear()


def _forget(known: OrderedDict[int, tuple[weakref.ref[Tensor], tuple[object, ...], InputCopies]], key: int) -> None:
    """Drops the entry of a tensor that died, unless another tensor with its identity has taken the place."""
    found = known.get(key)
    if found is not None and found[0]() is None:
        del known[key]


def is_shared(space: str) -> bool:
    """Whether a space holds a copy that other layers may use: of x itself, not of what dropout made of it for one adapter."""
    return space.startswith("x_") and not space.startswith("x_low_")
