"""What peft's configuration says of a layer's alpha, as JSON in a file of its own or in a header."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from systolora.errors import UserError
from systolora.files import read_utf8

from .layers import PARTS

PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
PEFT_PREFIX = "base_model.model."
"""Begins the names in that file."""


@dataclass(frozen=True)
class Scaling:
    """alpha of layers by peft's rules.

    Attributes:
        rank_stabilized: the update is scaled by alpha / sqrt(rank) (rslora).
    """

    common: float
    patterns: Mapping[str, float]
    rank_stabilized: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Scaling:
        """What a configuration says.

        Raises:
            ValueError, TypeError: if that cannot be understood.
            UserError: for a method that is no plain LoRA.
        """
        for key, method in (("use_dora", "DoRA"), ("lora_bias", "LoRA with a bias")):
            if config.get(key):
                raise UserError(
                    f"its configuration says {key}: this is {method}, which cannot be read here; plain LoRA can"
                )
        patterns = {str(name): float(value) for name, value in dict(config.get("alpha_pattern") or {}).items()}
        return cls(
            float(config["lora_alpha"]) if "lora_alpha" in config else math.nan,
            patterns,
            bool(config.get("use_rslora")),
        )

    def alpha(self, module: str, rank: int) -> float:
        """The alpha for which alpha / rank is the scale; where none is given, the rank."""
        from peft.utils.other import get_pattern_key

        given = self.patterns.get(get_pattern_key(list(self.patterns), module), self.common)
        if math.isnan(given):
            given = float(rank)
        return given * math.sqrt(rank) if self.rank_stabilized else given


def read_config(path: Path) -> Scaling:
    """peft's `adapter_config.json`.

    Raises:
        UserError: if it is not there, cannot be understood, or is of another method.
    """
    if not path.is_file():
        raise UserError(f"{path}: it is missing; peft's adapters have their alpha there")
    try:
        config = json.loads(read_utf8(path))
        if config.get("peft_type", "LORA") != "LORA":
            raise UserError(f"{path}: it is of the method {str(config['peft_type'])[:40]}, not LORA")
        return Scaling.of(config)
    except UserError:
        raise
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise UserError(f"{path}: it is no configuration of peft") from None


def part_of(module: str, folder: str) -> str:
    """Which part of a pipeline a module is of, which peft's files do not say: the folder's name, else what such names mean."""
    if folder in PARTS:
        return folder
    if ".self_attn." in module or ".mlp." in module:
        return "text_encoder"
    return (
        "unet"
        if module.startswith(("down_blocks", "mid_block", "up_blocks", "conv_", "time_", "add_"))
        else "transformer"
    )
