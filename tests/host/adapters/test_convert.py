"""Adapters under the names of diffusers, peft and kohya: round trips, and what plain diffusers and peft make of what was written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderTiny,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, inject_adapter_in_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from safetensors.torch import save as save_apart
from systolora.adapters.convert import convert_adapter
from systolora.adapters.layers import Adapter, LoraLayer
from systolora.adapters.names import kohya_name, layer_of
from systolora.adapters.reading import read_adapter
from systolora.adapters.writing import diffusers_file, kohya_file, peft_files
from systolora.assets import pipeline_folder
from systolora.errors import UserError
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

UNET_LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "conv1", "conv2"]
UNET_LAYERS += ["conv_shortcut", "time_emb_proj", "conv_in", "conv_out", "linear_1", "linear_2", "downsamplers.0.conv"]
TEXT_LAYERS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def save(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """The bytes of a file; the tensors may be one and the same."""
    return save_apart({name: tensor.clone() for name, tensor in tensors.items()}, metadata)


def demo_pipeline() -> Any:
    return StableDiffusionPipeline.from_pretrained(
        pipeline_folder(), safety_checker=None, requires_safety_checker=False
    )


def xl_pipeline() -> Any:
    """A tiny SDXL with two text encoders, random."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=2, norm_num_groups=8, attention_head_dim=(2, 4),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2), cross_attention_dim=32, use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=16 + 6 * 8,
    )  # fmt: skip
    tokenizer = CLIPTokenizer.from_pretrained(pipeline_folder() / "tokenizer")
    sizes: dict[str, Any] = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 16,
        "vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "max_position_embeddings": tokenizer.model_max_length,
    }  # fmt: skip
    first, second = CLIPTextModel(CLIPTextConfig(**sizes)), CLIPTextModelWithProjection(CLIPTextConfig(**sizes))
    vae = AutoencoderTiny(encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), upsampling_scaling_factor=2)  # fmt: skip
    return StableDiffusionXLPipeline(
        vae, first, second, tokenizer, tokenizer, unet, DDIMScheduler(), add_watermarker=False
    )


def adapt(model: nn.Module, targets: list[str], seed: int, **config: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A random adapter that does something: its state by peft's names, and peft's configuration."""
    torch.manual_seed(seed)
    lora = LoraConfig(r=4, lora_alpha=2, init_lora_weights=False, target_modules=targets, **config)
    inject_adapter_in_model(lora, model)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn_like(parameter) * 0.2
    return get_peft_model_state_dict(model), {**lora.to_dict(), "target_modules": sorted(lora.target_modules)}


def save_own(pipeline: Any, folder: Path, parts: list[str], **config: Any) -> Path:
    """The adapter of some parts of a pipeline, as diffusers saves it."""
    arguments: dict[str, Any] = {}
    for index, part in enumerate(parts):
        targets = TEXT_LAYERS if part.startswith("text") else UNET_LAYERS
        state, metadata = adapt(getattr(pipeline, part), targets, index, **config)
        arguments |= {f"{part}_lora_layers": state, f"{part}_lora_adapter_metadata": metadata}
    pipeline.save_lora_weights(folder, **arguments)
    return folder / "pytorch_lora_weights.safetensors"


def picture(make: Callable[[], Any], adapter: Path | None) -> np.ndarray:
    pipeline = make()
    pipeline.set_progress_bar_config(disable=True)
    if adapter is not None:
        pipeline.load_lora_weights(str(adapter.parent), weight_name=adapter.name)
    sample = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    return pipeline(
        "a red star", num_inference_steps=2, generator=torch.Generator().manual_seed(3), output_type="np",
        height=sample, width=sample,
    ).images[0]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (demo_pipeline, ["unet"]),
        (demo_pipeline, ["unet", "text_encoder"]),
        (xl_pipeline, ["unet", "text_encoder", "text_encoder_2"]),
    ],
    ids=["unet", "unet and text encoder", "sdxl with both text encoders"],
)
@pytest.mark.parametrize("rslora", [False, True], ids=["lora", "rslora"])
def test_a_converted_adapter_gives_the_same_pictures_in_plain_diffusers(
    tmp_path: Path, make: Callable[[], Any], parts: list[str], rslora: bool
) -> None:
    own = save_own(make(), tmp_path / "own", parts, use_rslora=rslora)
    convert_adapter(own, "kohya", tmp_path / "kohya.safetensors")
    convert_adapter(tmp_path / "kohya.safetensors", "diffusers", tmp_path / "back.safetensors")
    convert_adapter(tmp_path / "kohya.safetensors", "peft", tmp_path / "peft")
    convert_adapter(tmp_path / "peft", "diffusers", tmp_path / "again.safetensors")
    first = picture(make, own)
    assert np.abs(first - picture(make, None)).max() > 0.01, "the adapter does something"
    for name in ("kohya", "back", "again"):
        assert np.array_equal(first, picture(make, tmp_path / f"{name}.safetensors")), name


def test_the_kohya_file_is_what_its_tools_expect(tmp_path: Path) -> None:
    own = save_own(demo_pipeline(), tmp_path / "own", ["unet", "text_encoder"])
    done = convert_adapter(own, "kohya", tmp_path / "kohya.safetensors")
    with safe_open(str(tmp_path / "kohya.safetensors"), "pt") as file:
        header, names = file.metadata(), set(file.keys())
        stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0"
        assert float(file.get_tensor(f"{stem}.alpha")) == 2 and file.get_tensor(f"{stem}.alpha").dtype == torch.float32
        assert file.get_tensor(f"{stem}.lora_down.weight").shape[0] == 4
        assert file.get_tensor("lora_unet_conv_in.lora_down.weight").dim() == 4
    assert {"lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight", f"{stem}.lora_up.weight"} < names
    assert (header["ss_network_dim"], header["ss_network_alpha"], header["ss_network_module"]) == (
        "4",
        "2",
        "networks.lora",
    )
    assert json.loads(header["ss_network_args"]) == {"conv_dim": "4", "conv_alpha": "2"}
    assert 3 * sum(done.layers.values()) == len(names) and done.ranks == (4,) and done.alphas == (2.0,)


def test_ranks_and_alphas_of_their_own_reach_peft_and_diffusers(tmp_path: Path) -> None:
    """Per layer in kohya's file, as patterns in the others."""
    unet = demo_pipeline().unet
    patterns = {"rank_pattern": {"attn1.to_q": 2, "conv1": 3}, "alpha_pattern": {"attn1.to_q": 5, "attn2.to_k": 0.1}}
    state, config = adapt(unet, ["to_q", "to_k", "conv1"], 0, **patterns)
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=state, unet_lora_adapter_metadata=config)
    convert_adapter(tmp_path, "kohya", tmp_path / "kohya.safetensors")
    convert_adapter(tmp_path / "kohya.safetensors", "peft", tmp_path / "peft")
    x, text = torch.randn(1, 4, 8, 8), torch.randn(1, 5, unet.config.cross_attention_dim)
    wanted = unet(x, 10, text).sample
    loaded = PeftModel.from_pretrained(demo_pipeline().unet, tmp_path / "peft")
    assert torch.equal(loaded(x, 10, text).sample, wanted)
    convert_adapter(tmp_path / "kohya.safetensors", "diffusers", tmp_path / "back.safetensors")
    again = demo_pipeline()
    again.load_lora_weights(str(tmp_path), weight_name="back.safetensors")
    assert torch.equal(again.unet(x, 10, text).sample, wanted)


@pytest.mark.parametrize(
    ("part", "targets", "pattern"),
    [("unet", ["to_q", "to_k", "conv1", "ff.net.2"], {"attn1.to_q": 5, "conv1": 7, "ff.net.2": 3}), ("text_encoder", TEXT_LAYERS, {"q_proj": 5})],
)  # fmt: skip
def test_what_plain_diffusers_makes_of_alphas_that_differ(
    tmp_path: Path, part: str, targets: list[str], pattern: dict[str, int]
) -> None:
    """It reads them wrong from names of kohya's, for some layers, which the note says: if that changes the note can go."""
    pipeline, again, third = demo_pipeline(), demo_pipeline(), demo_pipeline()
    state, config = adapt(getattr(pipeline, part), targets, 0, alpha_pattern=pattern)
    pipeline.save_lora_weights(tmp_path, **{f"{part}_lora_layers": state, f"{part}_lora_adapter_metadata": config})
    done = convert_adapter(tmp_path, "kohya", tmp_path / "kohya.safetensors")
    convert_adapter(tmp_path / "kohya.safetensors", "diffusers", tmp_path / "back.safetensors")
    again.load_lora_weights(str(tmp_path), weight_name="kohya.safetensors")
    third.load_lora_weights(str(tmp_path), weight_name="back.safetensors")
    wanted, found, back = (_scales(getattr(each, part)) for each in (pipeline, again, third))
    assert back == wanted and len(set(wanted.values())) > 1
    assert found != wanted and f"note: alpha differs between layers of {part}" in str(done)


def _scales(model: nn.Module) -> dict[str, float]:
    return {name: next(iter(m.scaling.values())) for name, m in model.named_modules() if hasattr(m, "lora_A")}


def test_names_of_the_original_unet_are_read_as_sdxl_s() -> None:
    data: dict[str, Tensor] = {}
    names = {
        "input_blocks_4_1_transformer_blocks_1_attn1_to_q": "down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q",
        "middle_block_1_transformer_blocks_0_ff_net_2": "mid_block.attentions.0.transformer_blocks.0.ff.net.2",
        "output_blocks_2_1_proj_in": "up_blocks.0.attentions.2.proj_in",
        "input_blocks_1_0_in_layers_2": "down_blocks.0.resnets.0.conv1",
        "input_blocks_3_0_op": "down_blocks.0.downsamplers.0.conv",
        "output_blocks_0_0_skip_connection": "up_blocks.0.resnets.0.conv_shortcut",
        "label_emb_0_2": "add_embedding.linear_2",
        "time_embed_0": "time_embedding.linear_1",
    }
    for index, name in enumerate(names):
        data |= {
            f"lora_unet_{name}.lora_down.weight": torch.full((2, 3), index + 1.0),
            f"lora_unet_{name}.lora_up.weight": torch.ones(4, 2),
        }
    found = _read(save(data))
    assert {module: float(layer.down[0, 0]) for module, layer in found.of("unet").items()} == {
        module: index + 1.0 for index, module in enumerate(names.values())
    }
    assert all(layer.alpha == 2 for layer in found.layers.values()), "without alpha it is the rank"


def _read(data: bytes, name: str = "some.safetensors") -> Adapter:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        return read_adapter(path)


def _modules() -> list[tuple[str, str]]:
    """Every Linear and convolution of an SDXL and of a Stable Diffusion U-Net, and of their text encoders."""
    found = []
    pipeline = xl_pipeline()
    for part in ("unet", "text_encoder", "text_encoder_2"):
        for name, module in getattr(pipeline, part).named_modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)) and "embedding" not in part:
                flat = part == "text_encoder" and not name.startswith("text_model.")
                found.append((part, f"text_model.{name}" if flat else name))
    return found


MODULES = _modules()


def test_every_layer_of_sdxl_has_a_kohya_name_that_means_it() -> None:
    names = {kohya_name(part, module, True): (part, module) for part, module in MODULES}
    assert len(names) == len(MODULES) > 100
    assert all(layer_of(name) == key for name, key in names.items())


@pytest.mark.parametrize(
    ("part", "module"),
    [("transformer", "blocks.0.attn.to_q"), ("text_encoder_3", "block.0.q"), ("unet", "my_blocks.0.attn_x.to_q")],
)
def test_a_layer_without_a_kohya_name_is_refused(part: str, module: str) -> None:
    with pytest.raises(UserError, match="kohya's"):
        kohya_name(part, module, False)


@st.composite
def adapters(draw: st.DrawFn) -> Adapter:
    layers = {}
    for part, module in draw(st.lists(st.sampled_from(MODULES), min_size=1, max_size=8, unique=True)):
        rank, inner, out = (draw(st.integers(1, 5)) for _ in range(3))
        kernel = draw(st.sampled_from([(), (1, 1), (3, 3)])) if part == "unet" else ()
        dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
        alpha = draw(st.one_of(st.integers(1, 64).map(float), st.floats(0.01, 100)))
        generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
        down = torch.randn(rank, inner, *kernel, generator=generator).to(dtype)
        up = torch.randn(out, rank, *(1 for _ in kernel), generator=generator).to(dtype)
        layers[part, module] = LoraLayer(down, up, alpha)
    return Adapter(layers, {"made by": "a test"})


def same(a: Adapter, b: Adapter) -> bool:
    return a.layers.keys() == b.layers.keys() and all(
        mine.alpha == b.layers[key].alpha
        and mine.down.dtype == b.layers[key].down.dtype
        and torch.equal(mine.down, b.layers[key].down)
        and torch.equal(mine.up, b.layers[key].up)
        for key, mine in a.layers.items()
    )


@settings(max_examples=40, deadline=None)
@given(adapters())
def test_round_trips_keep_every_bit(adapter: Adapter) -> None:
    for data in (kohya_file(adapter), diffusers_file(adapter)):
        found = _read(data)
        assert same(found, adapter) and found.notes == adapter.notes
        assert same(_read(kohya_file(found)), adapter)
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / adapter.parts[0]
        for file, data in peft_files(adapter).items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(data)
        assert same(read_adapter(folder), adapter)


def test_old_names_of_diffusers_are_read() -> None:
    names = {
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora": "to_out.0",
        "text_encoder.text_model.encoder.layers.0.self_attn.to_q_lora": "q_proj",
        "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_linear_layer": "fc1",
    }
    data = {f"{name}.{factor}.weight": torch.ones(2, 2) for name in names for factor in ("down", "up")}
    found = {module for _, module in _read(save(data)).layers}
    assert len(found) == 3 and all(any(module.endswith(f".{name}") for module in found) for name in names.values())


ONE, TWO = torch.ones(2, 3), torch.ones(4, 2)
U = "unet.conv_in.lora_A.weight", "unet.conv_in.lora_B.weight"
K = "lora_unet_conv_in.lora_down.weight", "lora_unet_conv_in.lora_up.weight"
P = "base_model.model.conv_in.lora_A.weight", "base_model.model.conv_in.lora_B.weight"
GOOD = save({U[0]: ONE, U[1]: TWO})

BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no readable safetensors"),
    "noise": (b"\xff" * 100, "no readable safetensors"),
    "truncated": (GOOD[:-3], "no readable safetensors"),
    "text": (b"hello, this is no tensor", "no readable safetensors"),
    "a pickle": (b"\x80\x02}q\x00.", "no readable safetensors"),
    "no tensors": (save({}), "no tensors"),
    "other tensors": (save({"conv.weight": ONE}), "no factor of a LoRA layer"),
    "down alone": (save({U[0]: ONE}), "cannot stand alone"),
    "up alone": (save({U[1]: TWO}), "no factor of a LoRA layer"),
    "kohya's up alone": (save({K[1]: TWO}), "cannot stand alone"),
    "kohya's alpha alone": (save({"lora_unet_conv_in.alpha": torch.tensor(1.0)}), "is missing"),
    "two ranks": (save({U[0]: ONE, U[1]: torch.ones(4, 3)}), "do not have one rank"),
    "vectors": (save({U[0]: torch.ones(2), U[1]: torch.ones(2)}), "expected two matrices"),
    "rank zero": (save({U[0]: torch.ones(0, 3), U[1]: torch.ones(4, 0)}), "expected two matrices"),
    "integers": (save({U[0]: ONE.int(), U[1]: TWO.int()}), "no floating point"),
    "not a number": (save({U[0]: ONE * math.nan, U[1]: TWO}), "a NaN or an infinity"),
    "an infinite alpha": (save({K[0]: ONE, K[1]: TWO, "lora_unet_conv_in.alpha": torch.tensor(math.inf)}), "its alpha is inf"),
    "a wide alpha": (save({K[0]: ONE, K[1]: TWO, "lora_unet_conv_in.alpha": torch.ones(2)}), "expected one"),
    "more than a LoRA": (save({U[0]: ONE, U[1]: TWO, "unet.conv_in.weight": ONE}), "no factor of a LoRA layer"),
    "DoRA": (save({U[0]: ONE, U[1]: TWO, "unet.conv_in.lora_magnitude_vector": ONE}), "this is DoRA"),
    "kohya's DoRA": (save({K[0]: ONE, K[1]: TWO, "lora_unet_conv_in.dora_scale": ONE}), "this is DoRA"),
    "LoKr": (save({"lora_unet_conv_in.lokr_w1": ONE}), "this is LoKr"),
    "LoHa": (save({"lora_unet_conv_in.hada_w1_a": ONE}), "this is LoHa"),
    "a bias": (save({U[0]: ONE, U[1]: TWO, "unet.conv_in.lora_B.bias": ONE}), "LoRA with a bias"),
    "two names for one": (save({U[0]: ONE, U[1]: TWO, "unet.conv_in.lora.down.weight": ONE, "unet.conv_in.lora.up.weight": TWO}), "two of its names mean"),
    "two spellings": (save({f"unet.a.{p}attn1.to_q{f}.weight": ONE for p in ("", "processor.") for f in ("_lora.down", "_lora.up")}), "two of its names mean"),
    "no such part": (save({"vae.conv_in.lora_A.weight": ONE, "vae.conv_in.lora_B.weight": TWO}), "none of unet"),
    "both kinds of blocks": (save({f"lora_unet_{n}.lora_{f}.weight": ONE for n in ("down_blocks_0_x", "input_blocks_1_0_x") for f in ("down", "up")}), "mixes names"),
    "no such blocks": (save({f"lora_unet_middle_block_7_x.lora_{f}.weight": ONE for f in ("down", "up")}), "none of SDXL's"),
    "a header that is no JSON": (save({U[0]: ONE, U[1]: TWO}, {"lora_adapter_metadata": "{"}), "cannot be read"),
    "a header of another kind": (save({U[0]: ONE, U[1]: TWO}, {"lora_adapter_metadata": "[1]"}), "cannot be read"),
    "a header that says DoRA": (save({U[0]: ONE, U[1]: TWO}, {"lora_adapter_metadata": '{"unet.use_dora": true}'}), "says use_dora"),
    "peft's without its configuration": (save({P[0]: ONE, P[1]: TWO}), "adapter_config.json: it is missing"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_one_line_that_names_it_and_nothing_is_written(tmp_path: Path, kind: str) -> None:
    data, text = BAD[kind]
    (tmp_path / "bad.safetensors").write_bytes(data)
    with pytest.raises(UserError, match=text) as told:
        convert_adapter(tmp_path / "bad.safetensors", "kohya", tmp_path / "out.safetensors")
    assert str(tmp_path) in str(told.value) and "\n" not in str(told.value)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.safetensors"]


@pytest.mark.parametrize(
    ("config", "text"),
    [("{", "no configuration"), ("[]", "no configuration"), ('{"peft_type": "IA3"}', "method IA3"), ('{"use_dora": true, "lora_alpha": 1}', "says use_dora"), ('{"lora_alpha": "x"}', "no configuration"), ('{"lora_alpha": 1, "alpha_pattern": 3}', "no configuration")],
)  # fmt: skip
def test_a_bad_configuration_of_peft_is_one_line(tmp_path: Path, config: str, text: str) -> None:
    save_file({P[0]: ONE, P[1]: TWO}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(config)
    with pytest.raises(UserError, match=text):
        read_adapter(tmp_path)


def test_places_that_are_not_right_are_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    adapter = tmp_path / "good.safetensors"
    adapter.write_bytes(GOOD)
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("mine")
    for to, out, force, text in (
        ("kohya", "mine", False, "is not overwritten"),
        ("peft", "full", False, "is not overwritten"),
        ("peft", "mine", False, "is not overwritten"),
        ("kohya", "full", True, "it is a folder"),
        ("peft", "mine", True, "it is a file"),
        ("kohya", "mine/x", False, "cannot be written"),
        ("gguf", "x", False, "allowed are kohya, diffusers, peft"),
    ):
        with pytest.raises(UserError, match=text):
            convert_adapter(adapter, to, tmp_path / out, force)
    for missing, text in (
        ("nowhere", "no such file"),
        ("full", "there is no pytorch_lora_weights"),
        ("x.bin", "pickle"),
    ):
        (tmp_path / "x.bin").write_bytes(b"\x80")
        with pytest.raises(UserError, match=text):
            convert_adapter(tmp_path / missing, "kohya", tmp_path / "out")
    assert (tmp_path / "mine").read_text() == "mine" and (tmp_path / "full" / "a").read_text() == "mine"
    convert_adapter(adapter, "kohya", tmp_path / "mine", force=True)
    assert set(load_file(tmp_path / "mine")) == {*K, "lora_unet_conv_in.alpha"}
    convert_adapter(tmp_path / "mine", "diffusers", tmp_path / "mine", force=True)
    assert set(load_file(tmp_path / "mine")) == set(U)
