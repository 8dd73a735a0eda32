"""What `systolora merge` and `systolora export` write: merged integers, terms for a merge in integers, or a diffusers folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from systolora.errors import UserError
from systolora.models.sources import load_model
from systolora.outputs import try_writing
from torch import nn

from .digits import count_wide, digits
from .file import IntLoraFile, read_file, write_file
from .fingerprints import Weights, fitting_weights, frozen_weights
from .merge import merge_adapter, merge_terms, merged_file, merged_weights, term_file
from .rules import IntegerWeight
from .targets import plain_model

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


def merge_file(source: Path, out: Path, model: Path | str | None, model_config: str = "") -> MergeReport:
    """Writes the merged integers of an adapter (which needs its model) or a term file (which does not).

    Args:
        model, model_config: as `load_model` takes them.

    Raises:
        UserError: for a damaged file, a missing or another model, or an `out` that cannot be written or holds something else.
    """
    _check_file(source, out, "merged")
    content = read_file(source, ("adapter", "term"))
    merged = _merged(source, content, None if model is None else load_unet(model, model_config))
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


def export_file(source: Path, out: Path, model: Path | str, form: str, model_config: str = "") -> Path:
    """Writes an adapter as a term file, or an adapter or merged file as a diffusers folder with the merged weights in float32.

    Args:
        model, model_config: as `load_model` takes them.

    Raises:
        UserError: for an unknown form, a damaged file, another model, or an `out` that cannot be written or holds something else.
    """
    if form not in FORMS:
        raise UserError(f"--form {form!r}: allowed are {', '.join(FORMS)}")
    if form == "term":
        _check_file(source, out, "term")
        content = read_file(source, ("adapter",))
        weights = frozen_weights(load_unet(model, model_config), content.layers)
        return write_file(out, term_file(source, content, weights))
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: it is a file, but a pipeline is a folder; give a new one, or --form term")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"--out {out}: the folder is not empty; give a new one")
    _check_writable(out)
    content = read_file(source)
    parts = load_model(str(model), config=model_config)
    put_weights(parts.unet, _merged(source, content, parts.unet))
    out.parent.mkdir(parents=True, exist_ok=True)
    # Written beside and moved: whoever finds the folder finds all of it.
    with TemporaryDirectory(prefix=f".{out.name}.", suffix=".partial", dir=out.parent) as partial:
        parts.pipe.save_pretrained(str(Path(partial) / "pipeline"))
        os.replace(Path(partial) / "pipeline", out)
    return out


def _check_file(source: Path, out: Path, kind: str) -> None:
    """Refuses an output file that is the input, a folder, something else than a file of its kind, or not to be written."""
    if out.is_dir():
        raise UserError(f"--out {out}: it is a folder, but a {kind} file is to be written; give a file")
    if out.exists():
        if source.exists() and out.samefile(source):
            raise UserError(f"--out {out}: it is the file that is read; give another name")
        try:
            found = read_file(out).kind
        except UserError:
            found = "no IntLoRA file"
        if found != kind:
            raise UserError(f"--out {out}: the file there is not replaced ({found}, not {kind}); give another name")
    _check_writable(out)


def _check_writable(out: Path) -> None:
    """Refuses an output for which no file can be made, before the work; leaves nothing behind."""
    try:
        try_writing(out.absolute().parent)
    except OSError as error:
        raise UserError(f"--out {out}: it cannot be written: {error.strerror or error}") from None


def put_weights(model: nn.Module, merged: Mapping[str, IntegerWeight]) -> None:
    """Replaces the float weights of the named layers by their merged integers times scale, in place."""
    modules: dict[str, Any] = dict(plain_model(model).named_modules())
    with torch.no_grad():
        for name, weight in merged.items():
            frozen = modules[name].weight
            frozen.copy_(torch.from_numpy(weight.real()).view(frozen.shape))


def load_unet(model: Path | str, model_config: str = "") -> nn.Module:
    """The U-Net or transformer of a model.

    Raises:
        UserError: as `load_model`.
    """
    trained: nn.Module = load_model(str(model), config=model_config).unet
    return trained


def _merged(source: Path, content: IntLoraFile, unet: nn.Module | None) -> dict[str, IntegerWeight]:
    weights: Weights | None = None if unet is None else frozen_weights(unet, content.layers)
    if weights is not None:
        weights = fitting_weights(source, content, weights)
    if content.kind == "merged":
        return merged_weights(content)
    if content.kind == "term":
        return merge_terms(source, content)
    if weights is None:
        raise UserError(f"{source}: an adapter is merged with the weights that it was trained on: give --model")
    return merge_adapter(source, content, weights)
