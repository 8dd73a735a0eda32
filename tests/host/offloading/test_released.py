"""Released weights: what torch does to a model leaves them released, tied weights stay tied, loaded weights are taken."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import systolora
import torch
from peft import LoraConfig, inject_adapter_in_model
from systolora.offloading.model import OffloadHandle
from systolora.offloading.stand_ins import base_layer, is_stand_in
from torch import Tensor, nn

NAMES = ("linear", "adapted", "conv", "pixels")


class Model(nn.Module):
    """Every kind of layer that is offloaded; small enough to run all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.adapted = nn.Linear(8, 8), nn.Linear(8, 8)
        self.conv, self.pixels = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pixels(self.conv(x)).permute(0, 2, 3, 1)
        return self.adapted(self.linear(x))


def released(model: nn.Module | None = None) -> tuple[Model, OffloadHandle]:
    torch.manual_seed(1)
    model = (model or Model()).requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["adapted"], init_lora_weights=False), model)
    return model, systolora.offload(model, targets="all", release_weights=True)  # type: ignore[return-value]


def frozen_bytes(model: Model) -> int:
    weights = [base_layer(getattr(model, name)).weight for name in NAMES]
    return sum(weight.untyped_storage().nbytes() for weight in weights)


MOVES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "bfloat16": lambda model: model.to(torch.bfloat16),
    "half": lambda model: model.half(),
    "double and back": lambda model: model.double().float(),
    "channels last": lambda model: model.to(memory_format=torch.channels_last),
    "share memory": lambda model: model.share_memory(),
    "a part": lambda model: model.get_submodule("adapted").to(torch.bfloat16),
}


@pytest.mark.parametrize("move", MOVES)
def test_a_moved_model_takes_no_memory_again(move: str) -> None:
    model, handle = released()
    x = torch.randn(1, 8, 4, 4)
    expected = model(x)
    MOVES[move](model)
    assert frozen_bytes(model) <= 8 * len(NAMES)
    dtype = model.linear.weight.dtype
    got = model(x.to(dtype))
    assert (got.float() - expected).norm() < 0.02 * expected.norm()
    handle.undo()
    restored = base_layer(model.adapted).weight
    assert restored.isfinite().all() and restored.shape == (8, 8)
    assert model.linear.weight.dtype == dtype


def test_the_meta_device_and_back() -> None:
    model, handle = released()
    biases = {name: value.clone() for name, value in model.named_parameters() if "weight" not in name or "lora" in name}
    x = torch.randn(1, 8, 4, 4)
    expected = model(x)
    model.to("meta")
    with pytest.raises(RuntimeError, match="on the meta device.*was released"):
        model(x)
    model.to_empty(device="cpu")
    for name, value in biases.items():
        model.get_parameter(name).data.copy_(value)
    assert frozen_bytes(model) == 4 * len(NAMES)
    assert torch.equal(model(x), expected)
    model.to("meta")
    handle.undo()
    assert model.linear.weight.device.type == "cpu" and model.linear.weight.isfinite().all()


def test_its_own_state_can_be_loaded_again() -> None:
    model, _ = released()
    x = torch.randn(1, 8, 4, 4)
    expected = model(x)
    for assign in (False, True):
        state = {key: value.clone() for key, value in model.state_dict().items()}
        model.load_state_dict(state, assign=assign)
        assert frozen_bytes(model) == 4 * len(NAMES)
        assert torch.equal(model(x), expected)


@pytest.mark.parametrize("assign", [False, True])
def test_loaded_weights_are_taken_and_released(assign: bool) -> None:
    model, _ = released()
    other, _ = released()
    torch.manual_seed(9)
    state = {key: torch.randn(value.shape) for key, value in model.state_dict().items()}
    systolora_of_other = other.linear.systolora_layer.session
    assert systolora_of_other is not model.linear.systolora_layer.session
    model.load_state_dict({key: value.clone() for key, value in state.items()}, assign=assign)
    assert frozen_bytes(model) == 4 * len(NAMES)
    plain = Model().requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["adapted"]), plain)
    plain.load_state_dict(state)
    systolora.offload(plain, targets="all")
    x = torch.randn(1, 8, 4, 4)
    assert torch.equal(model(x), plain(x))


def test_a_weight_of_the_wrong_shape_changes_nothing() -> None:
    model, _ = released()
    x = torch.randn(1, 8, 4, 4)
    expected = model(x)
    with pytest.raises(RuntimeError, match="size mismatch for linear.weight"):
        model.load_state_dict({"linear.weight": torch.zeros(3, 8)}, strict=False)
    assert torch.equal(model(x), expected)


def test_an_assigned_weight_is_taken() -> None:
    model, handle = released()
    weight = torch.randn(8, 8)
    x = torch.randn(3, 8)
    model.linear.weight = nn.Parameter(weight, requires_grad=False)
    plain = nn.Sequential(nn.Linear(8, 8)).requires_grad_(False)
    plain[0].weight.data, plain[0].bias.data = weight.clone(), model.linear.bias.data
    systolora.offload(plain, targets="all")
    assert torch.equal(model.linear(x), plain(x))
    assert handle.report().released == len(NAMES) - 1
    handle.undo()
    assert torch.equal(model.linear.weight, weight)


class Tied(nn.Module):
    """Two layers of one parameter, and another pair of which only one can be offloaded."""

    def __init__(self) -> None:
        super().__init__()
        self.adapted, self.linear = nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.linear.weight = self.adapted.weight
        self.table, self.head = nn.Embedding(10, 8), nn.Linear(8, 10, bias=False)
        self.head.weight = self.table.weight


def test_tied_weights_stay_tied() -> None:
    model, handle = released(Tied())  # type: ignore[arg-type]
    base: Tensor = base_layer(model.adapted).weight
    assert base is model.linear.weight and is_stand_in(base)
    table = model.table.weight  # type: ignore[attr-defined]
    assert model.head.weight is table and table.isfinite().all()  # type: ignore[attr-defined]
    model.to(torch.bfloat16)
    assert base_layer(model.adapted).weight is model.linear.weight
    handle.undo()
    assert base_layer(model.adapted).weight is model.linear.weight
    assert model.linear.weight.isfinite().all()
    assert model.head.weight is model.table.weight  # type: ignore[attr-defined]


def test_released_models_are_not_copied() -> None:
    model, handle = released()
    with pytest.raises(RuntimeError, match="was released, so the model cannot be copied"):
        copy.deepcopy(model)
    handle.undo()
    again = copy.deepcopy(model)
    assert torch.equal(again.linear.weight, model.linear.weight)
    assert not again.linear._load_state_dict_pre_hooks and not again.linear._load_state_dict_post_hooks
