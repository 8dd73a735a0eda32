"""Merge and files: bit for bit what training had, as small as the bits say, and refused when anything is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, inject_adapter_in_model
from safetensors import safe_open
from systolora.cli.inspect_file import inspect_file
from systolora.errors import UserError
from systolora.intlora.file import IntLoraFile, read_file, write_file
from systolora.intlora.fingerprints import fingerprint_of, frozen_weights
from systolora.intlora.merge import (
    adapter_file,
    merge_adapter,
    merge_terms,
    merged_file,
    merged_weights,
    term_file,
)
from systolora.intlora.packing import pack, packed_bytes, unpack
from systolora.intlora.peft import attach
from systolora.intlora.rules import IntegerWeight
from systolora.intlora.settings import METHODS, REMEDIES, IntLoraSettings
from systolora.sim.functional.emulator import EmulatorDevice
from torch import nn

from .model import small_model, train_small


def same(first: dict[str, IntegerWeight], second: dict[str, IntegerWeight]) -> bool:
    return first.keys() == second.keys() and all(
        np.array_equal(first[name].values, second[name].values)
        and np.array_equal(first[name].scale, second[name].scale)
        for name in first
    )


def stored(folder: Path, name: str, content: IntLoraFile) -> tuple[Path, IntLoraFile]:
    path = write_file(folder / name, content)
    return path, read_file(path)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """An adapter file, and the frozen weights that it belongs to."""
    model = small_model()
    handle, _ = train_small(model, IntLoraSettings("mul", 4), None, 3)
    weights = frozen_weights(model, handle.modules)
    return write_file(tmp_path_factory.mktemp("files") / "a.safetensors", adapter_file(handle, weights)), weights


@settings(deadline=None, max_examples=8)
@given(
    method=st.sampled_from(METHODS),
    bits=st.integers(2, 8),
    remedies=st.lists(st.sampled_from(sorted(REMEDIES)), unique=True).map(tuple),
    symmetric=st.booleans(),
    refresh=st.sampled_from([0, 2]),
    seed=st.integers(0, 99),
)
def test_every_way_of_merging_gives_the_weights_of_training_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory,
    method: str,
    bits: int,
    remedies: tuple[str, ...],
    symmetric: bool,
    refresh: int,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("merge")
    chosen = IntLoraSettings(method, bits, seed, symmetric=symmetric, remedies=remedies, refresh_every=refresh)
    model = small_model(seed)
    with EmulatorDevice(capacity_bytes=1 << 24) as device:
        handle, _ = train_small(model, chosen, device, 4)
        weights, trained = frozen_weights(model, handle.modules), handle.weights()
        path, content = stored(folder, "adapter", adapter_file(handle, weights))
        # What the layers multiply by in training is this float weight.
        real = {name: weight.values * weight.scale[:, None].astype(np.float64) for name, weight in trained.items()}
    merged = merge_adapter(path, content, weights)
    assert same(trained, merged)
    assert all(np.array_equal(merged[name].real(), value.astype(np.float32)) for name, value in real.items())
    path, content = stored(folder, "term", term_file(path, content, weights))
    assert same(trained, merge_terms(path, content))
    path, content = stored(folder, "merged", merged_file(content, merged))
    assert same(trained, merged_weights(content))


@settings(deadline=None, max_examples=60)
@given(bits=st.integers(2, 24), seed=st.integers(0, 99), signed=st.booleans(), size=st.integers(0, 70_000))
def test_packing_gives_every_integer_back(bits: int, seed: int, signed: bool, size: int) -> None:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    values = np.random.default_rng(seed).integers(low, high, size).astype(np.int32)
    packed = pack(values, bits)
    assert len(packed) == packed_bytes(size, bits) == -(-size * bits // 8)
    assert np.array_equal(unpack(packed, bits, (size,), signed), values)


def test_packing_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="values 0 to 16 do not fit 4 bits"):
        pack(np.array([0, 16]), 4)
    with pytest.raises(ValueError, match="5 bytes do not hold 8 integers of 4 bits"):
        unpack(np.zeros(5, np.uint8), 4, (8,), True)


@pytest.mark.parametrize("method", METHODS)
def test_files_are_as_small_as_their_bits(tmp_path: Path, method: str) -> None:
    """A layer of Stable Diffusion's width: bytes of the whole file over parameters * bits / 8."""
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {"down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k": nn.Linear(768, 192, bias=False)}
    )
    inject_adapter_in_model(LoraConfig(r=32, target_modules=list(model), init_lora_weights=False), model)
    handle = attach(model, IntLoraSettings(method, 4))
    weights = frozen_weights(model, handle.modules)
    path, content = stored(tmp_path, "adapter", adapter_file(handle, weights))
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert content.parameters == parameters
    assert path.stat().st_size == pytest.approx(parameters, rel=0.05)
    merged = merge_adapter(path, content, weights)
    term_path, term = stored(tmp_path, "term", term_file(path, content, weights))
    total = sum(weight.size for weight in weights.values())
    (bits,) = {bits for _, _, bits in term.layers.values()}
    assert bits == 4 and term_path.stat().st_size == pytest.approx(total * (4 + bits) / 8, rel=0.05)
    merged_path, content = stored(tmp_path, "merged", merged_file(content, merged))
    wanted = sum(out * inner * bits / 8 for out, inner, bits in content.layers.values())
    # INT8, or less: with headroom, the first products do not fill the range.
    assert all(7 <= bits <= 8 for _, _, bits in content.layers.values())
    assert merged_path.stat().st_size == pytest.approx(wanted, rel=0.05)


def test_only_scales_are_float(adapter: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    path, weights = adapter
    content = read_file(path)
    merged = merged_file(content, merge_adapter(path, content, weights))
    for some in (content, merged, term_file(path, content, weights)):
        kinds = {name.rsplit(".", 1)[1]: array.dtype.name for name, array in some.tensors.items()}
        assert {kind for kind in kinds.values() if "float" in kind} == {"float32"}
        assert all(name in ("scale", "scales") for name, kind in kinds.items() if kind == "float32")
        with safe_open(write_file(tmp_path / some.kind, some), framework="np") as file:
            assert {"F32", "F64", "F16"} & {file.get_slice(name).get_dtype() for name in file.keys()} == {"F32"}  # noqa: SIM118


def test_every_flipped_bit_is_refused_with_one_line(
    adapter: tuple[Path, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    good = adapter[0].read_bytes()
    path = tmp_path / "flipped"
    header = 8 + int.from_bytes(good[:8], "little")
    places = [*range(0, header, 5), *range(header, len(good), 61), len(good) - 1]
    for number, place in enumerate(places):
        bad = bytearray(good)
        bad[place] ^= 1 << number % 8
        path.write_bytes(bytes(bad))
        with pytest.raises(UserError) as caught:
            read_file(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value), place


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, -1])
def test_a_truncated_file_is_refused(adapter: tuple[Path, dict[str, np.ndarray]], tmp_path: Path, kept: float) -> None:
    good = adapter[0].read_bytes()
    path = tmp_path / "short"
    path.write_bytes(good[: int(kept * len(good)) if isinstance(kept, float) else kept])
    with pytest.raises(UserError, match="damaged or truncated"):
        read_file(path)
    with pytest.raises(UserError, match="short: "):
        inspect_file(path)


def test_another_model_is_refused(adapter: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, weights = adapter
    other = {name: value.copy() for name, value in weights.items()}
    other["to_k"][0, 0] += 1e-6
    with pytest.raises(UserError, match=f"fingerprint {fingerprint_of(weights)}, but this model has"):
        merge_adapter(path, read_file(path), other)


def test_a_result_that_training_did_not_have_is_refused(adapter: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, weights = adapter
    content = replace(read_file(path), settings=IntLoraSettings("mul", 4, seed=1))
    with pytest.raises(UserError, match="the merged weights have digest"):
        merge_adapter(path, content, weights)


def test_other_files_are_named(adapter: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        read_file(tmp_path / "none")
    with pytest.raises(UserError, match="it holds a 'adapter', expected merged"):
        read_file(adapter[0], ("merged",))
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(3)}, str(tmp_path / "plain"))
    with pytest.raises(UserError, match="it is no IntLoRA file"):
        read_file(tmp_path / "plain")
    found = inspect_file(tmp_path / "plain")
    assert found.kind == "tensors" and found.layers == [("a", "F64 [3]")]


def test_inspect_says_what_a_file_holds(adapter: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    path, weights = adapter
    found = inspect_file(path)
    assert found.kind == "IntLoRA adapter" and found.facts["method"] == "IntLoRA_MUL, 4 bits"
    assert found.facts["integer bytes"] == 4 * (48 + 40) + 4 * (48 + 32) and found.as_dict()["checksum"] == "good"
    content = read_file(path)
    out = write_file(tmp_path / "m", merged_file(content, merge_adapter(path, content, weights)))
    assert inspect_file(out).facts["wider than INT8"] == "0 of 3456 integers (0.00%)"


def test_a_failed_write_leaves_the_old_file(
    adapter: tuple[Path, dict[str, np.ndarray]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = read_file(adapter[0])
    path = write_file(tmp_path / "a", content)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space left"):
        write_file(path, replace(content, fingerprint="other"))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
