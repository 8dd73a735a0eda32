"""What `--targets` and `--adapt` may say, declared once for `offload`, `train` and `simulate`; no torch is loaded for it."""

from __future__ import annotations

TARGETS = ("kv", "attention", "linear", "all")
"""Cross-attention key and value (the CDM-QTA paper), all projections of attention, every Linear, every Linear and Conv2d."""

ADAPTED = ("kv", "attention")
"""Layers that `offload(rank=...)` and `train` put an adapter on; those of TARGETS."""

ATTENTION_PRODUCTS_HELP = "also q k^T, p v and their gradients on the device, with any targets"


def adapted_by(targets: str, adapt: str = "") -> str:
    """Which layers get an adapter: those asked for, else key and value for targets "kv" and all of attention for the others."""
    return adapt or ("kv" if targets == "kv" else "attention")
