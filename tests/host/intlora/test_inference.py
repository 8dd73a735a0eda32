"""Inference from merged integers: exact passes, the same bits on the emulator and in C-simulation, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from systolora.errors import UserError
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Axis
from systolora.intlora.file import write_file
from systolora.intlora.fingerprints import frozen_weights
from systolora.intlora.inference import install_merged, load_merged
from systolora.intlora.merge import adapter_file, merge_adapter, merged_file
from systolora.intlora.rules import IntegerWeight
from systolora.intlora.settings import METHODS, IntLoraSettings
from systolora.sim.csim.device import CsimDevice
from systolora.sim.functional import reference
from systolora.sim.functional.emulator import EmulatorDevice

from .model import small_model, train_small

SMALL_ARRAY = ArrayConfig(rows=8, cols=8, input_bytes=1 << 13, weight_bytes=1 << 13, output_bytes=1 << 14, bus_bytes=16)


def merged_of(settings: IntLoraSettings, folder: Path) -> Path:
    """A merged file of a model trained for two steps."""
    model = small_model()
    handle, _ = train_small(model, settings, None, 2)
    weights = frozen_weights(model, handle.modules)
    adapter = adapter_file(handle, weights)
    merged = merge_adapter(folder / "adapter", adapter, weights)
    return write_file(folder / "merged.safetensors", merged_file(adapter, merged))


@pytest.mark.parametrize("paper", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_emulator_and_csim_give_the_same_bits(tmp_path: Path, method: str, paper: bool) -> None:
    chosen = IntLoraSettings(method, 8)
    path = merged_of(chosen.paper() if paper else chosen, tmp_path)
    x = torch.randn(5, 48, generator=torch.Generator().manual_seed(3))
    results = []
    for device in (EmulatorDevice(SMALL_ARRAY, 1 << 22), CsimDevice(SMALL_ARRAY, 1 << 22)):
        with device:
            model = small_model(adapted=False)
            handle = load_merged(model, path, device)
            with torch.no_grad():
                results.append(torch.cat([model.to_k(x), model.to_v(x)], -1))
            assert (max(handle.passes.values()) > 1) == paper
            handle.undo()
    assert torch.equal(results[0], results[1])


@pytest.mark.parametrize("largest, passes", [(127, 1), (5000, 2), (2**22, 4)])
def test_wide_integers_are_exact(largest: int, passes: int) -> None:
    """On whole inputs whose scale is 1, every pass and their sum are exact, so y is the integer product itself."""
    generator = np.random.default_rng(largest)
    values = generator.integers(-largest, largest + 1, (40, 48)).astype(np.int32)
    values[0, 0] = largest
    x = np.zeros((3, 48), np.float32)
    x[np.arange(3), [0, 5, 9]] = 127
    model = small_model(adapted=False)
    torch.nn.init.zeros_(model.to_k.bias)
    with EmulatorDevice(capacity_bytes=1 << 24) as device:
        handle = install_merged(model, {"to_k": IntegerWeight(values, np.ones(40, np.float32))}, device)
        with torch.no_grad():
            y = model.to_k(torch.from_numpy(x)).numpy()
        assert handle.passes == {"to_k": passes}
        assert handle.wide == {"to_k": int((np.abs(values + 0.5) > 128).sum())}
        handle.undo()
    assert np.allclose(y, x @ values.T.astype(np.float64), rtol=2**-23 * passes)
    assert passes > 2 or np.array_equal(y, x @ values.T)


def test_activations_are_int8_per_token() -> None:
    values = np.arange(40 * 48, dtype=np.int32).reshape(40, 48) % 200 - 100
    scale = np.linspace(0.01, 0.02, 40, dtype=np.float32)
    x = np.random.default_rng(0).standard_normal((7, 48)).astype(np.float32)
    model = small_model(adapted=False)
    with EmulatorDevice(capacity_bytes=1 << 24) as device:
        handle = install_merged(model, {"to_k": IntegerWeight(values, scale)}, device)
        with torch.no_grad():
            y = model.to_k(torch.from_numpy(x)).numpy()
        handle.undo()
    integers, scales = reference.quantize(x, Axis.ROW)
    exact = (
        integers.astype(np.int64) @ values.T * (scales[:, None].astype(np.float64) * scale) + model.to_k.bias.numpy()
    )
    assert np.allclose(y, exact, rtol=1e-5, atol=1e-5)


def test_undo_gives_the_float_weights_back(tmp_path: Path) -> None:
    model, x = small_model(adapted=False), torch.ones(2, 48)
    before = model(x)
    handle = load_merged(model, merged_of(IntLoraSettings(), tmp_path))
    with torch.no_grad():
        assert not torch.equal(model(x), before)
    assert "0 of 3456 values (0.00%) do not fit" in handle.report()
    handle.undo()
    handle.undo()
    assert torch.equal(model(x), before) and type(model.to_k) is torch.nn.Linear


def test_refusals(tmp_path: Path) -> None:
    path = merged_of(IntLoraSettings("mul", 8).paper(), tmp_path)
    with pytest.raises(UserError, match=r"'to_k': \d+ of 1920 merged values .* use wide='exact'"):
        load_merged(small_model(adapted=False), path, wide="refuse")
    with pytest.raises(UserError, match="wide = 'clip': allowed are exact, refuse"):
        load_merged(small_model(adapted=False), path, wide="clip")
    with pytest.raises(UserError, match="but this model has"):
        load_merged(small_model(1, adapted=False), path)
    with pytest.raises(UserError, match="no plain Linear or Conv2d layer 'to_z'"):
        install_merged(small_model(), {"to_z": IntegerWeight(np.zeros((2, 2), np.int32), np.ones(2, np.float32))})
    model = small_model(adapted=False)
    handle = load_merged(model, path)
    with pytest.raises(RuntimeError, match="for inference"):
        model(torch.ones(2, 48, requires_grad=True))
    handle.undo()
