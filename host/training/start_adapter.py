"""`--init-from`: a run that begins with a LoRA that exists, whosever names its file has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from systolora.adapters.layers import LoraLayer, whole_name
from systolora.adapters.reading import read_adapter
from systolora.errors import UserError
from torch import nn

from .fingerprints import file_digest
from .settings import TrainSettings


def adapter_fingerprint(path: Path) -> dict[str, str]:
    """SHA-256 of the adapter's file, or of the files of its folder that are read; empty if there is none."""
    if not path.is_dir():
        return {"adapter": file_digest(path)} if path.is_file() else {}
    files = sorted(found for found in path.rglob("*") if found.suffix in (".safetensors", ".json") and found.is_file())
    return {found.relative_to(path).as_posix(): file_digest(found) for found in files}


def start_from(models: Mapping[str, nn.Module], settings: TrainSettings) -> None:
    """Puts the values of the adapter that `--init-from` names in the place of the first values of the adapters of a run.

    Args:
        models: what the run trains, by the name of the pipeline's part.

    Raises:
        UserError: if it cannot be read, or does not have this run's layers, rank and alpha; the text says what to give.
    """
    from peft.tuners.lora.layer import LoraLayer as Adapted

    option = f"--init-from {settings.init_from}"
    found = read_adapter(Path(settings.init_from))
    others = [other for other in found.parts if other not in models]
    if others:
        raise UserError(
            f"{option}: it adapts the {others[0]} too, which this run does not train; give an adapter of the {' and '.join(models)} alone"
        )
    for part, model in models.items():
        modules = {
            whole_name(part, name): module for name, module in model.named_modules() if isinstance(module, Adapted)
        }
        layers = found.of(part)
        if not layers:
            raise UserError(
                f"{option}: it does not adapt the {part}, which this run trains; give an adapter of the {' and '.join(models)}"
                + (", or leave --train-text-encoder out" if part.startswith("text_encoder") else "")
            )
        _check_layers(option, layers, modules)
        _check_rank(option, layers, settings)
        with torch.no_grad():
            for name, module in modules.items():
                _fill(option, name, module, layers[name])


def _check_layers(option: str, layers: dict[str, LoraLayer], modules: dict[str, Any]) -> None:
    foreign = [name for name in layers if name not in modules]
    if foreign:
        raise UserError(
            f"{option}: {len(foreign)} of its {len(layers)} layers are none that this run adapts, such as {foreign[0]}; "
            "give the --adapt and --targets that it was trained with"
        )
    lacking = [name for name in modules if name not in layers]
    if lacking:
        raise UserError(
            f"{option}: it lacks {len(lacking)} of the {len(modules)} layers that this run adapts, such as {lacking[0]}; "
            "give the --adapt and --targets that it was trained with"
        )


def _check_rank(option: str, layers: dict[str, LoraLayer], settings: TrainSettings) -> None:
    """One rank and one alpha, those of the run. Under rslora an alpha means what it does times sqrt(rank) in plain LoRA."""
    unit = math.sqrt(settings.rank) if settings.rslora else 1.0
    for what, theirs, ours in (
        ("rank", {float(layer.rank) for layer in layers.values()}, float(settings.rank)),
        ("alpha", {layer.alpha / unit for layer in layers.values()}, settings.lora_alpha),
    ):
        if len(theirs) > 1:
            raise UserError(
                f"{option}: its layers have several values of {what}, {', '.join(f'{v:g}' for v in sorted(theirs))}"
            )
        (only,) = theirs
        # Files for other programs hold rslora's product with sqrt(rank), in float32.
        if not math.isclose(only, ours, rel_tol=1e-6 if settings.rslora else 0):
            raise UserError(f"{option}: its {what} is {only:g}, that of this run {ours:g}; give --{what} {only:.17g}")


def _fill(option: str, name: str, module: Any, layer: LoraLayer) -> None:
    (adapter,) = module.lora_A
    for factor, value in ((module.lora_A[adapter].weight, layer.down), (module.lora_B[adapter].weight, layer.up)):
        if factor.shape != value.shape:
            raise UserError(
                f"{option}: {name}: factors of {list(layer.down.shape)} and {list(layer.up.shape)} do not fit this model's layer"
            )
        factor.copy_(value)
