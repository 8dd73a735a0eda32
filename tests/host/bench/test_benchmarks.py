"""`systolora bench`: both commands on small problems, their figures, and their mistakes."""

from __future__ import annotations

import json

import pytest
import torch
from systolora.bench.emulator import bench_emulator
from systolora.bench.step import StepSettings, WayResult, bench_step, summary
from systolora.bench.step_profile import REST, group_of, profiled, shares
from systolora.cli.app import app
from systolora.cli.bench import _share_table
from systolora.errors import UserError
from typer.testing import CliRunner


def test_the_emulator_command_ends_with_one_json_object() -> None:
    result = CliRunner().invoke(
        app,
        ["bench", "emulator", "--shape", "40x24x32", "--shape", "8x8x8", "--repeats", "1", "--threads", "1", "--json"],
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert [(row["m"], row["n"], row["k"]) for row in found["rows"]] == [(40, 24, 32), (8, 8, 8)]
    assert found["worst_ratio_to_best_peer"] == min(row["ratio"] for row in found["rows"])
    assert all(value >= 0 for row in found["rows"] for value in row["spread"].values())
    assert found["share_of_peak"] > 0 and found["peak_gops"] > 0 and found["layer_ratio"] > 0
    assert set(found["rows"][0]["gops"]) == {"emulator", "torch int8", "torch bf16", "torch fp32"}


def test_a_shape_that_is_none_gets_one_line() -> None:
    result = CliRunner().invoke(app, ["bench", "emulator", "--shape", "4x0x4"])
    assert isinstance(result.exception, UserError)
    assert "expected MxNxK" in str(result.exception)


def test_speeds_are_those_of_the_shape() -> None:
    speed = bench_emulator({(64, 64, 64): 3}, repeats=1)
    assert speed.rows[0].count == 3
    assert all(value > 0 for value in speed.rows[0].gops.values())


def test_the_summary_names_what_the_issue_asks_for() -> None:
    results = {
        "int8": WayResult((2.0, 1.0, 3.0), (1.0, 1.0, 1.0), 100, 0.5),
        "bf16": WayResult((2.0, 2.0, 2.0), (1.0, 1.0, 1.0), 200, 0.5),
        "fp32": WayResult((4.0, 4.0, 6.0), (1.0, 1.0, 1.0), 400, 0.5),
    }
    found = summary(results)
    assert (found["int8_seconds"], found["bf16_seconds"], found["fp32_seconds"]) == (2.0, 2.0, 4.0)
    assert (found["int8_peak_bytes"], found["bf16_peak_bytes"], found["fp32_peak_bytes"]) == (100, 200, 400)
    assert (found["time_ratio_to_bf16"], found["memory_ratio_to_fp32"]) == (1.0, 0.25)


def test_an_unknown_way_or_model_gets_one_line() -> None:
    with pytest.raises(UserError, match="no way int4"):
        bench_step(StepSettings(), ("int4",))
    with pytest.raises(UserError, match="int8 failed: UserError: "):
        bench_step(StepSettings(model="no-such-model", threads=1), ("int8",))


@pytest.mark.slow
def test_a_step_of_stable_diffusion_in_less_time_and_memory() -> None:
    """256 pixels: the bars of 512 pixels hold with room."""
    found = summary(bench_step(StepSettings(resolution=256, repeats=3), ("int8", "bf16", "fp32")))
    assert found["time_ratio_to_bf16"] < 1.2
    assert found["time_ratio_to_fp32"] < 0.5
    assert found["memory_ratio_to_fp32"] < 0.5


def test_a_step_can_say_where_its_time_goes() -> None:
    """The groups by the profiler's names; and a real record of two kinds of layer."""
    assert group_of("aten::_scaled_dot_product_flash_attention_for_cpu_backward") == "torch's fused attention, backward"
    assert group_of("aten::_scaled_dot_product_flash_attention_for_cpu") == "torch's fused attention, forward"
    assert group_of("_OffloadedConvolution") == "convolutions, forward"
    assert (
        group_of("_OffloadedConvolutionBackward") == group_of("aten::convolution_backward") == "convolutions, backward"
    )
    assert group_of("aten::reshape") == group_of("something of ours, aten::add") == REST
    assert shares([("aten::mm", 3.0), ("aten::addmm", 3.0), ("aten::cat", 2.0)]) == {
        "linear layers, forward and backward": 0.75,
        "copies and concatenations": 0.25,
    }
    x = torch.randn(200, 200)
    found = profiled(lambda: torch.nn.functional.linear(x, x))
    assert sum(found.values()) == pytest.approx(1) and found["linear layers, forward and backward"] > 0


def test_the_table_of_shares_has_a_column_per_way() -> None:
    result = WayResult((1.0,), (1.0,), 100, 0.5, {"convolutions, forward": 0.6})
    table = _share_table({"int8": result, "bf16": WayResult((1.0,), (1.0,), 100, 0.5, {REST: 1.0})})
    assert [list(column.cells) for column in table.columns] == [
        ["convolutions, forward", REST],
        ["60.0%", "0.0%"],
        ["0.0%", "100.0%"],
    ]
    assert summary({"int8": result})["int8_shares"] == {"convolutions, forward": 0.6}
