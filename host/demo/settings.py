"""`DemoSettings`: what the demo's command line gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from systolora.offloading.target_names import TARGETS, TRAINING_TRANSFER_TYPE, TRANSFER_TYPES
from systolora.options import LARGEST_SEED, setting

CONCEPTS = ("heart", "mushroom", "robot")
"""What the demo can teach; `shapes` draws them."""


@dataclass(frozen=True)
class DemoSettings:
    """Settings of the demo; each is an option of `systolora demo`."""

    out: Path = setting(
        Path("demo-out"), "folder for the adapters, pictures and page: a new or empty one, or an earlier demo's"
    )
    concept: str = setting("heart", "what the model learns", choices=CONCEPTS)
    steps: int = setting(0, "training steps of each of the two runs; 0 means the recipe's own", least=0, most=1_000_000)
    backend: str = setting("emulator", "what runs the GEMMs of the INT8 run", choices=("emulator", "csim", "board"))
    emulated_board: str = setting("", "with --backend board: run the real driver on this emulated board")
    seed: int = setting(0, "of both runs", least=0, most=LARGEST_SEED)
    targets: str = setting("attention", "layers that run on the device", choices=TARGETS)
    transfer_type: str = setting(
        TRAINING_TRANSFER_TYPE, "in which activations and gradients cross in the INT8 run", choices=TRANSFER_TYPES
    )
