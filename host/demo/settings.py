"""`DemoSettings`: what the demo's command line gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from systolora.offloading.target_names import TARGETS, TRAINING_TRANSFER_TYPE, TRANSFER_TYPES
from systolora.options import LARGEST_SEED, setting

_LESSON, _DEVICE = "What is taught", "Device"
CONCEPTS = ("heart", "mushroom", "robot")
"""What the demo can teach; `shapes` draws them."""


@dataclass(frozen=True)
class DemoSettings:
    """Settings of the demo; each is an option of `systolora demo`."""

    out: Path = setting(
        Path("demo-out"),
        "folder for the adapters, pictures and page: a new or empty one, or an earlier demo's",
        group=_LESSON,
    )
    concept: str = setting("heart", "what the model learns", group=_LESSON, choices=CONCEPTS)
    steps: int = setting(
        0,
        "training steps of each of the two runs; 0 means the recipe's own",
        group=_LESSON,
        least=0,
        most=1_000_000,
    )
    seed: int = setting(0, "of both runs", group=_LESSON, least=0, most=LARGEST_SEED)
    backend: str = setting(
        "emulator", "what runs the GEMMs of the INT8 run", group=_DEVICE, choices=("emulator", "csim", "board")
    )
    emulated_board: str = setting("", "with --backend board: run the real driver on this emulated board", group=_DEVICE)
    targets: str = setting("attention", "layers that run on the device", group=_DEVICE, choices=TARGETS)
    transfer_type: str = setting(
        TRAINING_TRANSFER_TYPE,
        "in which activations and gradients cross in the INT8 run",
        group=_DEVICE,
        choices=TRANSFER_TYPES,
    )
