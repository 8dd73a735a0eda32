"""Opening a backend by name; and that C-simulation gives the layers the emulator's bits."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace

import pytest
import torch
from systolora.device import BackendError, open_device
from systolora.hls.config import ArrayConfig, ConfigError, board_config
from systolora.offloading.layer import OffloadedLayer
from systolora.offloading.linear import Adapter, offloaded_linear
from systolora.offloading.quantization import QuantizationConfig
from systolora.offloading.session import Session
from systolora.sim.functional.device import Device
from systolora.training.device import open_device_for
from systolora.training.settings import TrainSettings

SMALL = ArrayConfig(rows=8, cols=8, input_bytes=4096, weight_bytes=4096, output_bytes=16384)


def test_the_emulator_opens_and_closes() -> None:
    with open_device(config=SMALL, capacity_bytes=1 << 20) as device:
        assert device.name == "emulator"
        assert device.config is SMALL
    with open_device("emulator") as device:
        assert device.config == ArrayConfig()


def test_settings_of_a_run_name_the_device() -> None:
    settings = TrainSettings(board="kv260")
    with open_device_for(settings) as device:
        assert device.config.board == "kv260"
    with pytest.raises(ConfigError, match="no board 'nokia'"):
        open_device_for(replace(settings, board="nokia"))


def test_a_backend_that_does_not_exist() -> None:
    with pytest.raises(BackendError, match="backend 'gpu': there are emulator, csim, board"):
        open_device("gpu")
    with pytest.raises(BackendError, match="goes with backend 'board', not 'csim'"):
        open_device("csim", emulated_board="kv260")
    with pytest.raises(BackendError, match="a configuration of another accelerator"):
        open_device("board", board_config("zcu104"), emulated_board="kv260")


@pytest.mark.parametrize(
    ("backend", "module", "remedy"),
    [
        ("csim", "systolora.sim.csim.device", r"apt install g\+\+"),
        ("board", "systolora.board.opening", r"pip install -c \S+pynq\d.txt -e \S+\[board\]"),
    ],
)
def test_a_backend_that_is_not_installed(
    backend: str, module: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendError, match=f"backend '{backend}' is not installed .*{remedy}") as caught:
        open_device(backend)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("weight_scales", ["tensor", "channel"])
def test_c_simulation_gives_the_layer_the_same_bits(weight_scales: str) -> None:
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    quantization = QuantizationConfig(
        weight_scales=weight_scales, gradient_rounding="stochastic", activation_rounding="stochastic", seed=5
    )
    results = []
    for backend in ("emulator", "csim"):
        with open_device(backend, SMALL, capacity_bytes=1 << 22) as device:
            results.append(step(device, quantization))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def step(device: Device, quantization: QuantizationConfig) -> list[torch.Tensor]:
    torch.manual_seed(0)
    layer = OffloadedLayer(Session(device, quantization), "layer", 0)
    x, weight, bias = torch.randn(2, 9, 24), torch.randn(33, 24), torch.randn(33)
    down, up = torch.randn(4, 24), torch.randn(33, 4)
    leaves = [tensor.requires_grad_() for tensor in (x, bias, down, up)]
    y = offloaded_linear(layer, x, weight, bias, Adapter(down, up, 0.5))
    return [y.detach(), *torch.autograd.grad(y, leaves, torch.randn_like(y))]
