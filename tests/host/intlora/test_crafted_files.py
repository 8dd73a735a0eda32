"""Files with a valid checksum and wrong content: each is read as what it says, or refused with one line of this package."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save
from systolora.cli.inspect_file import inspect_file
from systolora.errors import UserError
from systolora.intlora.file import HEADER_KEY, _canonical, _checksum, read_file, write_file
from systolora.intlora.fingerprints import Weights, frozen_weights
from systolora.intlora.inference import load_merged
from systolora.intlora.merge import adapter_file, merge_adapter, merge_terms, merged_file, term_file
from systolora.intlora.settings import METHODS, IntLoraSettings

from .model import small_model, train_small

KINDS = ("adapter", "term", "merged")
INNER = 48
JUNK: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        7,
        200,
        2**31,
        2**70,
        -(2**70),
        10**400,
        0.5,
        -0.0,
        float("nan"),
        float("inf"),
        1e-320,
    ),
    *("", "x", "mul", "shift", "ü\n\x00", "0" * 32, [], [0], [[]], [None, []], {}, {"a": 1}, [[["to_k", 1, 1, 8]]]),
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[tuple[str, str], Path], Weights]:
    """One file of each kind and method, and the weights that they belong to."""
    folder, found = tmp_path_factory.mktemp("good"), {}
    for method in METHODS:
        model = small_model()
        handle, _ = train_small(model, IntLoraSettings(method, 2, refresh_every=2), None, 3)
        weights = frozen_weights(model, handle.modules)
        adapter = adapter_file(handle, weights)
        contents = (
            adapter,
            term_file(folder, adapter, weights),
            merged_file(adapter, merge_adapter(folder, adapter, weights)),
        )
        for content in contents:
            found[method, content.kind] = write_file(folder / f"{method}-{content.kind}", content)
    return found, weights


def opened(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with safe_open(str(path), framework="numpy") as file:
        header = json.loads(file.metadata()[HEADER_KEY])
        return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict


def sealed(path: Path, header: dict[str, Any], bundles: dict[str, np.ndarray]) -> Path:
    """A file with that content and the checksum that belongs to it."""
    header = {name: value for name, value in header.items() if name != "checksum"}
    header["checksum"] = _checksum(header, bundles)
    path.write_bytes(save(bundles, metadata={HEADER_KEY: _canonical(header)}))
    return path


def used(path: Path, weights: Weights) -> str:
    """Reads a file and does with it what its kind is for; "" if that went well, or the one line that refuses it."""
    try:
        content = read_file(path)
        if content.kind == "adapter":
            merge_adapter(path, content, weights)
        elif content.kind == "term":
            merge_terms(path, content)
        else:
            load_merged(small_model(adapted=False), path).undo()
        inspect_file(path)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 500
        return str(error)
    return ""


def change_header(header: Any, dice: random.Random) -> None:
    """One place of a nested header is replaced, dropped or doubled."""
    place = header
    while True:
        key = dice.choice(sorted(place)) if isinstance(place, dict) else dice.randrange(len(place))
        inner = place[key]
        if isinstance(inner, (dict, list)) and inner and dice.random() < 0.7:
            place = inner
            continue
        break
    what = dice.random()
    if what < 0.75:
        place[key] = copy.deepcopy(dice.choice(JUNK))
    elif what < 0.9:
        del place[key]
    elif isinstance(place, list):
        place.append(copy.deepcopy(inner))
    else:
        place[f"{key}x"] = inner


def change_bundles(bundles: dict[str, np.ndarray], dice: random.Random) -> None:
    """One tensor is dropped, added, cast, shaped or cut anew, or holds other values."""
    name = dice.choice(sorted(bundles))
    array = bundles[name].copy()
    ways: tuple[Callable[[], Any], ...] = (
        lambda: bundles.pop(name),
        lambda: bundles.update(extra=np.zeros(3, np.float32)),
        lambda: bundles.update({name: array.astype(dice.choice([np.float64, np.int16, np.uint8]))}),
        lambda: bundles.update({name: array[: dice.randrange(len(array))]}),
        lambda: bundles.update({name: np.concatenate([array, array])}),
        lambda: bundles.update({name: array[None]}),
        lambda: array.__setitem__(dice.randrange(len(array)), dice.choice([0, 1, 3, 100])),
        lambda: array.__setitem__(slice(None), np.array(-1).astype(array.dtype)),
        lambda: array.__setitem__(0, np.float32("nan")) if array.dtype.kind == "f" else None,
        lambda: array.__setitem__(-1, np.float32("inf")) if array.dtype.kind == "f" else None,
    )
    before = dict(bundles)
    dice.choice(ways)()
    if bundles.keys() == before.keys() and all(bundles[each] is before[each] for each in bundles):
        bundles[name] = array


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_changed_content_under_a_right_checksum_is_refused_or_read(
    files: tuple[dict[tuple[str, str], Path], Weights], method: str, kind: str, tmp_path: Path
) -> None:
    paths, weights = files
    good = opened(paths[method, kind])
    assert used(sealed(tmp_path / "good", *good), weights) == ""
    dice, refused, rounds = random.Random(f"{method} {kind}"), 0, 120
    with np.errstate(all="ignore"):
        for number in range(rounds):
            header, bundles = copy.deepcopy(good)
            for _ in range(dice.choice([1, 1, 1, 3])):
                if dice.random() < 0.7 or not bundles:
                    change_header(header, dice)
                else:
                    change_bundles(bundles, dice)
            try:
                path = sealed(tmp_path / f"{number}", header, bundles)
            except ValueError:
                continue  # nothing that JSON or safetensors can hold
            refused += bool(used(path, weights))
    assert refused > 0.6 * rounds


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("version", "one", "version 'one' of the format"),
        ("kind", ["adapter"], r"it holds a \['adapter'\]; this program knows"),
        ("settings", [], "these are no settings of this version"),
        ("fingerprint", 5, "fingerprint is no digest"),
        ("scaling", float("nan"), "scaling is not finite"),
        ("scaling", "2", "scaling is no number"),
        ("merged", "abc", "merged is no digest"),
        ("layers", [], "it has no list of layers"),
        ("layers", [["to_k", 40, 48]], "a layer is no name and sizes"),
        ("layers", [["to_k", -40, 48, 8]], r"layer 'to_k': sizes \[-40, 48, 8\]"),
        ("layers", [["to_k", 40, 48, 8]] * 2, "layer 'to_k' is there twice"),
        ("layers", [["to_k", 40, 48, 9]], "layer 'to_k': 9 bits"),
        ("layout", {}, "its layout gives no ranks"),
        ("copies", 3, "copies are no names and fingerprints"),
    ],
)
def test_each_field_is_named(
    files: tuple[dict[tuple[str, str], Path], Weights], field: str, value: Any, message: str, tmp_path: Path
) -> None:
    header, bundles = opened(files[0]["mul", "adapter"])
    path = sealed(tmp_path / "crafted", {**header, field: value}, bundles)
    with pytest.raises(UserError, match=message) as caught:
        read_file(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("bits", "4"), ("bits", True), ("seed", 1.5), ("symmetric", 1), ("spread", "nan"), ("remedies", [["zeros"]])],
)
def test_settings_in_a_file_have_their_types(
    files: tuple[dict[tuple[str, str], Path], Weights], name: str, value: Any, tmp_path: Path
) -> None:
    header, bundles = opened(files[0]["mul", "adapter"])
    header["settings"][name] = value
    with pytest.raises(UserError, match=f"intlora: {name} = "):
        read_file(sealed(tmp_path / "crafted", header, bundles))


def test_a_file_from_before_copies_were_noted_is_read(
    files: tuple[dict[tuple[str, str], Path], Weights], tmp_path: Path
) -> None:
    header, bundles = opened(files[0]["mul", "merged"])
    del header["copies"]
    assert used(sealed(tmp_path / "old", header, bundles), files[1]) == ""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [2.0**-90, 2.0**99])
def test_weights_of_any_size_come_through_every_file(method: str, size: float, tmp_path: Path) -> None:
    model = small_model()
    for layer in (model.to_k, model.to_v):
        layer.base_layer.weight.data *= size / layer.base_layer.weight.abs().max()
    handle, _ = train_small(model, IntLoraSettings(method, 4), None, 0)
    weights, trained = frozen_weights(model, handle.modules), handle.weights()
    adapter = adapter_file(handle, weights)
    merged = merge_adapter(tmp_path, adapter, weights)
    path = write_file(tmp_path / "term", term_file(tmp_path, adapter, weights))
    for found in (merged, merge_terms(path, read_file(path))):
        assert all(np.array_equal(found[name].values, trained[name].values) for name in trained)
    write_file(tmp_path / "merged", merged_file(adapter, merged))
    read_file(tmp_path / "merged")
