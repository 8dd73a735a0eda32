"""What users do to a model around `attach` and `load_merged`: each thing works, or is refused with one line and nothing changed."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from peft.tuners.lora.layer import Linear as LoraLinear
from systolora.errors import UserError
from systolora.intlora.file import read_file, write_file
from systolora.intlora.fingerprints import frozen_weights
from systolora.intlora.inference import MergedLinear, load_merged
from systolora.intlora.merge import adapter_file, merge_adapter, merge_terms, merged_file, term_file
from systolora.intlora.peft import IntLoraLinear, attach
from systolora.intlora.settings import IntLoraSettings
from systolora.sim.functional.emulator import EmulatorDevice
from torch import Tensor, nn

from .model import SmallModel, small_model, train_small

FOUR = IntLoraSettings("mul", 4)
X = torch.randn(5, 48, generator=torch.Generator().manual_seed(3))


class Others(nn.Module):
    """A Linear, and layers that can have no integers."""

    def __init__(self) -> None:
        super().__init__()
        self.to_k = nn.Linear(8, 8)
        self.words, self.line = nn.Embedding(4, 8), nn.Conv1d(4, 4, 1)
        self.grouped, self.spread = nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, dilation=2)


def adapted(model: nn.Module, *targets: str, **options: object) -> nn.Module:
    inject_adapter_in_model(LoraConfig(r=2, target_modules=list(targets), init_lora_weights=False, **options), model)
    return model


def merged_path(folder: Path, model: nn.Module) -> Path:
    """The merged file of a model trained for two steps."""
    handle, _ = train_small(model, FOUR, None, 2)
    weights = frozen_weights(model, handle.modules)
    adapter = adapter_file(handle, weights)
    write_file(folder / "adapter", adapter)
    write_file(folder / "term", term_file(folder / "adapter", adapter, weights))
    return write_file(folder / "merged", merged_file(adapter, merge_adapter(folder / "adapter", adapter, weights)))


@pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd")
def test_adapted_layers_that_can_have_no_integers_are_named_not_dropped() -> None:
    model = adapted(Others(), "to_k", "words", "line")
    with pytest.raises(
        UserError, match=r"Linear and Conv2d layers alone, but 'words' \(Embedding\), 'line' \(Conv1d\) are adapted too"
    ):
        attach(model, FOUR)
    assert type(model.to_k) is LoraLinear
    for name, reason in (("grouped", "groups"), ("spread", "dilation")):
        with pytest.raises(UserError, match=f"layer '{name}' cannot have integer weights: .*{reason}"):
            attach(adapted(Others(), "to_k", name), FOUR)
    with pytest.raises(UserError, match=r"'to_k' \(ModulesToSaveWrapper\) are adapted too"):
        attach(get_peft_model(SmallModel(), LoraConfig(target_modules=["to_v"], modules_to_save=["to_k"])), FOUR)


def merge_with_peft(model: SmallModel) -> None:
    model.to_k.merge()


def train_base(model: SmallModel) -> None:
    model.to_v.base_layer.weight.requires_grad_()


def train_other(model: SmallModel) -> None:
    model.last.bias.requires_grad_()


def hook_base(model: SmallModel) -> None:
    model.to_k.base_layer.register_forward_hook(lambda *_: None)


def hook_factor(model: SmallModel) -> None:
    model.to_k.lora_A["default"].register_forward_pre_hook(lambda *_: None)


def own_forward(model: SmallModel) -> None:
    model.to_k.forward = model.to_k.forward  # type: ignore[method-assign]


def own_base_forward(model: SmallModel) -> None:
    model.to_k.base_layer.forward = model.to_k.base_layer.forward


def poison(value: float) -> Callable[[SmallModel], None]:
    def change(model: SmallModel) -> None:
        model.to_v.base_layer.weight.data[3, 5] = value

    return change


def other_scaling(model: SmallModel) -> None:
    model.to_k.scaling["default"] = 3.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (merge_with_peft, "'to_k' cannot have integer weights: peft has merged its adapter .* call unmerge"),
        (train_base, "'to_v' .* its frozen weight is trainable, and integers give it no gradient"),
        (train_other, "'last.bias' is trainable"),
        (hook_base, "'to_k' .* hooks or a forward of its own on the Linear inside it"),
        (hook_factor, "'to_k' .* hooks or a forward of its own on the Linear inside it"),
        (own_forward, "'to_k' .* a forward of its own was put on it"),
        (own_base_forward, "'to_k' .* hooks or a forward of its own on the Linear inside it"),
        (poison(float("nan")), r"'to_v': its weight is not finite \(1 of 1536 values, the first, at \[3, 5\], is nan"),
        (poison(float("inf")), r"'to_v': its weight is not finite .* is inf"),
        (poison(1e31), r"'to_v': its largest weight is 1.0e\+31, but integers are made of weights up to 1.3e\+30"),
        (other_scaling, r"different scalings \[2.0, 3.0\]; give all the same rank and alpha"),
    ],
)
def test_what_cannot_be_followed_is_refused_before_anything_is_changed(
    change: Callable[[SmallModel], None], message: str
) -> None:
    model = small_model()
    change(model)
    with EmulatorDevice(capacity_bytes=1 << 24) as device:
        with pytest.raises(UserError, match=message) as caught:
            attach(model, FOUR, device)
        assert "\n" not in str(caught.value)
    assert type(model.to_k) is LoraLinear and "systolora_layer" not in model.to_k.__dict__


def test_a_rule_of_another_kind_refuses_a_trainable_base_too() -> None:
    model = small_model()
    train_base(model)
    with pytest.raises(UserError, match="'to_v' .* its frozen weight is trainable, and integers give it no gradient"):
        attach(model, make=lambda weight, name: pytest.fail("not reached"))


@pytest.mark.parametrize("change", [train_base, hook_base, own_base_forward, poison(float("nan"))])
def test_the_same_after_attach_is_refused_at_the_next_forward(change: Callable[[SmallModel], None]) -> None:
    model = small_model()
    attach(model, FOUR)
    change(model)
    with pytest.raises(UserError):
        model(X)


def test_merged_by_peft_after_attach_the_file_is_refused() -> None:
    model = small_model()
    handle = attach(model, FOUR)
    names = list(handle.modules)
    plain = model.to_k.base_layer.weight.clone()
    merge_with_peft(model)
    assert torch.equal(
        model.to_k(X), torch.nn.functional.linear(X, model.to_k.base_layer.weight, model.to_k.base_layer.bias)
    )
    for attempt in (handle.weights, lambda: frozen_weights(model, names)):
        with pytest.raises(UserError, match=r"'to_k': peft has merged .* call unmerge\(\)"):
            attempt()
    model.to_k.base_layer.weight.data = plain
    model.to_k.merged_adapters.clear()
    assert set(handle.weights()) == set(names)


@pytest.mark.parametrize("way", ["load_state_dict", "data", "assign", "numpy"])
def test_weights_that_are_loaded_after_attach_are_used(way: str) -> None:
    model, other = small_model(0), small_model(1)
    with torch.no_grad():
        for name in ("to_k", "to_v"):
            getattr(other, name).lora_A.load_state_dict(getattr(model, name).lora_A.state_dict())
            getattr(other, name).lora_B.load_state_dict(getattr(model, name).lora_B.state_dict())
    handle = attach(model, FOUR)
    model(X)
    assert "changed after attach" not in handle.report()
    if way in ("load_state_dict", "assign"):
        model.load_state_dict(other.state_dict(), assign=way == "assign")
        model.requires_grad_(False)
    for (name, mine), (_, theirs) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        if way == "data":
            mine.data.copy_(theirs)
        elif way == "numpy":
            mine.detach().numpy()[...] = theirs.detach().numpy()
        assert torch.equal(mine, theirs), name
    expected = attach(other, FOUR)
    assert torch.equal(model(X), other(X))
    assert all(np.array_equal(handle.weights()[name].values, each.values) for name, each in expected.weights().items())
    assert "the integers of 2 layers were made anew" in handle.report()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_a_cast_after_attach_is_followed_and_its_file_fits_the_cast_and_the_whole_model(
    kind: torch.dtype, tmp_path: Path
) -> None:
    model = small_model()
    handle = attach(model, FOUR)
    model.to(kind)
    assert model(X.to(kind)).dtype == kind
    content = adapter_file(handle, frozen_weights(model, handle.modules))
    trained = handle.weights()
    for weights in (frozen_weights(model, handle.modules), frozen_weights(small_model(), handle.modules)):
        merged = merge_adapter(tmp_path, content, weights)
        assert all(np.array_equal(merged[name].values, trained[name].values) for name in trained)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_a_copy_in_fewer_bits_is_the_same_model(kind: torch.dtype, tmp_path: Path) -> None:
    path = merged_path(tmp_path, small_model())
    copied = small_model(adapted=False).to(kind)
    handle = load_merged(copied, path)
    with torch.no_grad():
        y = copied(X.to(kind))
    assert y.dtype == kind
    handle.undo()
    whole = small_model(adapted=False)
    handle = load_merged(whole, path)
    with torch.no_grad():
        assert torch.allclose(y.float(), whole(X), atol=0.05)
    handle.undo()
    term, adapter = tmp_path / "term", tmp_path / "adapter"
    assert set(merge_terms(term, read_file(term))) == {"to_k", "to_v"}
    name = str(kind).removeprefix("torch.")
    with pytest.raises(UserError, match=f"this model is a {name} copy of the one that it was trained on"):
        merge_adapter(adapter, read_file(adapter), frozen_weights(copied, ["to_k", "to_v"]))


class Compiled(nn.Module):
    """What torch.compile puts around a model, as far as names go."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._orig_mod = model


@pytest.mark.parametrize("wrapped", ["peft", "compile", "both"])
def test_names_are_those_of_the_plain_model(wrapped: str, tmp_path: Path) -> None:
    model: nn.Module = small_model(adapted=wrapped == "compile")
    if wrapped != "compile":
        torch.manual_seed(5)
        model = get_peft_model(model, LoraConfig(r=4, target_modules=["to_k", "to_v"], init_lora_weights=False))
    if wrapped != "peft":
        model = Compiled(model)
    handle = attach(model, FOUR)
    assert set(handle.modules) == {"to_k", "to_v"}
    weights = frozen_weights(model, handle.modules)
    adapter = adapter_file(handle, weights)
    merged = merge_adapter(tmp_path, adapter, frozen_weights(small_model(adapted=False), ["to_k", "to_v"]))
    path = write_file(tmp_path / "merged", merged_file(adapter, merged))
    plain = small_model(adapted=False)
    load_merged(Compiled(plain), path).undo()
    load_merged(plain, path).undo()


def test_copies_of_a_merged_model_run_until_undo(tmp_path: Path) -> None:
    path, model = merged_path(tmp_path, small_model()), small_model(adapted=False)
    handle = load_merged(model, path)
    copied = copy.deepcopy(model)
    assert type(copied.to_k) is MergedLinear and copied.to_k.weight.data_ptr() != model.to_k.weight.data_ptr()
    with torch.no_grad():
        assert torch.equal(copied(X), model(X))
    with pytest.raises(UserError, match=r"cannot be pickled: save its state_dict\(\), or call the handle's undo"):
        pickle.dumps(model)
    with pytest.raises(UserError, match="'to_k' holds merged integers, which loaded weights would not change"):
        model.load_state_dict(small_model(1, adapted=False).state_dict())
    with pytest.raises(UserError, match="'to_k' holds merged integers already"):
        load_merged(model, path)
    handle.undo()
    with torch.no_grad(), pytest.raises(RuntimeError, match="undone"):
        copied(X)
    pickle.loads(pickle.dumps(model))
    model.load_state_dict(small_model(1, adapted=False).state_dict())


def test_a_copy_in_training_has_integers_of_its_own() -> None:
    """As for a moving average of the weights."""
    with EmulatorDevice(capacity_bytes=1 << 24) as device:
        model = small_model()
        attach(model, FOUR, device)
        before = model(X)
        copied = copy.deepcopy(model)
        assert type(copied.to_k) is IntLoraLinear and copied.to_k.systolora_layer is not model.to_k.systolora_layer
        assert torch.equal(copied(X), before)
        with torch.no_grad():
            model.to_k.lora_B["default"].weight.add_(1)
        assert torch.equal(copied(X), before) and not torch.equal(model(X), before)


def test_hooks_on_the_adapted_layer_itself_are_called() -> None:
    model, seen = small_model(), []

    def note(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        seen.append((inputs[0].shape, output.shape))
        return output + 1

    attach(model, FOUR)
    before = model.to_k(X)
    model.to_k.register_forward_hook(note)
    assert torch.equal(model.to_k(X), before + 1) and seen == [((5, 48), (5, 40))]


def test_a_device_without_room_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    path, model = merged_path(tmp_path, small_model()), small_model(adapted=False)
    with EmulatorDevice(capacity_bytes=1 << 12) as device:
        with pytest.raises(Exception, match="(?i)memory|room|bytes"):
            load_merged(model, path, device)
        assert type(model.to_k) is nn.Linear and "systolora_engine" not in model.to_k.__dict__
