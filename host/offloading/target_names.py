"""What `--targets`, `--adapt` and the type of transfers may say, declared once for `offload`, `train` and `simulate`; no torch is loaded for it."""

from __future__ import annotations

TARGETS = ("kv", "attention", "linear", "all")
"""Cross-attention key and value (the CDM-QTA paper), all projections of attention, every Linear, every Linear and Conv2d."""

ADAPTED = ("kv", "attention")
"""Layers that `offload(rank=...)` and `train` put an adapter on; those of TARGETS."""

ATTENTION_PRODUCTS_HELP = "also q k^T, p v and their gradients on the device, with any targets"

TRANSFER_TYPES = ("float32", "bfloat16")
"""Element types in which activations and gradients cross between host and device."""

TRAINING_TRANSFER_TYPE = "bfloat16"
"""The one that `train` and `simulate` take by default: half the bytes; what was measured of the training is in docs/training.md."""


def adapted_by(targets: str, adapt: str = "") -> str:
    """Which layers get an adapter: those asked for, else key and value for targets "kv" and all of attention for the others."""
    return adapt or ("kv" if targets == "kv" else "attention")
