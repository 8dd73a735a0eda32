"""What of a layer runs in INT8, and how its tensors are quantized."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from systolora.errors import UserError

from .target_names import TRANSFER_TYPES

GEMM_KINDS: tuple[str, ...] = (
    "forward_base",
    "forward_down",
    "forward_up",
    "grad_hidden",
    "grad_up",
    "grad_down",
    "grad_input_base",
    "grad_input_low_rank",
)
"""The eight GEMMs of an adapted layer: y = x W^T, h = x down^T, y += s (h up^T), grad_h = s (g up), grad_up = s (g^T h),
grad_down = grad_h^T x, grad_x = g W, grad_x += grad_h down. A frozen layer has the first and the last but one."""

FROZEN_KINDS = frozenset({"forward_base", "grad_input_base"})
"""The GEMMs of a layer that has no adapter."""

TURNABLE_KINDS = frozenset({"grad_up", "grad_down", "forward_context", "grad_value", "grad_query", "grad_key"})
"""GEMMs whose result may be stored transposed, where the array computes it faster in that form: only the host reads it, and takes it in
either order. A factor's gradient has few values; attention's results (`attention.py`) are copied by the host anyway, which puts the heads
side by side. An activation is not among them, nor scores: turning it would take the host longer than the array gains."""

FOLLOW_MODEL = "model"
"""A transfer type: bfloat16 for what the model has in bfloat16, else float32."""

_CHOICES = {
    "weight_scales": ("tensor", "channel"),
    "factor_scales": ("tensor", "vector"),
    "activation_scales": ("tensor", "vector"),
    "gradient_scales": ("tensor", "vector"),
    "weight_rounding": ("nearest", "stochastic"),
    "factor_rounding": ("nearest", "stochastic"),
    "activation_rounding": ("nearest", "stochastic"),
    "gradient_rounding": ("nearest", "stochastic"),
    "transfer_type": (FOLLOW_MODEL, *TRANSFER_TYPES),
}


class QuantizationError(UserError):
    """A setting of `QuantizationConfig` that does not exist; the text lists those that do."""


@dataclass(frozen=True)
class QuantizationConfig:
    """How the layers of a model are quantized.

    Attributes:
        int8_kinds: which of `GEMM_KINDS` run in INT8 on the device; the others run in float32 in torch.
        weight_scales: of a frozen weight, "tensor" (one, as in the CDM-QTA paper) or "channel" (one per output channel).
        factor_scales: of down and up, "vector" (one per row forward, per column backward) or "tensor".
        activation_scales: of x and the hidden h, "vector" (one per token forward, per column in weight gradients) or "tensor".
        gradient_scales: of grad_y and grad_h, likewise.
        weight_rounding, factor_rounding, activation_rounding, gradient_rounding: "nearest" (half to even) or "stochastic".
        seed: of the stochastic rounding, any integer.
        transfer_type: element type in which activations and gradients cross between host and device: "model" (bfloat16 for what
            the model has in bfloat16, else float32), "float32" or "bfloat16". Weights, factors and what is rank-sized keep theirs,
            and a result to which the adapter's part is added is float32. Modules give the model's type whatever crosses.
    """

    int8_kinds: frozenset[str] = frozenset(GEMM_KINDS)
    weight_scales: str = "tensor"
    factor_scales: str = "vector"
    activation_scales: str = "vector"
    gradient_scales: str = "vector"
    weight_rounding: str = "nearest"
    factor_rounding: str = "nearest"
    activation_rounding: str = "nearest"
    gradient_rounding: str = "nearest"
    seed: int = 0
    transfer_type: str = FOLLOW_MODEL

    def __post_init__(self) -> None:
        object.__setattr__(self, "int8_kinds", frozenset(self.int8_kinds))
        unknown = sorted(self.int8_kinds - set(GEMM_KINDS))
        if unknown:
            raise QuantizationError(f"no GEMM kind {', '.join(unknown)}: there are {', '.join(GEMM_KINDS)}")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise QuantizationError(f"{name} = {getattr(self, name)!r}: allowed are {', '.join(allowed)}")

    @classmethod
    def in_float32(cls, kinds: Iterable[str] = GEMM_KINDS, **settings: Any) -> QuantizationConfig:
        """All kinds in INT8 except these, for sensitivity studies; without arguments everything runs in float32.

        Raises:
            QuantizationError: for a kind or a setting that does not exist.
        """
        kinds = frozenset(kinds)
        unknown = sorted(kinds - set(GEMM_KINDS))
        if unknown:
            raise QuantizationError(f"no GEMM kind {', '.join(unknown)}: there are {', '.join(GEMM_KINDS)}")
        return cls(int8_kinds=frozenset(GEMM_KINDS) - kinds, **settings)

    def seed_for(self, step: int, layer: int, role: str) -> int:
        """The 32-bit seed with which a tensor of a layer is rounded in a step; the same for all who ask."""
        text = f"{self.seed}/{step}/{layer}/{role}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")


def describe_transfers(quantization: QuantizationConfig) -> str:
    """One line for reports: in which type activations and gradients cross."""
    chosen = quantization.transfer_type
    text = "the model's type (bfloat16, or else float32)" if chosen == FOLLOW_MODEL else chosen
    return f"activations and gradients cross between host and device in {text}"


def quantization_for(weight_scales: str, rounding: str, seed: int, transfer_type: str) -> QuantizationConfig:
    """The configuration behind the command line's options: weight scales, rounding of gradients, seed, what crosses."""
    return QuantizationConfig(
        weight_scales=weight_scales, gradient_rounding=rounding, seed=seed, transfer_type=transfer_type
    )
