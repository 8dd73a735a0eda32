"""What `systolora merge` and `systolora export` write: merged integers, terms for a merge in integers, or a diffusers folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from systolora.errors import UserError
from torch import nn

from .digits import count_wide, digits
from .file import IntLoraFile, fingerprint_of, read_file, require_fingerprint, write_file
from .merge import frozen_weights, merge_adapter, merge_terms, merged_file, merged_weights, term_file
from .rules import IntegerWeight

FORMS = ("term", "diffusers")


@dataclass(frozen=True)
class MergeReport:
    """path: the merged file. bytes: its size. layers; values: integers; wide: those beyond INT8; passes: most of one layer."""

    path: str
    bytes: int
    layers: int
    values: int
    wide: int
    passes: int

    def __str__(self) -> str:
        text = f"{self.path}: {self.layers} layers, {self.values} integers, {self.bytes} bytes"
        if not self.wide:
            return f"{text}; every integer fits the array's 8 bits"
        return (
            f"{text}; {self.wide} integers ({self.wide / self.values:.2%}) do not fit the array's 8 bits, "
            f"inference takes up to {self.passes} exact passes"
        )


def merge_file(source: Path, out: Path, model: Path | None) -> MergeReport:
    """Writes the merged integers of an adapter (which needs its model) or a term file (which does not).

    Raises:
        UserError: for a damaged file, a missing or another model.
    """
    content = read_file(source, ("adapter", "term"))
    merged = _merged(source, content, None if model is None else load_unet(model))
    write_file(out, merged_file(content, merged))
    values = [weight.values for weight in merged.values()]
    return MergeReport(
        path=str(out),
        bytes=out.stat().st_size,
        layers=len(merged),
        values=sum(part.size for part in values),
        wide=sum(count_wide(part) for part in values),
        passes=max(len(digits(part)) for part in values),
    )


def export_file(source: Path, out: Path, model: Path, form: str) -> Path:
    """Writes an adapter as a term file, or an adapter or merged file as a diffusers folder with the merged weights in float32.

    Raises:
        UserError: for an unknown form, a damaged file, or another model.
    """
    if form not in FORMS:
        raise UserError(f"--form {form!r}: allowed are {', '.join(FORMS)}")
    if form == "term":
        content = read_file(source, ("adapter",))
        weights = frozen_weights(load_unet(model), content.layers)
        return write_file(out, term_file(source, content, weights))
    content = read_file(source)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"--out {out}: the folder is not empty; give a new one")
    pipeline = _load_pipeline(model)
    unet = pipeline.unet
    put_weights(unet, _merged(source, content, unet))
    pipeline.save_pretrained(str(out))
    return out


def put_weights(model: nn.Module, merged: Mapping[str, IntegerWeight]) -> None:
    """Replaces the float weights of the named layers by their merged integers times scale, in place."""
    modules: dict[str, Any] = dict(model.named_modules())
    with torch.no_grad():
        for name, weight in merged.items():
            modules[name].weight.copy_(torch.from_numpy(weight.real()))


def load_unet(model: Path) -> nn.Module:
    """The U-Net of a pipeline folder.

    Raises:
        UserError: as `load_parts`.
    """
    from systolora.models.pipeline import load_parts

    return load_parts(model).unet


def _merged(source: Path, content: IntLoraFile, unet: nn.Module | None) -> dict[str, IntegerWeight]:
    weights = None if unet is None else frozen_weights(unet, content.layers)
    if weights is not None:
        require_fingerprint(source, content, fingerprint_of(weights))
    if content.kind == "merged":
        return merged_weights(content)
    if content.kind == "term":
        return merge_terms(source, content)
    if weights is None:
        raise UserError(f"{source}: an adapter is merged with the weights that it was trained on: give --model")
    return merge_adapter(source, content, weights)


def _load_pipeline(model: Path) -> Any:
    from systolora.models.pipeline import load_pipeline

    return load_pipeline(model)[0]
