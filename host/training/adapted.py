"""Which layers of a model get an adapter: by a name of `--adapt`, or by patterns of their own names."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable

from systolora.errors import UserError
from systolora.offloading.projections import find_projections
from systolora.offloading.target_names import TARGETS
from systolora.offloading.targets import layer_names, layers_of
from torch import nn

from .patterns import REGEX, split_patterns

_SHOWN = 3
# What the common choices are in most models, as short as people write them.
_SUFFIXES = {
    "kv": ("attn2.to_k", "attn2.to_v"),
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
}


def adapted_names(model: nn.Module, adapt: str) -> list[str]:
    """Full names of the Linear and Conv2d layers that get an adapter, in the model's order.

    Args:
        adapt: kv, attention, linear, all, or patterns between commas: of the whole name, with * and ?, or `re:` and a regular
            expression; a pattern without a wildcard is also the end of a name (`to_q`, `ff.net.2`).

    Raises:
        UserError: for a pattern that is no regular expression or that no layer matches.
    """
    layers = [name for name, _ in layers_of(model, "all")]
    # Layers whose weight another module reads itself never run: an adapter there would do nothing.
    idle = find_projections(model, layers).idle
    layers = [name for name in layers if name not in idle]
    if adapt in TARGETS:
        named = layer_names(model, adapt)
        chosen = [name for name in layers if name in named]
        if not chosen:
            raise UserError(f"--adapt {adapt}: the model, a {type(model).__name__}, has no such layer; {_hint(layers)}")
        return chosen
    found: set[str] = set()
    for pattern in split_patterns(adapt):
        matched = {name for name in layers if _matches(pattern, name)}
        if not matched:
            raise UserError(
                f"--adapt {pattern}: no Linear or convolution of the model, a {type(model).__name__}, has such a name; {_hint(layers)}"
            )
        found |= matched
    return [name for name in layers if name in found]


def target_modules(names: Iterable[str], layers: Iterable[str]) -> list[str]:
    """What peft's `target_modules` may say for the layers of these names: the usual endings where they mean the same, else all names."""
    wanted, all_layers = set(names), list(layers)
    for suffixes in _SUFFIXES.values():
        ends = tuple(f".{suffix}" for suffix in suffixes)
        if {name for name in all_layers if f".{name}".endswith(ends)} == wanted:
            return list(suffixes)
    return sorted(wanted)


def _matches(pattern: str, name: str) -> bool:
    if pattern.startswith(REGEX):
        return re.fullmatch(pattern.removeprefix(REGEX), name) is not None
    if any(sign in pattern for sign in "*?["):
        return fnmatch.fnmatchcase(name, pattern)
    return name == pattern or name.endswith(f".{pattern}")


def _hint(layers: list[str]) -> str:
    shown = ", ".join(layers[:: max(1, len(layers) // _SHOWN)][:_SHOWN])
    return f"give {', '.join(TARGETS)}, or patterns of names such as {shown}"
