"""What is adapted and how: layers by name and pattern, text encoders, prior preservation."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, FluxTransformer2DModel
from peft.tuners.lora.layer import LoraLayer
from PIL import Image
from safetensors.torch import load_file
from systolora.errors import UserError
from systolora.models.pipeline import PipelineParts, load_parts
from systolora.offloading.targets import layer_names
from systolora.training.adapted import adapted_names, target_modules
from systolora.training.adapter import ADAPTER_FILE
from systolora.training.batches import draw_batch
from systolora.training.patterns import split_patterns
from systolora.training.settings import TrainSettings, check_settings
from systolora.training.trainer import Trainer

from ..models.tiny_families import SIDE, make_family

STEPS = 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_family("sd", tmp_path_factory.mktemp("sd") / "model")


@pytest.fixture(scope="module")
def flux() -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=1,
        joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip


@pytest.fixture
def settings(model: Path, tmp_path: Path) -> TrainSettings:
    data = tmp_path / "pictures"
    data.mkdir()
    random = np.random.default_rng(0)
    for number, caption in enumerate(("a red heart", "a blue star")):
        Image.fromarray(random.integers(0, 256, (9, 9, 3), np.uint8)).save(data / f"{number}.png")
        (data / f"{number}.txt").write_text(caption)
    return TrainSettings(
        model=str(model),
        data=str(data),
        output=str(tmp_path / "run"),
        steps=STEPS,
        learning_rate=2e-2,
        precision="float32",
        checkpoint_every=2,
    )


def finished(settings: TrainSettings, parts: PipelineParts | None = None) -> Trainer:
    trainer = Trainer(settings, parts)
    trainer.run()
    return trainer


def adapter_of(settings: TrainSettings) -> dict[str, torch.Tensor]:
    return load_file(Path(settings.output) / ADAPTER_FILE)


def with_adapter(model: Path, settings: TrainSettings) -> Any:
    pipeline = DiffusionPipeline.from_pretrained(str(model), local_files_only=True)
    pipeline.load_lora_weights(settings.output, weight_name=ADAPTER_FILE)
    return pipeline


@pytest.mark.parametrize(
    ("adapt", "expected"),
    [
        ("kv", ["transformer_blocks.0.attn.add_k_proj", "transformer_blocks.0.attn.add_v_proj"]),
        ("add_q_proj,to_add_out", ["transformer_blocks.0.attn.to_add_out", "transformer_blocks.0.attn.add_q_proj"]),
        ("single_transformer_blocks.*.proj_*", [f"single_transformer_blocks.0.proj_{name}" for name in ("mlp", "out")]),
        (r"re:transformer_blocks\.\d+\.ff\..*", [f"transformer_blocks.0.ff.net.{name}" for name in ("0.proj", "2")]),
        ("single_transformer_blocks.0.attn.to_q", ["single_transformer_blocks.0.attn.to_q"]),
    ],
)
def test_layers_are_named_by_choice_ending_wildcard_or_expression(
    flux: FluxTransformer2DModel, adapt: str, expected: list[str]
) -> None:
    assert sorted(adapted_names(flux, adapt)) == sorted(expected)


def test_the_named_choices_are_those_of_targets_and_all_takes_convolutions(
    flux: FluxTransformer2DModel, model: Path
) -> None:
    unet = load_parts(model).unet
    for module in (flux, unet):
        for choice in ("kv", "attention", "linear"):
            assert set(adapted_names(module, choice)) == layer_names(module, choice)
    convolutions = set(adapted_names(unet, "all")) - set(adapted_names(unet, "linear"))
    assert {"conv_in", "down_blocks.0.resnets.0.conv1"} <= convolutions


def test_usual_choices_stay_short_for_peft_and_others_are_told_in_full(flux: Any, model: Path) -> None:
    unet = load_parts(model).unet
    layers = [name for name, _ in unet.named_modules()]
    assert target_modules(adapted_names(unet, "kv"), layers) == ["attn2.to_k", "attn2.to_v"]
    assert target_modules(adapted_names(unet, "attention"), layers) == ["to_q", "to_k", "to_v", "to_out.0"]
    assert target_modules(["b", "a"], ["a", "b", "a.c"]) == ["a", "b"]


@pytest.mark.parametrize(
    ("adapt", "message"),
    [
        ("*.nothing", r"--adapt \*.nothing: no Linear or convolution of the model, a FluxTransformer2DModel"),
        ("to_q,no_such", "--adapt no_such: .* patterns of names such as"),
        ("to_q,", "an empty pattern"),
        ("re:(", "it is no regular expression"),
        ("attenton", "allowed are kv, attention, linear, all, or patterns"),
    ],
)
def test_a_pattern_that_means_nothing_is_one_line(flux: FluxTransformer2DModel, adapt: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        adapted_names(flux, adapt)


def test_commas_belong_to_a_regular_expression() -> None:
    assert split_patterns("re:a{1,2}") == ["re:a{1,2}"]
    assert split_patterns("to_q, to_k") == ["to_q", "to_k"]


def test_adapters_on_every_layer_train_and_load_in_plain_diffusers(settings: TrainSettings, model: Path) -> None:
    trainer = finished(replace(settings, steps=1, adapt="all", targets="all", precision="int8"))
    assert ("conv_in", "an adapted Conv2d is not supported") in trainer.handle.report().skipped
    adapted = {name for name, module in trainer.unet.named_modules() if isinstance(module, LoraLayer)}
    assert adapted == set(adapted_names(load_parts(model).unet, "all"))
    trainer.close()
    loaded = with_adapter(model, settings).unet.eval()
    batch = draw_batch(trainer.data, settings, trainer.objective.draw_times, 0, 0)
    with torch.no_grad():
        losses = [trainer.objective.loss(unet, batch).item() for unet in (trainer.unet.eval(), loaded)]
        plain = trainer.objective.loss(load_parts(model).unet, batch).item()
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and abs(plain - losses[0]) > 1e-4


@pytest.mark.parametrize(
    "name", ["sd", "sdxl", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sd3", "flux-dev"))]
)
def test_text_encoders_are_adapted_go_on_with_the_same_bits_and_load_in_plain_diffusers(
    settings: TrainSettings, tmp_path: Path, name: str
) -> None:
    folder = make_family(name, tmp_path / name / "model")
    settings = replace(settings, model=str(folder), train_text_encoder=True, resolution=SIDE, caption_dropout=0.3)
    whole = replace(settings, output=str(tmp_path / "whole"))
    trainer = finished(whole)
    encoders = ["text_encoder"] if name in ("sd", "flux-dev") else ["text_encoder", "text_encoder_2"]
    assert list(trainer.text) == encoders
    stopped = Trainer(replace(settings, steps=2))
    stopped.run()
    finished(replace(settings, resume=True))
    expected = adapter_of(whole)
    assert all(torch.equal(value, expected[key]) for key, value in adapter_of(settings).items())
    for encoder in encoders:
        ups = [
            value
            for key, value in expected.items()
            if key.startswith(f"{encoder}.text_model.") and "up" in key.replace("lora_B", "up")
        ]
        assert any(value.any() for value in ups)  # the last layer of some is not used
    captions = ["a red heart"]
    with torch.no_grad():
        trained = trainer.parts.family.encode(trainer.parts, captions)
        loaded = replace(load_parts(folder), pipe=(pipeline := with_adapter(folder, whole)))
        loaded = replace(loaded, text_encoder=pipeline.text_encoder)
        found = loaded.family.encode(loaded, captions)
        plain = load_parts(folder).encode(captions)
    for key in ("text", "pooled") if name != "sd" else ("text",):
        torch.testing.assert_close(found[key], trained[key], rtol=1e-4, atol=1e-5)
    changed = "pooled" if name == "flux-dev" else "text"
    assert (plain[changed] - trained[changed]).abs().max() > 1e-3


def test_a_family_without_clip_has_no_text_encoder_to_train(settings: TrainSettings, tmp_path: Path) -> None:
    folder = make_family("pixart-sigma", tmp_path / "model")
    with pytest.raises(UserError, match="--train-text-encoder: PixArt-Alpha and Sigma has no CLIP text encoder"):
        Trainer(replace(settings, model=str(folder), train_text_encoder=True, resolution=SIDE))


@pytest.fixture
def prior(settings: TrainSettings) -> TrainSettings:
    return replace(settings, class_prompt="a star", class_images=3, class_steps=1, prior_weight=0.5)


def test_pictures_of_the_class_are_generated_when_missing_and_weigh_in_the_loss(
    prior: TrainSettings, model: Path
) -> None:
    parts = load_parts(model)
    own = replace(parts, unet=copy.deepcopy(parts.unet))
    trainer = Trainer(prior, own)
    folder = Path(prior.output) / "class_pictures"
    pictures = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    assert (
        list(pictures) == ["class-00000.png", "class-00001.png", "class-00002.png"] and len(set(pictures.values())) == 3
    )
    assert any("3 pictures of 'a star' were generated" in note for note in trainer.notes)
    assert trainer.prior and trainer.prior.captions == ("a star",) * 3
    batches = [
        draw_batch(data, prior, trainer.objective.draw_times, 0, 0, kind)
        for data, kind in ((trainer.data, ""), (trainer.prior, "class "))
    ]
    with torch.no_grad():
        losses = [trainer.objective.loss(trainer.unet, batch).item() for batch in batches]
    assert trainer.step(0).loss == pytest.approx(losses[0] + 0.5 * losses[1], rel=1e-6)
    trainer.close()
    # One that is lost is made again with the same bits; those that are there stay.
    (folder / "class-00001.png").unlink()
    (folder / "class-00002.png").write_bytes(pictures["class-00000.png"])
    again = Trainer(prior, replace(parts, unet=copy.deepcopy(parts.unet)))
    again.close()
    assert (folder / "class-00001.png").read_bytes() == pictures["class-00001.png"]
    assert (folder / "class-00002.png").read_bytes() == pictures["class-00000.png"]


def test_a_run_with_a_prior_goes_on_with_the_same_bits_and_refuses_other_pictures_of_the_class(
    prior: TrainSettings, tmp_path: Path
) -> None:
    prior = replace(prior, class_data=str(tmp_path / "class"))
    whole = replace(prior, output=str(tmp_path / "whole"))
    finished(whole)
    finished(replace(prior, steps=2))
    finished(replace(prior, resume=True))
    assert all(torch.equal(value, adapter_of(whole)[key]) for key, value in adapter_of(prior).items())
    Image.new("RGB", (8, 8), "red").save(tmp_path / "class" / "class-00001.png")
    with pytest.raises(UserError, match="changed: class/class-00001.png"):
        Trainer(replace(prior, resume=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_images": 5}, "--class-images 5: it goes with --class-prompt"),
        ({"class_data": "x"}, "--class-data x: it goes with --class-prompt"),
        ({"method": "dora"}, "--method 'dora': the device has no step for DoRA's magnitudes"),
        ({"method": "intlora-mul", "precision": "int8", "rslora": True}, "--rslora goes with --method lora"),
        ({"method": "intlora-mul", "precision": "int8", "train_text_encoder": True}, "--train-text-encoder goes with"),
    ],
)
def test_settings_that_do_not_go_together_are_one_line(
    settings: TrainSettings, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_settings(replace(settings, **changes))
