"""IntLoRA's integers in convolutions: trained, merged and run as those of Linear layers are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, inject_adapter_in_model
from systolora.errors import UserError
from systolora.intlora.export import put_weights
from systolora.intlora.file import write_file
from systolora.intlora.fingerprints import frozen_weights
from systolora.intlora.inference import MergedConv2d, load_merged
from systolora.intlora.merge import adapter_file, merge_adapter, merged_file
from systolora.intlora.patches import convolve
from systolora.intlora.peft import IntLoraConv2d, IntLoraHandle, attach
from systolora.intlora.settings import METHODS, IntLoraSettings
from systolora.sim.functional.device import Device
from systolora.sim.functional.emulator import EmulatorDevice
from torch import Tensor, nn

IMAGE = torch.randn(2, 4, 7, 5, generator=torch.Generator().manual_seed(0))


class Picture(nn.Module):
    """Convolutions of the kinds that U-Nets have."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first = nn.Conv2d(4, 6, 3, padding=1)
        self.down = nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False)
        self.point = nn.Conv2d(8, 5, 1)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 4, height, width] to [batch, 5, height / 2, width / 2]."""
        return self.point(self.down(self.first(x)))


def adapted() -> Picture:
    config = LoraConfig(r=2, target_modules=["first", "down", "point"], init_lora_weights="gaussian")
    return inject_adapter_in_model(config, Picture())


def trained(method: str, device: Device | None, steps: int = 3) -> tuple[Picture, IntLoraHandle, list[float]]:
    model = adapted()
    handle = attach(model, IntLoraSettings(method, 4), device)
    target = torch.randn(2, 5, 4, 3, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], 0.1)
    losses = []
    for step in range(steps):
        handle.step = step
        loss = (model(IMAGE) - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return model, handle, losses


@settings(deadline=None, max_examples=20)
@given(st.tuples(*[st.integers(1, 3)] * 2), st.integers(1, 2), st.integers(0, 2), st.integers(1, 3), st.integers(3, 6))
def test_patches_times_the_matrix_are_the_convolution(
    kernel: tuple[int, int], stride: int, padding: int, batch: int, side: int
) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 4, kernel, stride=stride, padding=padding)
    image = torch.randn(batch, 3, side, side + 1)
    weight, bias = convolution.weight.detach().flatten(1), convolution.bias
    found = convolve(convolution, image, lambda rows: rows @ weight.T + bias)
    torch.testing.assert_close(found, convolution(image))
    torch.testing.assert_close(convolve(convolution, image[0], lambda rows: rows @ weight.T + bias), found[0])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("on_device", [True, False])
def test_convolutions_train_and_their_merged_file_runs_as_the_trained_model(
    method: str, on_device: bool, tmp_path: Path
) -> None:
    device = EmulatorDevice() if on_device else None
    model, handle, losses = trained(method, device)
    assert losses[-1] < losses[0] and all(isinstance(each, IntLoraConv2d) for each in handle.modules.values())
    assert not sum(sum(each.systolora_layer.fallbacks.values()) for each in handle.modules.values())
    with torch.no_grad():
        expected = model(IMAGE)
    weights = frozen_weights(model, handle.modules)
    adapter = adapter_file(handle, weights)
    merged = merge_adapter(tmp_path / "adapter", adapter, weights)
    if device is None:
        plain = Picture()
        put_weights(plain, merged)
        torch.testing.assert_close(plain(IMAGE), expected)
        return
    path = write_file(tmp_path / "merged", merged_file(adapter, merged))
    plain = Picture()
    running = load_merged(plain, path, device)
    assert type(plain.down) is MergedConv2d
    with torch.no_grad():
        assert torch.equal(plain(IMAGE), expected)
    running.undo()
    assert type(plain.down) is nn.Conv2d
    handle.undo()
    device.close()


def test_gradients_of_a_convolution_are_those_of_its_integers() -> None:
    """In float32 torch, where the gain is 1 for all weights within the grid: the straight-through gradient of A B."""
    model = adapted()
    handle = attach(model, IntLoraSettings("mul", 8))
    layer = model.down
    image = torch.randn(1, 6, 5, 5, generator=torch.Generator().manual_seed(4)).requires_grad_()
    layer(image).square().sum().backward()
    down, up, scaling = layer.factors("default")
    adapted_weight, _ = layer.integer_layer().current(down, up, scaling)
    weight = torch.from_numpy(adapted_weight.weight.real()).view(8, 6, 3, 3).requires_grad_()
    own = image.detach().clone().requires_grad_()
    nn.functional.conv2d(own, weight, stride=2, padding=1).square().sum().backward()
    assert weight.grad is not None and image.grad is not None
    torch.testing.assert_close(image.grad, own.grad)
    masked = weight.grad.flatten(1) * torch.from_numpy(adapted_weight.gain)
    torch.testing.assert_close(layer.lora_B["default"].weight.grad.flatten(1), scaling * masked @ down.T)
    torch.testing.assert_close(layer.lora_A["default"].weight.grad.flatten(1), scaling * up.T @ masked)
    handle.undo()
    assert type(model.down).__name__ == "Conv2d" and not isinstance(model.down, IntLoraConv2d)


def test_integers_of_another_shape_are_refused(tmp_path: Path) -> None:
    model, handle, _ = trained("mul", None, 1)
    weights = frozen_weights(model, handle.modules)
    adapter = adapter_file(handle, weights)
    path = write_file(tmp_path / "merged", merged_file(adapter, merge_adapter(tmp_path / "a", adapter, weights)))
    other = Picture()
    other.down = nn.Conv2d(6, 8, 3, groups=2)
    with pytest.raises(UserError, match="made for a model with fingerprint"):
        load_merged(other, path, EmulatorDevice())
