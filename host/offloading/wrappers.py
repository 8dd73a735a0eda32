"""Forwards that lie on the instance of a module and win over its class's.

diffusers (layerwise casting, group offload, caches), accelerate (`add_hook_to_module`, `dispatch_model`), kohya's LoRA networks and others
set `module.forward` to a function that does something and then calls the bound forward which it found. A module that gets another
class would go on with the old one. So that bound method is looked for in what the wrapper holds, and replaced there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

_DEPTH = 16
"""How many steps a wrapper's references are followed: each hook of diffusers takes five."""


def is_wrapped(module: nn.Module) -> bool:
    """Whether a forward on the instance wins over the class's, and is not just that one, bound."""
    own = module.__dict__.get("forward")
    bound = isinstance(own, MethodType) and own.__self__ is module and own.__func__ is type(module).forward
    return own is not None and not bound


def leads_to(module: nn.Module, forwards: Collection[Any]) -> bool:
    """Whether the instance's forward ends in one of these functions, bound to the module; true without one."""
    own = module.__dict__.get("forward")
    return own is None or any(True for _ in _Holders(module, forwards).below(own))


def rebind(module: nn.Module, forwards: Collection[Any]) -> None:
    """Puts the present class's forward wherever the instance's wrappers hold one of these, bound to the module."""
    new = MethodType(type(module).forward, module)
    holders = _Holders(module, forwards)
    for name, value in list(module.__dict__.items()):
        if holders.is_wanted(value):
            module.__dict__[name] = new
        elif isinstance(value, (FunctionType, MethodType, partial)):
            for replace in list(holders.below(value)):
                replace(new)


class _Holders:
    """Finds what holds a bound forward: cells of closures, partials, attributes of the objects in them."""

    def __init__(self, module: nn.Module, forwards: Collection[Any]) -> None:
        self._module = module
        self._forwards = forwards
        self._seen: set[int] = set()

    def is_wanted(self, value: object) -> bool:
        """Whether this is one of the forwards, bound to the module."""
        return isinstance(value, MethodType) and value.__self__ is self._module and value.__func__ in self._forwards

    def below(self, value: Any, depth: int = 0) -> Iterator[Any]:
        """Functions that put another forward in the place of each one found."""
        if self.is_wanted(value):
            yield lambda new: None  # whoever holds the value itself replaces it
        if id(value) in self._seen or depth > _DEPTH:
            return
        self._seen.add(id(value))
        for held, replace in _parts(value):
            if self.is_wanted(held):
                yield replace
            else:
                yield from self.below(held, depth + 1)


def _parts(value: Any) -> Iterator[tuple[Any, Any]]:
    """What a value refers to, each with a function that puts something else there; nothing of modules and tensors."""
    if isinstance(value, (nn.Module, Tensor, type, ModuleType, str, bytes, int, float)) or value is None:
        return
    if isinstance(value, FunctionType):
        for cell in value.__closure__ or ():
            with contextlib.suppress(ValueError):  # an empty cell
                yield cell.cell_contents, partial(setattr, cell, "cell_contents")
    elif isinstance(value, partial):
        yield value.func, partial(_set_partial, value, -1)
        for index, argument in enumerate(value.args):
            yield argument, partial(_set_partial, value, index)
    elif isinstance(value, MethodType):
        yield value.__self__, lambda new: None
        if isinstance(
            value.__self__, nn.Module
        ):  # an adapter that put its own forward here and calls the layer's inside
            yield from _held_methods(value.__self__)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield item, partial(value.__setitem__, index)
    attributes = value if isinstance(value, dict) else getattr(value, "__dict__", None)
    if isinstance(attributes, dict):
        for name, item in list(attributes.items()):
            yield item, partial(attributes.__setitem__, name)


def _held_methods(module: nn.Module) -> Iterator[tuple[Any, Any]]:
    """The bound methods among a module's attributes: kohya's networks keep the `org_forward` of the layer that they adapt."""
    for name, item in list(module.__dict__.items()):
        if isinstance(item, MethodType):
            yield item, partial(module.__dict__.__setitem__, name)


def _set_partial(value: partial[Any], index: int, new: Any) -> None:
    """Replaces the function (index -1) or an argument of a partial that others hold too."""
    args = tuple(new if i == index else argument for i, argument in enumerate(value.args))
    value.__setstate__((new if index < 0 else value.func, args, value.keywords, value.__dict__))  # type: ignore[attr-defined]
