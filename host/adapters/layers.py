"""An adapter in memory, whatever names its file had: layers by part and module, each with its two factors and its alpha."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from systolora.errors import UserError
from torch import Tensor

PARTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
"""What of a pipeline can carry an adapter; the first names in diffusers' files."""

FILE = "pytorch_lora_weights.safetensors"
"""As diffusers calls it."""


def whole_name(part: str, module: str) -> str:
    """A CLIP text encoder's module with `text_model.` before it, which newer transformers leave out."""
    inside = module.startswith(("encoder.", "embeddings.", "final_layer_norm"))
    return f"text_model.{module}" if part in ("text_encoder", "text_encoder_2") and inside else module


@dataclass(frozen=True)
class LoraLayer:
    """One layer's factors.

    Attributes:
        down: [rank, in], or of a convolution [rank, in, height, width]. up: [out, rank], or [out, rank, 1, 1].
        alpha: the update is scaled by alpha / rank.
    """

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """Rows of down, columns of up."""
        return int(self.down.shape[0])

    def fault(self) -> str:
        """What is wrong with it; "" if nothing is."""
        down, up = self.down, self.up
        if not down.is_floating_point() or not up.is_floating_point():
            return "its factors are no floating point numbers"
        if down.dim() not in (2, 4) or up.dim() != down.dim() or 0 in (*down.shape, *up.shape):
            return f"factors of {list(down.shape)} and {list(up.shape)}: expected two matrices, or two kernels of convolutions"
        if up.shape[1] != down.shape[0]:
            return f"factors of {list(down.shape)} and {list(up.shape)} do not have one rank"
        if not all(bool(factor.isfinite().all()) for factor in (down, up)):
            return "its factors hold a NaN or an infinity"
        if not math.isfinite(self.alpha):
            return f"its alpha is {self.alpha}"
        return ""


@dataclass(frozen=True)
class Adapter:
    """A whole adapter.

    Attributes:
        layers: by (part of the pipeline, name of the module in it); text encoders' names begin with `text_model.`.
        notes: entries of the file's header that are of no format: who trained it, with what.
    """

    layers: Mapping[tuple[str, str], LoraLayer]
    notes: Mapping[str, str] = field(default_factory=dict)

    def of(self, part: str) -> dict[str, LoraLayer]:
        """The layers of a part, by module."""
        return {module: layer for (found, module), layer in self.layers.items() if found == part}

    @property
    def parts(self) -> tuple[str, ...]:
        """Those that it adapts."""
        return tuple(part for part in PARTS if self.of(part))

    def check(self, origin: str) -> Adapter:
        """The adapter itself, if its layers are sound.

        Raises:
            UserError: naming the first that is not.
        """
        if not self.layers:
            raise UserError(f"{origin}: it holds no LoRA layer")
        for (part, module), layer in self.layers.items():
            if fault := layer.fault():
                raise UserError(f"{origin}: {part}.{module}: {fault}")
        return self
