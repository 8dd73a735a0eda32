"""From an adapter to merged integers: what `systolora merge` and `systolora export` do.

The adapter's factors are INT8, so their product has the same bits as on the device; the adaptation term's integers follow from it, the frozen
weight and the seed. The merge itself multiplies or shifts integers and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from systolora.errors import UserError

from .digits import width
from .engine import product_of_integers, quantized_factor
from .file import IntLoraFile
from .fingerprints import Weights, copies_of, fingerprint_of, fitting_weights
from .layouts import STATE, term_bits
from .packing import pack, unpack
from .peft import IntLoraHandle
from .quantizers import RowGrid
from .rules import INT8_LIMIT, IntegerWeight, MulRule, ShiftRule, make_rule


def adapter_file(handle: IntLoraHandle, weights: Weights) -> IntLoraFile:
    """The adapter of a trained model: factors in INT8 with one scale each.

    Quantizers that were searched anew during training cannot be found again from the frozen weight: they are stored, per row.

    Args:
        weights: the frozen weights, from `frozen_weights`.
    """
    if handle.settings is None:
        raise ValueError("only a model with IntLoRA's own rules has an IntLoRA adapter")
    tensors: dict[str, NDArray[Any]] = {}
    layers: dict[str, tuple[int, int, int]] = {}
    factors = handle.factors()
    (scaling,) = {scaling for _, _, scaling in factors.values()}
    for name, (down, up, _) in factors.items():
        (tensors[f"{name}.down"], down_scale), (tensors[f"{name}.up"], up_scale) = (
            quantized_factor(down),
            quantized_factor(up),
        )
        tensors[f"{name}.scales"] = np.concatenate([down_scale, up_scale])
        if handle.refresh_every:
            state = handle.modules[name].systolora_layer.rule.state()
            tensors.update({f"{name}.{STATE}{key}": value for key, value in state.items()})
        layers[name] = (len(up), down.shape[1], 8)
    digest = digest_of(handle.weights())
    return IntLoraFile(
        kind="adapter",
        settings=handle.settings,
        fingerprint=fingerprint_of(weights),
        scaling=scaling,
        merged=digest,
        layers=layers,
        tensors=tensors,
        copies=copies_of(weights),
    )


def rules_of(path: Path, adapter: IntLoraFile, weights: Weights) -> dict[str, tuple[MulRule | ShiftRule, Any]]:
    """Each layer's rule, as at the end of training, and its low-rank product.

    Raises:
        UserError: if the weights are not those of the adapter.
    """
    weights = fitting_weights(path, adapter, weights)
    found = {}
    for name in adapter.layers:
        scales = adapter.tensors[f"{name}.scales"]
        up, down = adapter.tensors[f"{name}.up"], adapter.tensors[f"{name}.down"]
        product = product_of_integers(up, scales[1:], down, scales[:1], adapter.scaling)
        rule = make_rule(weights[name], adapter.settings, name)
        if adapter.settings.refresh_every:
            rule.restore({key: adapter.tensors[f"{name}.{STATE}{key}"] for key in rule.state()})
        found[name] = rule, product
    return found


def term_file(path: Path, adapter: IntLoraFile, weights: Weights) -> IntLoraFile:
    """Frozen integers and adaptation term: all that a merge in integers needs, without the model."""
    tensors: dict[str, NDArray[Any]] = {}
    layers = {}
    for name, (rule, product) in rules_of(path, adapter, weights).items():
        codes, frozen = rule.codes(product), rule.frozen
        bits = term_bits(rule.settings)
        tensors[f"{name}.term"] = pack(codes, bits)
        tensors[f"{name}.frozen"] = pack(frozen.codes, rule.settings.bits)
        tensors[f"{name}.frozen_zero"] = frozen.grid.zero
        if isinstance(rule, MulRule):
            tensors[f"{name}.term_zero"] = rule.term_grid.zero
        # The scale of the merged integers; each row's integers have one scale, the frozen grid's is in it.
        tensors[f"{name}.scale"] = rule.merge(codes).scale
        tensors[f"{name}.narrowing"] = rule.narrowing.astype(np.uint8)
        layers[name] = (*codes.shape, bits)
    return replace(adapter, kind="term", layers=layers, tensors=tensors)


def merge_terms(path: Path, content: IntLoraFile) -> dict[str, IntegerWeight]:
    """The merged weights of a term file: integer multiply or shift, add, shift, limit; no float but the stored scales.

    Raises:
        UserError: if the result is not what training had.
    """
    settings, tensors = content.settings, content.tensors
    merged = {}
    for name, (out, inner, bits) in content.layers.items():
        grid = _integer_grid(tensors[f"{name}.frozen_zero"], settings.has("zeros"))
        signed = settings.symmetric
        frozen = grid.integers(unpack(tensors[f"{name}.frozen"], settings.bits, (out, inner), signed))
        codes = unpack(tensors[f"{name}.term"], bits, (out, inner), settings.method == "shift")
        if settings.method == "mul":
            values = (codes - tensors[f"{name}.term_zero"][:, None]) * frozen
        else:
            values = np.sign(codes) * (frozen << np.maximum(np.abs(codes) - 1, 0))
        if settings.has("range"):
            shift = tensors[f"{name}.narrowing"].astype(np.int32)[:, None]
            values = values + np.where(shift > 0, 1 << np.maximum(shift - 1, 0), 0) >> shift
            values = np.clip(values, -INT8_LIMIT, INT8_LIMIT)
        merged[name] = IntegerWeight(values.astype(np.int32), tensors[f"{name}.scale"])
    return _checked(path, content, merged)


def merge_adapter(path: Path, adapter: IntLoraFile, weights: Weights) -> dict[str, IntegerWeight]:
    """The merged weights of an adapter and the frozen weights that it was trained on.

    Raises:
        UserError: for other weights, or if the result is not what training had.
    """
    rules = rules_of(path, adapter, weights)
    merged = {name: rule.merge(rule.codes(product)) for name, (rule, product) in rules.items()}
    return _checked(path, adapter, merged)


def merged_file(source: IntLoraFile, merged: Mapping[str, IntegerWeight]) -> IntLoraFile:
    """The file of merged weights; each layer's integers are packed in as many bits as its largest needs."""
    tensors: dict[str, NDArray[Any]] = {}
    layers = {}
    for name, weight in merged.items():
        bits = width(weight.values)
        tensors[f"{name}.weight"] = pack(weight.values, bits)
        tensors[f"{name}.scale"] = weight.scale
        layers[name] = (*weight.values.shape, bits)
    return replace(source, kind="merged", layers=layers, tensors=tensors)


def merged_weights(content: IntLoraFile) -> dict[str, IntegerWeight]:
    """The integer weights in a merged file."""
    return {
        name: IntegerWeight(
            unpack(content.tensors[f"{name}.weight"], bits, (out, inner), True), content.tensors[f"{name}.scale"]
        )
        for name, (out, inner, bits) in content.layers.items()
    }


def digest_of(weights: Mapping[str, IntegerWeight]) -> str:
    """A hash of integers and scales, by name; 32 hexadecimal digits."""
    state = hashlib.blake2b(digest_size=16)
    for name in sorted(weights):
        state.update(name.encode())
        state.update(np.ascontiguousarray(weights[name].values, "<i4").tobytes())
        state.update(np.ascontiguousarray(weights[name].scale, "<f4").tobytes())
    return state.hexdigest()


def _checked(path: Path, content: IntLoraFile, merged: dict[str, IntegerWeight]) -> dict[str, IntegerWeight]:
    found = digest_of(merged)
    if found != content.merged:
        raise UserError(
            f"{path}: the merged weights have digest {found}, training had {content.merged}; the two versions of systolora "
            "differ in their arithmetic"
        )
    return merged


def _integer_grid(zero: NDArray[np.int32], odd: bool) -> RowGrid:
    """A grid for `integers` alone: its scale is not used."""
    return RowGrid(np.ones(len(zero), np.float32), zero, 0, 0, odd)
