"""`LaunchSettings`: what `systolora launch` may be told; none of it reaches the script."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from systolora.device import BACKENDS, check_emulated_board
from systolora.hls.config import board_config
from systolora.offloading.target_names import ATTENTION_PRODUCTS_HELP, TARGETS
from systolora.options import LARGEST_SEED, check_rules, merge_settings, setting

_WHAT, _DEVICE, _END = "What is offloaded", "Device", "At the end"
"""Headings of the help."""


@dataclass(frozen=True)
class LaunchSettings:
    """Settings of one launch; each is an option that stands before the script."""

    targets: str = setting(
        "attention",
        "layers that run on the device: kv (cross-attention key and value), attention, linear, all (convolutions too)",
        group=_WHAT,
        choices=TARGETS,
    )
    attention_products: bool = setting(False, ATTENTION_PRODUCTS_HELP, group=_WHAT)
    backend: str = setting("emulator", "what runs the GEMMs", group=_DEVICE, choices=tuple(BACKENDS))
    board: str = setting("", "preset of the array (systolora boards); empty means 64 x 64", group=_DEVICE)
    emulated_board: str = setting("", "with --backend board: run the real driver on this emulated board", group=_DEVICE)
    weight_scales: str = setting(
        "tensor",
        "tensor: one scale per weight tensor (the CDM-QTA paper); channel: one per output channel",
        group=_DEVICE,
        choices=("tensor", "channel"),
    )
    rounding: str = setting("nearest", "of gradients", group=_DEVICE, choices=("nearest", "stochastic"))
    seed: int = setting(
        0, "of stochastic rounding; the script's own is the script's", group=_DEVICE, least=0, most=LARGEST_SEED
    )
    report: str = setting("", "file for what ran where, as JSON", group=_END)
    require: bool = setting(False, "exit with code 1 if the script ends well but nothing ran on the device", group=_END)


def launch_settings(given: Mapping[str, Any]) -> LaunchSettings:
    """The settings of the command line, checked without loading torch.

    Raises:
        UserError: naming the first that is not allowed.
        ConfigError: for a board that there is not.
    """
    settings = merge_settings(LaunchSettings(), given, "command line")
    check_rules(settings)
    if settings.board:
        board_config(settings.board)
    check_emulated_board(settings.backend, settings.board, settings.emulated_board)
    return settings
