"""Systolora: INT8 LoRA training of diffusion models on an FPGA systolic array, or bit for bit in software.

The names below load on first use, so that `import systolora.hls` brings in no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "offload": "systolora.offloading.model",
    "OffloadHandle": "systolora.offloading.model",
    "QuantizationConfig": "systolora.offloading.quantization",
    "open_device": "systolora.device",
}

__version__ = "0.1.0"
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'systolora' has no attribute {name!r}")
