"""The processor's part of a step: operators as a real step has them, times by hand, rates from a file; and the memory of a step."""

from __future__ import annotations

import json
import re
from collections import Counter
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import systolora
import torch
from diffusers import UNet2DConditionModel
from systolora.cli.app import app
from systolora.cli.options import make_console
from systolora.cli.simulate import print_simulation
from systolora.cost.footprint import SYSTEM_BYTES, step_footprint
from systolora.cost.host_operators import OperatorCount
from systolora.cost.host_time import HOST_OPERATORS, HostAssumptions, HostCost, host_cost, read_rates
from systolora.cost.run import run_simulate
from systolora.cost.settings import SimulateSettings
from systolora.cost.simulation import simulate_workload
from systolora.cost.step_gemms import StepWriter
from systolora.cost.step_trace import AttentionCall, LinearCall, Trace
from systolora.cost.tracing import trace_workload
from systolora.cost.workloads import StepOptions, Workload
from systolora.errors import UserError
from systolora.hls.boards import BOARD_TABLE
from systolora.hls.isa import Result
from systolora.offloading.quantization import QuantizationConfig
from systolora.programs.tensors import ElementType
from systolora.sim.functional.emulator import EmulatorDevice
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from typer.testing import CliRunner

SMALL = {
    "sample_size": 8,
    "layers_per_block": 1,
    "block_out_channels": (32, 64),
    "norm_num_groups": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 48,
    "attention_head_dim": 2,
}
PROFILED = {
    "aten::silu": "silu",
    "aten::silu_backward": "silu_gradient",
    "aten::gelu": "gelu",
    "aten::gelu_backward": "gelu_gradient",
    "aten::native_group_norm": "norm",
    "aten::native_layer_norm": "norm",
    "aten::native_group_norm_backward": "norm_gradient",
    "aten::native_layer_norm_backward": "norm_gradient",
    "aten::_softmax": "softmax",
}
CASES = [("kv", False), ("attention", True), ("linear", False), ("all", True)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    found = tmp_path_factory.mktemp("model")
    UNet2DConditionModel(**SMALL).save_config(found)
    return str(found)


@pytest.fixture(scope="module")
def key_value() -> Workload:
    return trace_workload("sd15", StepOptions())


@pytest.fixture(scope="module")
def everything() -> Workload:
    return trace_workload("sd15", StepOptions(targets="all", adapt="kv", attention_products=True))


def traced(folder: str, targets: str, products: bool) -> Workload:
    return trace_workload(folder, StepOptions(targets=targets, attention_products=products, resolution=64))


class RealStep:
    """A small U-Net on the emulator, and its loss."""

    def __init__(self, device: EmulatorDevice, targets: str, products: bool, crossing: str = "float32") -> None:
        torch.manual_seed(1)
        self.model = UNet2DConditionModel(**SMALL).requires_grad_(False)
        options = {"rank": 4, "attention_products": products}
        quantization = QuantizationConfig(transfer_type=crossing)
        self.handle = systolora.offload(self.model, targets, device, quantization, **options)  # type: ignore[arg-type]
        self.latents, self.text = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 48)

    def forward(self) -> Tensor:
        return self.model(self.latents, torch.tensor([500]), self.text).sample.square().mean()


def largest(shapes: Any) -> int:
    """Elements of the largest tensor among an event's input shapes."""
    return max(prod(shape) for shape in shapes if shape)


@pytest.mark.parametrize(("targets", "products"), CASES)
def test_operators_are_those_that_the_profiler_sees_in_a_real_step(folder: str, targets: str, products: bool) -> None:
    found = host_cost(traced(folder, targets, products), read_rates("")).elements
    with EmulatorDevice() as device:
        step = RealStep(device, targets, products)
        step.forward().backward()  # the first step also quantizes weights
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as record:
            step.forward().backward()
        step.handle.undo()
    seen: Counter[str] = Counter()
    for event in record.events():
        if event.name in PROFILED:
            seen[PROFILED[event.name]] += largest(event.input_shapes)
    if not products:
        del seen["softmax"]  # torch's fused kernel does not show it
    assert set(seen) == set(PROFILED.values()) - (set() if products else {"softmax"})
    assert {name: found[name] for name in seen} == dict(seen)


@pytest.mark.parametrize(
    ("targets", "products", "crossing"), [*((*case, "float32") for case in CASES), ("all", True, "bfloat16")]
)
def test_what_autograd_keeps_is_what_a_real_step_keeps(
    folder: str, targets: str, products: bool, crossing: str
) -> None:
    kept: dict[int, int] = {}
    alive: list[Tensor] = []
    with EmulatorDevice() as device:
        step = RealStep(device, targets, products, crossing)
        own = {t.untyped_storage().data_ptr() for t in (*step.model.parameters(), *step.model.buffers())}

        def keep(tensor: Tensor) -> Tensor:
            alive.append(tensor)
            if tensor.untyped_storage().data_ptr() not in own and tensor.is_floating_point():
                kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            step.forward().backward()
        step.handle.undo()
    workload = traced(folder, targets, products)
    parts = step_footprint(workload, 4, 16, transfer_bytes=ElementType[crossing.upper()].nbytes).parts
    expected = workload.trace.kept_bytes + parts["probabilities of attention"]
    assert (parts["probabilities of attention"] > 0) is products
    assert sum(kept.values()) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("targets", ["kv", "linear", "all"])
def test_int8_weights_are_the_bytes_that_lie_on_the_device(folder: str, targets: str) -> None:
    with EmulatorDevice() as device:
        step = RealStep(device, targets, False)
        step.forward().backward()
        held = sum(layer._leases["weight"][0] for layer in step.handle._layers.values() if "weight" in layer._leases)
        step.handle.undo()
    assert step_footprint(traced(folder, targets, False), 4, 16).parts["int8 weights"] == held


def test_operators_are_counted_by_their_elements_and_views_are_free() -> None:
    x = torch.empty(6, 4, device="meta")
    with OperatorCount() as count:
        y = nn.functional.silu(x.view(4, 6).t()) + x
        torch.cat((y, x))
        (y * 2.0).sum()
        x.expand(3, 6, 4).permute(2, 0, 1).contiguous()
        x.clone().add_(1.0)
    assert count.elements == {"silu": 24, "add": 48, "concatenate": 48, "multiply": 24, "other": 24, "copy": 72 + 24}


def test_softmax_of_stable_diffusion_by_hand(key_value: Workload, everything: Workload) -> None:
    """Eight heads; two layers down, three up of each size, one in the middle; self-attention and 77 words."""
    blocks = {4096: 5, 1024: 5, 256: 5, 64: 1}
    size = sum(8 * count * tokens * (tokens + 77) for tokens, count in blocks.items())
    device, fused = (host_cost(workload, read_rates("")).elements for workload in (everything, key_value))
    # No gradient comes to the first self-attention, which lies before the first adapter; with the kernel it is computed once as well.
    before = 8 * 4096 * 4096
    assert device["softmax"] == size and device["softmax_gradient"] == size - before
    assert fused["softmax"] == 2 * size - before and "softmax_gradient" not in fused


def test_what_comes_in_bfloat16_is_widened_and_scores_are_not() -> None:
    """One frozen layer [40, 24] on 6 tokens with grad_x, and two heads of 5 x 7 with widths of 3."""
    layer = LinearCall("a", 6, 24, 40, False, adapted=False, input_grad=True, source=1)
    attention = AttentionCall("b", 2, 5, 7, 3, 3, query_grad=True, key_grad=True, value_grad=True)
    results = {"y": 6 * 40, "grad_x": 6 * 24, "o": 2 * 5 * 3, "grad_p": 2 * 5 * 7, "grad_q": 2 * 5 * 3}
    results |= {"grad_k": 2 * 7 * 3, "grad_v": 2 * 7 * 3}
    found = []
    for result in (Result.FLOAT32, Result.BFLOAT16):
        writer = StepWriter(4, 16, result)
        order = (*writer.work(layer), *writer.work(attention))
        workload = SimpleNamespace(
            trace=Trace((), {"copy": 11}, 0), calls=(), host_calls=(), order=order, trainable=0, host_macs=0
        )
        found.append(host_cost(workload, read_rates("")).elements["copy"])  # type: ignore[arg-type]
    assert found == [11, 11 + sum(results.values())]


def test_seconds_by_hand() -> None:
    """Four cores at 1.333 GHz, 3.5 GB/s: 14 cycles or 8 bytes an element, whichever takes longer."""
    rates = HostAssumptions().rates()
    assert set(rates.ns) == set(HOST_OPERATORS) and not rates.measured
    assert rates.ns["softmax"] == pytest.approx(14 / 5.332)
    assert rates.ns["softmax_gradient"] == pytest.approx(36 / 3.5)
    slower = HostAssumptions(gbps=2.0).rates()
    assert slower.ns["softmax"] == pytest.approx(8 / 2.0)
    cost = HostCost(rates, {"softmax": 10**9, "add": 3 * 10**8}, 9 * 10**9)
    parts = {"softmax": 14 / 5.332, "products": 2.0, "add": 0.3 * 12 / 3.5}
    assert cost.seconds_by_operator() == pytest.approx(parts)
    assert list(cost.seconds_by_operator()) == ["softmax", "products", "add"]
    assert cost.seconds == pytest.approx(sum(parts.values()))


def test_the_step_takes_accelerator_and_host(
    key_value: Workload, everything: Workload, capsys: pytest.CaptureFixture[str]
) -> None:
    done = simulate_workload(SimulateSettings(targets="kv", board="kv260"), key_value)
    step, found = done.as_dict()["step"], done.as_dict()["host"]
    assert step["wall_seconds"] == pytest.approx(step["seconds"] + step["host_seconds"])
    assert step["host_seconds"] == found["seconds"] == pytest.approx(sum(found["seconds_by_operator"].values()))
    # All but the key and value projections is left to the host, twice the scores in torch's attention.
    # (grad_scores is as large as the scores are, and there where the kernel runs backward.)
    again = sum(item.macs for item in everything.gemms if item.gemm.kind == "grad_scores")
    assert found["macs"] == everything.macs() - key_value.macs() + again
    print_simulation(done, make_console())
    text = " ".join(capsys.readouterr().out.split())
    assert "attention products left to the host, adapter on kv" in text
    assert f"accelerator and host, one after the other: {step['wall_seconds']:.3f} s" in text
    assert "four A53 at 1.333 GHz, assumed" in text


def test_a_board_without_room_gets_one_line(key_value: Workload, capsys: pytest.CaptureFixture[str]) -> None:
    done = simulate_workload(SimulateSettings(board="kv260"), key_value)
    memory = done.as_dict()["memory"]
    assert memory["bytes"] == sum(memory["parts"].values()) and memory["fits"] is False
    assert memory["board_bytes"] == BOARD_TABLE["kv260"].dram_mb * 2**20
    assert memory["parts"]["float32 weights"] == 4 * key_value.parameters
    assert memory["parts"]["adapter, gradients, optimizer"] == 16 * key_value.trainable
    print_simulation(done, make_console())
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert len(warnings) == 1 and re.search(
        r"needs 5\.\d\d GB and kv260 has 4\.29 GB: float32 weights 3\.44", warnings[0]
    )
    no_board = simulate_workload(SimulateSettings(), key_value)
    assert no_board.as_dict()["memory"]["fits"] is None and not no_board.footprint.warning()


def test_released_weights_and_small_models_fit(folder: str) -> None:
    everything = traced(folder, "all", False)
    kept, released = (step_footprint(everything, 4, 16, "kv260", release) for release in (False, True))
    layers = sum(
        module.weight.numel()
        for module in UNet2DConditionModel(**SMALL).modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    )
    assert kept.total - released.total == kept.releasable == 4 * layers and released.releasable == 0
    assert released.fits and not released.warning() and released.total > SYSTEM_BYTES


def test_measured_rates_take_the_place_of_assumptions(tmp_path: Path, key_value: Workload) -> None:
    file = tmp_path / "host.json"
    result = CliRunner().invoke(
        app, ["bench", "host", "--elements", "4096", "--repeats", "1", "--out", str(file), "--json"]
    )
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout.splitlines()[-1])
    rates = read_rates(str(file))
    assert rates.measured and rates.ns == printed["ns"] and rates.gmacs == printed["gmacs"] > 0
    assert set(rates.ns) == set(HOST_OPERATORS) and min(rates.ns.values()) > 0 and rates.gbps == 8 / rates.ns["copy"]
    done = simulate_workload(SimulateSettings(host=str(file)), key_value)
    elements = done.host.elements
    expected = key_value.host_macs / rates.gmacs + sum(count * rates.ns[name] for name, count in elements.items())
    assert done.host.seconds == pytest.approx(1e-9 * expected)
    assert done.as_dict()["host"]["processor"] == rates.name


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (None, "there is no such file; give a file that 'systolora bench host --out FILE' wrote"),
        ("no JSON", "these are no rates of a processor"),
        ({"format": "other"}, "these are no rates of a processor"),
        ({"ns": [1, 2]}, "these are no rates of a processor"),
        ({"ns": {"add": 1.0}}, "multiply is None, expected a positive number"),
        ({"gmacs": -1.0}, "gmacs is -1.0, expected a positive number"),
        ({"gbps": float("nan")}, "gbps is nan, expected a positive number"),
        ({"gmacs": True}, "gmacs is True, expected a positive number"),
    ],
)
def test_files_that_are_no_rates_get_one_line_before_the_work(tmp_path: Path, change: Any, text: str) -> None:
    file = tmp_path / "rates.json"
    if isinstance(change, dict):
        file.write_text(json.dumps(json.loads(HostAssumptions().rates().as_json()) | change))
    elif change:
        file.write_text(change)
    with pytest.raises(UserError, match=re.escape(text)):
        run_simulate(SimulateSettings(host=str(file), workload="nothing-that-could-be-traced"))
