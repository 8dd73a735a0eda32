"""Whose frozen weights a file belongs to: fingerprints of a model's weights, and of its copies in fewer bits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from systolora.errors import UserError
from torch import nn

from .file import IntLoraFile
from .targets import frozen_array, plain_model

Weights = Mapping[str, NDArray[np.float32]]

COPY_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
"""Types in which models are stored beside float32."""


def frozen_weights(model: nn.Module, names: Iterable[str]) -> dict[str, NDArray[np.float32]]:
    """Copies of the float32 weights [out, in] of the named Linear and Conv2d layers, adapted or not.

    Raises:
        UserError: if the model lacks one, or peft has merged an adapter into it, or for a weight of which no integers can be made.
    """
    modules = dict(plain_model(model).named_modules())
    found = {}
    for name in names:
        module: Any = modules.get(name)
        base = module.get_base_layer() if hasattr(module, "get_base_layer") else module
        if not isinstance(base, (nn.Linear, nn.Conv2d)):
            raise UserError(
                f"the model has no Linear or Conv2d layer {name!r}; give the --model that the file was made for"
            )
        if getattr(module, "merged", False):
            raise UserError(f"layer {name!r}: peft has merged its adapter into the frozen weight; call unmerge() first")
        found[name] = frozen_array(name, base.weight)
    return found


def fingerprint_of(weights: Weights) -> str:
    """A hash of frozen weights, by name, shape and float32 bits; 32 hexadecimal digits."""
    state = hashlib.blake2b(digest_size=16)
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name], "<f4")
        state.update(f"{name} {array.shape};".encode())
        state.update(array.tobytes())
    return state.hexdigest()


def copies_of(weights: Weights) -> dict[str, str]:
    """The fingerprints that the same model has in each of `COPY_TYPES`, by type."""
    return {kind: fingerprint_of(_rounded(weights, kind)) for kind in COPY_TYPES}


def fitting_weights(path: Path, content: IntLoraFile, weights: Weights) -> Weights:
    """The weights that a file's integers are made of, from those of a model: the same, or the model's in float16 or bfloat16.

    A file with finished integers (term, merged) also fits the float16 or bfloat16 copy of its model.

    Raises:
        UserError: for another model, or an adapter with a copy of its model in fewer bits.
    """
    found = fingerprint_of(weights)
    if found == content.fingerprint:
        return weights
    for kind in COPY_TYPES:
        rounded = _rounded(weights, kind)
        if fingerprint_of(rounded) == content.fingerprint:
            return rounded
    copied = [kind for kind, fingerprint in content.copies.items() if fingerprint == found]
    if copied and content.kind != "adapter":
        return weights
    if copied:
        raise UserError(
            f"{path}: this model is a {copied[0]} copy of the one that it was trained on, whose own weights the merge needs: give that "
            "one as --model; the merged file then fits the copy too"
        )
    raise UserError(
        f"{path}: made for a model with fingerprint {content.fingerprint}, but this model has {found}; give the --model that it was "
        "trained on"
    )


def _rounded(weights: Weights, kind: str) -> dict[str, NDArray[np.float32]]:
    return {name: torch.from_numpy(array).to(COPY_TYPES[kind]).float().numpy() for name, array in weights.items()}
