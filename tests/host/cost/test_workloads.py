"""Traced training steps: torch's own count of a real backward agrees, and the published models have their published sizes."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import SD3Transformer2DModel, UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from systolora.assets import pipeline_folder
from systolora.cost.step_trace import AttentionCall
from systolora.cost.tracing import adapted_names, trace_workload
from systolora.cost.workloads import StepOptions, Workload
from systolora.errors import UserError
from systolora.hls.check import (
    ErrorCode,
    Region,
    Surroundings,
    check_instruction,
    round_up,
    stored_shape_a,
    stored_shape_b,
)
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Axis, Gemm, OperandA, Result, Source
from systolora.models.configs import MODELS, build_model, model_spec, step_inputs
from torch.utils.flop_counter import FlopCounterMode

EVERYTHING = {"targets": "all", "adapt": "kv", "attention_products": True}
"""All GEMMs of a step, as the paper places its adapter."""
TINY_UNET = {
    "sample_size": 16,
    "cross_attention_dim": 48,
    "attention_head_dim": 2,
    "block_out_channels": (32, 64),
    "norm_num_groups": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
TINY_SD3 = {
    "sample_size": 32,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": 24,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 16,
    "pos_embed_max_size": 32,
}


@pytest.fixture(scope="module")
def sd15() -> Workload:
    return trace_workload("sd15", StepOptions(**EVERYTHING))


def saved(folder: Path, model: torch.nn.Module, part: str) -> str:
    (folder / part).mkdir(parents=True)
    config = {"_class_name": type(model).__name__, **dict(model.config)}
    (folder / part / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.parametrize("adapt", ["kv", "attention", "linear"])
@pytest.mark.parametrize(("kind", "config"), [(UNet2DConditionModel, TINY_UNET), (SD3Transformer2DModel, TINY_SD3)])
def test_torch_counts_the_same_in_a_real_backward(tmp_path: Path, kind: type, config: dict, adapt: str) -> None:
    """peft's layers on the meta device, forward and backward under FlopCounterMode: two operations a multiply-accumulate."""
    with torch.device("meta"):
        model = kind(**config)
    part = "unet" if kind is UNet2DConditionModel else "transformer"
    name = saved(tmp_path, model, part)
    spec = model_spec(name)
    workload = trace_workload(name, StepOptions(**{**EVERYTHING, "adapt": adapt}, rank=3, batch=2))
    peft = build_model(spec)
    inject_adapter_in_model(LoraConfig(r=3, target_modules=list(adapted_names(peft, adapt))), peft)
    peft.to("meta")
    inputs = step_inputs(spec, peft, 2, spec.resolution)
    with FlopCounterMode(display=False) as counter:
        peft(**inputs)[0].sum().backward()
    assert workload.trainable == sum(p.numel() for p in peft.parameters() if p.requires_grad)
    assert 2 * workload.macs() == counter.get_total_flops()


def test_stable_diffusion_1_5(sd15: Workload) -> None:
    assert (sd15.parameters, sd15.trainable) == (859_520_964, 198_144)
    # The gradients of three convolutions with stride 2 are four GEMMs each.
    assert sd15.gemm_count == 2155 + 3 * 3
    billions = {phase: round(macs / 1e9, 1) for phase, macs in sd15.macs_by_phase().items()}
    assert billions == {"forward": 401.7, "grad_input": 431.5, "grad_weight": 0.0}
    by_class: Counter[str] = Counter()
    for item in sd15.gemms:
        by_class[item.gemm.layer_class] += item.macs
    assert by_class["convolution"] / 1e9 == pytest.approx(222.0 + 214.0, abs=0.1)
    assert by_class["self-attention products"] / 1e9 == pytest.approx(61.2 + 101.0, abs=0.1)
    assert by_class["cross k, v"] / 1e9 == pytest.approx(1.476 + 0.0153 + 0.0076 + 0.0153, abs=0.001)


def test_the_paper_s_layers_are_192_gemms() -> None:
    workload = trace_workload("sd15", StepOptions(targets="kv"))
    kinds: Counter[str] = Counter()
    for item in workload.gemms:
        kinds[item.gemm.kind] += item.count
    # No gradient flows into the text, so there is no grad_input; all else is there for each of 32 layers.
    assert kinds == dict.fromkeys(
        ("forward_base", "forward_down", "forward_up", "grad_hidden", "grad_up", "grad_down"), 32
    )
    # The text is quantized once for all of them, along each axis.
    texts = [item for item in workload.quantizes if item.quantize.tensor == "x"]
    assert [(item.quantize.op.axis, item.count) for item in texts] == [(Axis.ROW, 1), (Axis.COLUMN, 1)]


@pytest.mark.parametrize(
    ("name", "billions"),
    [("sdxl", 6986), ("pixart", 7665)],
)
def test_other_models(name: str, billions: int) -> None:
    assert round(trace_workload(name, StepOptions(**EVERYTHING)).macs() / 1e9) == billions


@pytest.mark.parametrize(
    ("options", "billions"),
    [({"adapt": "attention"}, 857.2), ({"rank": 32}, 833.4), ({"resolution": 256}, 179.0), ({"batch": 4}, 3332.6)],
)
def test_options(options: dict, billions: float) -> None:
    macs = trace_workload("sd15", StepOptions(**{**EVERYTHING, **options})).macs()
    assert macs / 1e9 == pytest.approx(billions, abs=0.06)


def test_products_of_attention_and_the_adapter_are_where_offload_puts_them() -> None:
    """Out unless asked for, with any targets; on key and value for "kv" and on all of attention for the others."""
    left_out, taken = (
        trace_workload("sd15", StepOptions(targets="attention", attention_products=products))
        for products in (False, True)
    )
    kinds = [{item.gemm.layer_class for item in workload.gemms} for workload in (left_out, taken)]
    assert kinds[1] - kinds[0] == {"self-attention products", "cross-attention products"}
    assert left_out.trainable == taken.trainable == 797_184
    # What does not run on the accelerator is the host's; torch's attention computes the scores again in its backward.
    products = taken.macs() - left_out.macs()
    again = sum(c.heads * c.queries * c.keys * c.width for c in left_out.host_calls if isinstance(c, AttentionCall))
    first = next(c for c in left_out.host_calls if isinstance(c, AttentionCall))
    assert left_out.host_macs - taken.host_macs == products + again
    assert not taken.host_calls or not any(isinstance(call, AttentionCall) for call in taken.host_calls)
    assert first.needs_backward


def test_a_pipeline_folder_says_how_long_its_text_is_and_how_large_a_latent() -> None:
    spec = model_spec(str(pipeline_folder()))
    assert (spec.tokens, spec.cell, spec.resolution) == (24, 2, 2 * spec.config["sample_size"])


def test_every_gemm_is_an_instruction_that_the_controller_takes(sd15: Workload) -> None:
    config = ArrayConfig()
    around = Surroundings(Region(0, 1 << 62), Region(0, 128), Region(128, 128))
    for item in sd15.gemms:
        op = item.gemm.op
        (_, a_row), (_, b_row) = stored_shape_a(op), stored_shape_b(config, op)
        strides = {
            "a_stride": round_up(a_row, 16),
            "b_stride": round_up(b_row, 16),
            "c_stride": round_up(4 * op.n, 16),
            "tile_m": min(op.m, 16),
            "tile_n": min(op.n, 16),
            "tile_k": min(op.k, 16),
        }
        places = {name: place << 40 for place, name in enumerate(("a_address", "b_address", "c_address"), 1)}
        placed = Gemm(**{**vars(op), **strides, **places})
        assert check_instruction(config, around, placed, None) == ErrorCode.OK, op
        assert item.gemm.macs <= op.m * op.n * op.k
        if op.a_form == OperandA.MATRIX:
            assert item.gemm.macs == op.m * op.n * op.k


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither one of sd15"):
        trace_workload(str(tmp_path), StepOptions())
    with pytest.raises(UserError, match="--targets 'some': allowed are kv, attention, linear, all"):
        trace_workload("sd15", StepOptions(targets="some"))
    with pytest.raises(UserError, match="--resolution 500: Stable Diffusion 1.5 takes multiples of 64"):
        trace_workload("sd15", StepOptions(resolution=500))
    with pytest.raises(UserError, match="--rank 0"):
        trace_workload("sd15", StepOptions(rank=0))
    (tmp_path / "config.json").write_text('{"_class_name": "VQModel"}')
    with pytest.raises(UserError, match="class 'VQModel'; allowed are"):
        trace_workload(str(tmp_path), StepOptions())
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        trace_workload(str(tmp_path), StepOptions())


def test_all_published_models_can_be_built() -> None:
    sizes = {name: sum(p.numel() for p in build_model(spec).parameters()) / 1e6 for name, spec in MODELS.items()}
    expected = {"sd15": 860, "sd21": 866, "sdxl": 2567, "pixart": 611, "sd3": 2028, "flux": 11901}
    assert {name: round(size) for name, size in sizes.items()} == expected


def test_what_a_low_rank_term_is_added_to_stays_float32() -> None:
    """As in a real step (`offloading.linear`): results that are rounded once, and what only the adapter sees."""
    options = StepOptions(targets="attention", result=Result.BFLOAT16)
    found: dict[str, set[Result]] = {}
    for item in trace_workload(str(pipeline_folder()), options).gemms:
        found.setdefault(item.gemm.kind, set()).add(item.gemm.op.result)
    assert all(results == {Result.FLOAT32} for results in found.values()), found
    frozen = trace_workload(str(pipeline_folder()), replace(options, targets="all", adapt="kv"))
    base = {item.gemm.op.result for item in frozen.gemms if item.gemm.kind == "forward_base"}
    assert base == {Result.FLOAT32, Result.BFLOAT16}
    sources = {item.quantize.tensor: item.quantize.op.source for item in frozen.quantizes}
    assert sources["x"] == Source.BFLOAT16 and sources["h"] == sources["down"] == Source.FLOAT32
