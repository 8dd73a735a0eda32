"""Training scripts that know nothing of us: what of them is offloaded, and that they compute what they compute without us."""

from __future__ import annotations

import gc
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .conftest import Launcher


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _accelerate_anew() -> None:
    """A process has one accelerate state, as a script expects."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


def outcome(folder: Path) -> tuple[list[float], Tensor]:
    """The losses, and the adapter as one vector."""
    losses = json.loads((folder / "losses.json").read_text())
    tensors = load_file(folder / "adapter.safetensors")
    return losses, torch.cat([tensors[name].flatten() for name in sorted(tensors) if "lora_B" in name])


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--prepare", "first", "--optimizer", "own"),
        ("--prepare", "never", "--gradient_checkpointing"),
        ("--mixed_precision", "bf16", "--gradient_accumulation_steps", "2"),
        ("--mixed_precision", "fp16"),
    ],
    ids=" ".join,
)
def test_a_script_in_diffusers_style_trains_the_same_with_its_layers_offloaded(
    launch: Launcher, tmp_path: Path, options: tuple[str, ...]
) -> None:
    from accelerate.state import AcceleratorState

    launch("train_lora.py", "--output_dir", str(tmp_path / "plain"), *options, plain=True)
    AcceleratorState._reset_state(reset_partial_state=True)
    ended = launch("train_lora.py", "--output_dir", str(tmp_path / "ours"), *options)
    assert ended.code == 0
    (model,) = ended.report["models"]
    assert model["class"] == "UNet2DConditionModel" and len(model["adapted"]) == 32 and not model["fallbacks"]
    assert model["mac_share"] > 0.1 and all(model["int8_gemms"].values())
    assert "UNet2DConditionModel: offloaded to emulator: 32 adapted" in ended.err
    (plain, plain_up), (ours, ours_up) = outcome(tmp_path / "plain"), outcome(tmp_path / "ours")
    assert ours == pytest.approx(plain, rel=0.02) and ours != plain
    assert torch.cosine_similarity(plain_up, ours_up, dim=0) > 0.97 and plain_up.norm() > 1e-3


def test_hooks_are_gone_after_the_script(launch: Launcher, tmp_path: Path) -> None:
    methods = torch.optim.Optimizer.__init__, torch.optim.Optimizer.add_param_group
    launch(f"{MODEL}\ntorch.optim.SGD(model.parameters(), lr=1.0)\n")
    assert (torch.optim.Optimizer.__init__, torch.optim.Optimizer.add_param_group) == methods


def test_kohya_s_way_runs_the_frozen_gemms_of_the_layers_that_it_adapts(launch: Launcher) -> None:
    plain, ours = launch("kohya_like.py", "3", plain=True), launch("kohya_like.py", "3")
    (model,) = ours.report["models"]
    assert len(model["frozen"]) == 32 and not model["fallbacks"] and not model["not_called"]
    assert model["int8_gemms"]["forward_base"] == 3 * 32
    assert model["torch_macs"] > 0 and 0 < model["mac_share"] < 1
    numbers = [[float(found) for found in re.findall(r"(?:loss|up) ([\d.]+)", ended.out)] for ended in (plain, ours)]
    assert len(numbers[0]) == 4 and numbers[1] == pytest.approx(numbers[0], rel=0.03)


MODEL = """
import gc, torch
from torch import nn
from diffusers.models.attention import BasicTransformerBlock
from peft import LoraConfig, inject_adapter_in_model
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = BasicTransformerBlock(16, 2, 8, cross_attention_dim=24)
    def forward(self, x, text):
        return self.block(x, encoder_hidden_states=text)
def make():
    torch.manual_seed(0)
    model = Net().requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=2, init_lora_weights=False, target_modules=["to_k", "to_v"]), model)
    return model
def step(model, *optimizers):
    model(torch.randn(2, 9, 16), torch.randn(2, 5, 24)).square().mean().backward()
    for optimizer in optimizers:
        optimizer.step()
def trained(model):
    return [p for p in model.parameters() if p.requires_grad]
model = make()
"""


@pytest.mark.parametrize(
    ("rest", "models", "optimizers"),
    [
        ("step(model, torch.optim.Adam(trained(model)))", ["Net"], 1),
        # Several models with one optimizer, and one model with several.
        ("other = make(); o = torch.optim.Adam(trained(model) + trained(other)); step(model, o); step(other, o)", ["Net", "Net"], 1),
        ("a, b = (torch.optim.SGD(p, lr=.1) for p in (trained(model)[:2], trained(model)[2:])); step(model, a, b)", ["Net"], 2),
        # Parameters that come later.
        ("o = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=.1)\no.add_param_group({'params': trained(model)}); step(model, o)", ["Net"], 1),
        ("o = torch.optim.SGD([{'params': trained(model)[:2]}, {'params': trained(model)[2:], 'lr': 1.}], lr=.1); step(model, o)", ["Net"], 1),
        # Around the model: a wrapper, a list, data parallelism, a compiled one, two holders.
        ("outer = nn.Sequential(nn.Identity(), model); step(model, torch.optim.Adam(trained(outer)))", ["Sequential"], 1),
        ("outer = nn.DataParallel(model); step(outer, torch.optim.Adam(trained(outer)))", ["Net"], 1),
        ("outer = torch.compile(model, backend='eager'); step(outer, torch.optim.Adam(trained(outer)))", ["Net"], 1),
        ("a, b = nn.ModuleList([model]), nn.ModuleList([model]); step(model, torch.optim.Adam(trained(model)))", ["Net"], 1),
        # A class of its own that hides the base's methods.
        ("class Own(torch.optim.SGD):\n def add_param_group(self, group):\n  group['params'] = list(group['params']); group.update(self.defaults); self.param_groups.append(group)\nstep(model, Own(trained(model), lr=.1))", ["Net"], 1),
        # The model goes before the end: what it did is still told.
        ("o = torch.optim.Adam(trained(model)); step(model, o); del model, o; gc.collect()\nassert not [m for m in gc.get_objects() if type(m) is Net]", ["Net"], 1),
        ("o = torch.optim.Adam(trained(model)); step(model, o); model = nn.Sequential(model.block); del o", ["Net"], 1),
    ],
)  # fmt: skip
def test_the_models_of_optimizers_are_found(launch: Launcher, rest: str, models: list[str], optimizers: int) -> None:
    ended = launch(f"{MODEL}\n{rest}\n")
    assert ended.code == 0, ended.err
    found = ended.report
    assert [model["class"] for model in found["models"]] == models and found["optimizers"] == optimizers
    assert found["ran_on_device"] and all(model["int8_gemms"]["forward_down"] == 4 for model in found["models"])
    assert all(len(model["adapted"]) == 4 for model in found["models"]) and not found["not_offloaded"]


def test_a_model_that_is_gone_gives_its_device_memory_back() -> None:
    import systolora

    model = nn.Sequential(nn.Linear(64, 64)).requires_grad_(False)
    handle = systolora.offload(model, targets="linear")
    model(torch.ones(1, 64))
    report = handle.report()
    del model
    gc.collect()
    handle._session.pool.trim()
    assert handle.device.bytes_in_use < report.device_bytes
    assert handle.report().frozen == report.frozen and handle.report().int8 == report.int8
    handle.undo()


@pytest.mark.parametrize(
    ("rest", "told"),
    [
        ("pass", "NOTHING WAS OFFLOADED: the script made no torch optimizer"),
        ("torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=.1)", "NOTHING WAS OFFLOADED: the parameters of its optimizers belong to no torch module"),
        ("other = Net(); torch.optim.SGD(other.parameters(), lr=.1)", "NOT offloaded: Net: no layer of this Net matches targets 'attention'"),
        ("other = nn.Linear(2, 2); torch.optim.SGD(other.parameters(), lr=.1)", "NOTHING WAS OFFLOADED: no model could be"),
        ("import systolora; h = systolora.offload(model); torch.optim.SGD(trained(model), lr=.1)", "NOT offloaded: Net: the script offloads it itself"),
        ("torch.optim.SGD(trained(model), lr=.1)", "NOTHING RAN ON THE DEVICE: no forward pass came to an offloaded layer"),
    ],
)  # fmt: skip
def test_a_script_that_nothing_is_offloaded_of_is_told_so_and_keeps_its_exit_code(
    launch: Launcher, rest: str, told: str
) -> None:
    ended = launch(f"{MODEL}\n{rest}\n")
    assert ended.code == 0 and told in ended.err and not ended.report["ran_on_device"]
    assert launch(f"{MODEL}\n{rest}\n", require=True).code == 1
    assert launch(f"{MODEL}\n{rest}\nraise SystemExit(7)\n").code == 7


def test_what_falls_back_is_counted(launch: Launcher) -> None:
    two = "inject_adapter_in_model(LoraConfig(r=2, target_modules=['to_k']), model, 'second')"
    active = "for m in model.modules():\n if hasattr(m, 'set_adapter') and 'second' in getattr(m, 'lora_A', {}): m.set_adapter(['default', 'second'])"
    ended = launch(f"{MODEL}\n{two}\n{active}\nstep(model, torch.optim.Adam(trained(model)))\n")
    (model,) = ended.report["models"]
    assert {(found["reason"], found["calls"]) for found in model["fallbacks"]} == {("2 adapters are active at once", 1)}
    assert "fell back to torch: 2 calls, 2 adapters are active at once" in ended.err


def test_a_device_that_cannot_be_opened_ends_the_script_with_one_line(
    launch: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    from systolora.device import BackendError
    from systolora.launching import offloads

    def refuse(*_: object, **__: object) -> None:
        raise BackendError("backend 'board' is not installed")

    monkeypatch.setattr(offloads, "open_preset", refuse)
    text = f"{MODEL}\ntry:\n torch.optim.SGD(trained(model), lr=.1)\nexcept Exception:\n pass\n"
    ended = launch(text, backend="board")
    assert ended.code == 2 and "systolora launch: backend 'board' is not installed" in ended.err
