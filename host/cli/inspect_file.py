"""`systolora inspect FILE`: what a file of this project, or a LoRA file of others, holds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from systolora.errors import UserError
from systolora.intlora.digits import count_wide
from systolora.intlora.file import HEADER_KEY, IntLoraFile, read_file
from systolora.intlora.merge import merged_weights
from systolora.training.adapter import SETTINGS_KEY

_DOWN = (".lora.down.weight", ".lora_A.weight", ".lora_down.weight")
_UP = (".lora.up.weight", ".lora_B.weight", ".lora_up.weight")


@dataclass(frozen=True)
class Inspection:
    """What was found. facts: name to value, in the order to be shown. layers: (name, what is said of it)."""

    kind: str
    facts: dict[str, Any]
    layers: list[tuple[str, str]]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"kind": self.kind, **self.facts, "layers": dict(self.layers)}


def inspect_file(path: Path) -> Inspection:
    """Reads a safetensors file and says what it is; checks it where it has a checksum.

    Raises:
        UserError: one line, if it cannot be read or is damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    try:
        with safe_open(str(path), framework="np") as file:
            metadata = dict(file.metadata() or {})
            names = list(file.keys())
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            types = {name: file.get_slice(name).get_dtype() for name in names}
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{path}: it is no readable safetensors file ({reason})") from None
    if HEADER_KEY in metadata:
        return _intlora(path)
    if any(name.endswith(_DOWN) and len(shapes[name]) > 1 for name in names):
        return _lora(path, metadata, shapes, types)
    return Inspection(
        "tensors",
        {"file": str(path), "bytes": path.stat().st_size, **{f"header {key}": _cut(v) for key, v in metadata.items()}},
        [(name, f"{types[name]} {list(shapes[name])}") for name in names],
    )


def _intlora(path: Path) -> Inspection:
    content = read_file(path)
    size = path.stat().st_size
    settings = content.settings
    facts: dict[str, Any] = {
        "file": str(path),
        "bytes": size,
        "checksum": "good",
        "method": f"IntLoRA_{settings.method.upper()}, {settings.bits} bits",
        "remedies": ", ".join(settings.remedies) or "none (the paper's form)",
        "auxiliary matrix": f"{settings.distribution}, seed {settings.seed}, {settings.ratio} ratio, exponent {settings.exponent}",
        "model fingerprint": content.fingerprint,
        "merged digest": content.merged,
        "layers": len(content.layers),
    }
    layers = [(name, f"[{out}, {inner}], {bits} bits") for name, (out, inner, bits) in content.layers.items()]
    if content.kind == "merged":
        weights = merged_weights(content)
        wide = sum(count_wide(weight.values) for weight in weights.values())
        total = sum(weight.values.size for weight in weights.values())
        facts["wider than INT8"] = f"{wide} of {total} integers ({wide / total:.2%})"
        layers = [
            (name, f"{text}, {int(weights[name].values.min())} to {int(weights[name].values.max())}")
            for name, text in layers
        ]
    else:
        facts["integer bytes"] = _integer_bytes(content)
    return Inspection(f"IntLoRA {content.kind}", facts, layers)


def _integer_bytes(content: IntLoraFile) -> int:
    return sum(array.nbytes for array in content.integers().values())


def _lora(
    path: Path, metadata: dict[str, str], shapes: dict[str, tuple[int, ...]], types: dict[str, str]
) -> Inspection:
    downs = {name: shape for name, shape in shapes.items() if name.endswith(_DOWN) and len(shape) > 1}
    ranks = sorted({shape[0] for shape in downs.values()})
    facts: dict[str, Any] = {
        "file": str(path),
        "bytes": path.stat().st_size,
        "layers": len(downs),
        "rank": ", ".join(map(str, ranks)),
        "parameters": int(sum(np.prod(shape) for shape in shapes.values())),
        "types": ", ".join(sorted(set(types.values()))),
    }
    if SETTINGS_KEY in metadata:
        try:
            settings = json.loads(metadata[SETTINGS_KEY])
            settings["alpha"] = settings.get("alpha") or settings.get("rank", "?")  # 0 means the rank
            kept: tuple[str, ...] = (
                "model",
                "targets",
                "rank",
                "alpha",
                "steps",
                "learning_rate",
                "precision",
                "method",
                "seed",
            )
            if settings.get("precision") == "int8":
                kept = (*kept, "transfer_type")
            facts["trained with"] = ", ".join(f"{key} {settings[key]}" for key in kept if key in settings)
        except (ValueError, TypeError, AttributeError, RecursionError):
            facts["trained with"] = "(its header cannot be read)"
    ups = {name: shape for name, shape in shapes.items() if name.endswith(_UP) and shape}
    layers = []
    for name, shape in downs.items():
        ending = next(end for end in _DOWN if name.endswith(end))
        stem = name.removesuffix(ending)
        up = ups.get(stem + _UP[_DOWN.index(ending)])
        layers.append((stem, f"rank {shape[0]}, {shape[1]} to {up[0] if up else '?'}"))
    return Inspection("LoRA adapter", facts, layers)


def _cut(text: str) -> str:
    return text if len(text) <= 120 else text[:117] + "..."
