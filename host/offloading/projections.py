"""Which linear layers of a model are projections of an attention, and which of those are a cross-attention's key and value.

Names alone do not say it: `attn2` is cross-attention in Stable Diffusion and self-attention in SD 3.5, `out_proj` belongs to an
attention in CLIP and to a guidance embedder in Chroma. So it is read off the modules: an attention is a module that holds a key and
a value projection, and its projections are all linear layers that it holds.
"""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

_KEYS = re.compile(r"(to_|add_)?(k|key)(_proj|_linear|_t)?|.*(qkv|kv)(_proj|_linear|_mlp_proj)?")
"""Names of a projection to keys, alone or fused with values or queries (diffusers: to_k, add_k_proj, to_kv, to_qkv_mlp_proj,
txt_attn_qkv; transformers: k_proj, key, T5's k)."""
_VALUES = re.compile(r"(to_|add_)?(v|value)(_proj|_linear|_t)?|.*(qkv|kv)(_proj|_linear|_mlp_proj)?")
_QUERY = re.compile(r"(to_)?(q|query)(_proj|_linear)?")
_KEY_OR_VALUE = re.compile(r"(to_)?(k|v|kv|key|value)(_proj|_linear)?")
_ADDED_KEY_OR_VALUE = re.compile(r"add_(k|v)_proj|to_(k|v)_t|to_added_kv|txt_kv_proj")
"""Of the second stream of a joint attention: in the models of diffusers the text, or an image that is attended to."""
_CROSS = re.compile(r"cross|encdec|(^|\.)encoder_attn$", re.IGNORECASE)
_FUSED = {
    "to_qkv": ("to_q", "to_k", "to_v"),
    "to_kv": ("to_k", "to_v"),
    "to_added_qkv": ("add_q_proj", "add_k_proj", "add_v_proj"),
    "to_added_kv": ("add_k_proj", "add_v_proj"),
}
"""What diffusers' `fuse_qkv_projections` adds, and what then no longer runs though it stays."""


@dataclass(frozen=True)
class Projections:
    """The projections of all attentions of a model.

    Attributes:
        all: full names of the linear layers.
        key_value: those that project another sequence than the queries' to keys and values, and nothing else.
        idle: those that never run as a module, with the reason.
    """

    all: frozenset[str]
    key_value: frozenset[str]
    idle: dict[str, str]


def find_projections(model: nn.Module, linear: Iterable[str]) -> Projections:
    """The projections of a model.

    Args:
        linear: full names of its linear layers, adapted or not.
    """
    held: dict[str, dict[str, str]] = defaultdict(dict)
    for full in linear:
        holder, _, name = full.rpartition(".")
        if name.isdigit() and holder:  # an entry of a list or a Sequential, such as to_out.0
            holder, _, name = holder.rpartition(".")
        held[holder].setdefault(name, full)
    everything: set[str] = set()
    key_value: set[str] = set()
    idle: dict[str, str] = {}
    for holder, children in held.items():
        module = model.get_submodule(holder)
        idle.update({children[name]: why for name, why in _idle(module, children).items()})
        if not (any(map(_KEYS.fullmatch, children)) and any(map(_VALUES.fullmatch, children))):
            continue
        everything.update(children.values())
        wanted = [_ADDED_KEY_OR_VALUE]
        if is_cross_attention(model, holder, children):
            wanted.append(_KEY_OR_VALUE)
        key_value.update(full for name, full in children.items() if any(p.fullmatch(name) for p in wanted))
    return Projections(frozenset(everything), frozenset(key_value), idle)


def is_cross_attention(model: nn.Module, holder: str, children: Collection[str]) -> bool:
    """Whether the attention module of a name takes keys and values from another sequence than its queries.

    What counts, in this order: that its own name says "self"; that keys and queries have inputs of different width; what the
    module says of itself (`is_cross_attention`); names of the module, its class and its parent's class; `attn2`, if the module
    says nothing.
    """
    module: Any = model.get_submodule(holder)
    parent_name, _, name = holder.rpartition(".")
    if "self" in name.lower():
        return False
    widths = [
        {getattr(getattr(module, child, None), "in_features", 0) for child in children if pattern.fullmatch(child)}
        for pattern in (_QUERY, _KEY_OR_VALUE)
    ]
    if all(widths) and not widths[0] & widths[1]:
        return True
    says = getattr(module, "is_cross_attention", None)
    parent = type(model.get_submodule(parent_name)).__name__ if holder else ""
    named = any(_CROSS.search(text) for text in (name, type(module).__name__)) or "CrossAttention" in parent
    if says is None:
        return named or name.endswith("attn2")
    return bool(says) or named


def _idle(module: nn.Module, children: Collection[str]) -> dict[str, str]:
    """Child -> why it never runs as a module."""
    found = {}
    for fused, parts in _FUSED.items():
        if getattr(module, "fused_projections", False) and fused in children:
            found.update({part: f"fused into {fused} (fuse_qkv_projections)" for part in parts if part in children})
    reader = _forward_text(type(module))
    for child in children:
        # What is no number of the weight may be asked: type, device, shape.
        if re.search(rf"\bself\.{child}\.weight\b(?!\.(dtype|device|shape|size\b))", reader):
            found[child] = f"{type(module).__name__} computes with its weight itself"
    return found


def _forward_text(kind: type[nn.Module]) -> str:
    try:
        return inspect.getsource(kind.forward)
    except (OSError, TypeError):  # made at run time
        return ""
