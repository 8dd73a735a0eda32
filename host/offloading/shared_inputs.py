"""Int8 copies of tensors that feed several layers: text tokens all keys and values, hidden states query, key and value.

A copy belongs to a tensor object and its contents, which are read anew at each use (`contents_of`): a buffer that was refilled, by
whatever means, has no copies. A copy goes when the tensor does, or when a few other tensors came after it, so that no memory piles up.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from dataclasses import dataclass

from systolora.programs.buffers import Lease
from systolora.programs.contents import Contents, contents_of
from torch import Tensor

_ENTRIES = 16
"""How many tensors are remembered: those that come between two uses of the text tokens in a transformer block, and some more."""

_SMALL = 1 << 19
"""Bytes of a tensor whose contents are always read at its first use. Of a larger one they are where a second use was seen before."""


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


@dataclass(frozen=True)
class _Entry:
    """A tensor that was used. user: the layer that used it first. contents: what it held then, if that was read."""

    tensor: weakref.ref[Tensor]
    user: str
    contents: Contents | None
    copies: InputCopies


class SharedInputs:
    """Finds the copies of a tensor that were made before."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, _Entry] = OrderedDict()
        self._sharing: set[str] = set()

    def copies(self, x: Tensor, user: str = "") -> InputCopies:
        """The copies of this tensor as it is now; empty at first.

        Args:
            user: name of the layer that asks. Most inputs have one user: a layer's large inputs are read for their contents only
                after another layer was seen to use the same one.
        """
        found = self._known.get(id(x))
        if found is not None and found.tensor() is not x:
            found = None
        if found is not None and found.contents is None:
            self._sharing.add(found.user)
        read = found is not None or user in self._sharing or x.numel() * x.element_size() <= _SMALL
        contents = contents_of(x) if read else None
        if found is not None and found.contents is not None and found.contents == contents:
            self._known.move_to_end(id(x))
            return found.copies
        return self._remember(x, user, contents)

    def clear(self) -> None:
        """Forgets all tensors."""
        self._known.clear()

    def _remember(self, x: Tensor, user: str, contents: Contents | None) -> InputCopies:
        known, key = self._known, id(x)

        # At the interpreter's end this runs when the names of modules are gone: it uses none.
        def forget(_: object) -> None:
            """Drops the entry of a tensor that died, unless another tensor with its identity has taken the place."""
            found = known.get(key)
            if found is not None and found.tensor() is None:
                del known[key]

        made = InputCopies()
        known[key] = _Entry(weakref.ref(x, forget), user, contents, made)
        known.move_to_end(key)
        if len(known) > _ENTRIES:
            known.popitem(last=False)
        return made


def is_shared(space: str) -> bool:
    """Whether a space holds a copy that other layers may use: of x itself, not of what dropout made of it for one adapter."""
    return space.startswith("x_") and not space.startswith("x_low_")
