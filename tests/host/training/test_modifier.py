"""A modifier token: its embedding alone is trained, goes on with the same bits, and loads in plain diffusers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from systolora.errors import UserError
from systolora.models.sources import load_model
from systolora.training.adapter import ADAPTER_FILE
from systolora.training.modifier import TOKEN_FILES
from systolora.training.settings import TrainSettings, check_settings
from systolora.training.trainer import Trainer

from ..models.tiny_families import SIDE, make_family

WORD = "<new1>"


@pytest.fixture
def settings(tmp_path: Path) -> TrainSettings:
    data = tmp_path / "pictures"
    data.mkdir()
    random = np.random.default_rng(0)
    for number, caption in enumerate((f"a {WORD} heart", "a blue star")):
        Image.fromarray(random.integers(0, 256, (9, 9, 3), np.uint8)).save(data / f"{number}.png")
        (data / f"{number}.txt").write_text(caption)
    return TrainSettings(
        model=str(make_family("sd", tmp_path / "sd" / "model")), data=str(data), output=str(tmp_path / "run"), steps=3,
        learning_rate=2e-2, weight_decay=0.1, resolution=SIDE, batch=2, precision="float32", checkpoint_every=2,
        modifier_token=WORD, initializer_token="red", adapt="kv",
        class_prompt="a heart", class_images=2, class_steps=1,
    )  # fmt: skip


def finished(settings: TrainSettings) -> Trainer:
    trainer = Trainer(settings)
    trainer.run()
    return trainer


def written(settings: TrainSettings) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in (ADAPTER_FILE, *TOKEN_FILES.values()):
        path = Path(settings.output) / file
        found |= {f"{file}/{name}": value for name, value in (load_file(path) if path.exists() else {}).items()}
    return found


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_the_row_alone_is_trained_goes_on_with_the_same_bits_and_loads_in_plain_diffusers(
    settings: TrainSettings, tmp_path: Path, family: str
) -> None:
    model = make_family(family, tmp_path / family / "model")
    settings = replace(settings, model=str(model), train_text_encoder=family == "sdxl")
    whole = replace(settings, output=str(tmp_path / "whole"))
    trainer = finished(whole)
    plain = load_model(settings.model).pipe
    pipeline = DiffusionPipeline.from_pretrained(settings.model, local_files_only=True)
    pipeline.load_lora_weights(whole.output, weight_name=ADAPTER_FILE)
    pairs = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
    assert trainer.token is not None and len(trainer.token.embeddings) == (1 if family == "sd" else 2)
    for name, embedding in trainer.token.embeddings.items():
        before = getattr(plain, name).get_input_embeddings().weight
        assert torch.equal(embedding.frozen.weight, before)
        (red,) = plain.tokenizer("red", add_special_tokens=False).input_ids
        assert (embedding.row - before[red]).abs().max() > 1e-3
        parts = {"text_encoder": getattr(pipeline, name), "tokenizer": getattr(pipeline, pairs[name])}
        pipeline.load_textual_inversion(whole.output, weight_name=TOKEN_FILES[name], **parts)
        theirs = parts["text_encoder"].get_input_embeddings().weight
        assert torch.equal(theirs[embedding.token], embedding.row) and torch.equal(theirs[: len(before)], before)

    pictures = []
    trainer.unet.eval()
    for pipe in (trainer.parts.pipe, pipeline, plain):
        pipe.set_progress_bar_config(disable=True)
        random = torch.Generator().manual_seed(0)
        options = {"num_inference_steps": 2, "height": SIDE, "width": SIDE, "output_type": "np"}
        pictures.append(pipe(f"a {WORD} star", generator=random, **options).images)
    assert np.array_equal(pictures[0], pictures[1]) and np.abs(pictures[0] - pictures[2]).max() > 1e-3

    finished(replace(settings, steps=2))
    finished(replace(settings, resume=True))
    expected = written(whole)
    assert len(expected) > 2 and expected.keys() == written(settings).keys()
    assert all(torch.equal(value, expected[name]) for name, value in written(settings).items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modifier_token": "<other>"}, "--modifier-token <other>: no caption has it"),
        ({"modifier_token": "star", "initializer_token": "a"}, "--modifier-token star: the model's tokenizer has that"),
        ({"initializer_token": "\u4e2d"}, "it is no single token of the model's tokenizer"),
        (
            {"initializer_token": "red heart"},
            "--initializer-token red heart: it is no single token of the model's tokenizer",
        ),
        ({"modifier_token": ""}, "--initializer-token red: it goes with --modifier-token"),
        ({"ema": 0.9}, "--ema with --modifier-token"),
        ({"method": "intlora-mul", "class_prompt": ""}, "--modifier-token goes with --method lora, not intlora-mul"),
    ],
)
def test_what_cannot_be_a_token_is_one_line(settings: TrainSettings, change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Trainer(replace(settings, **change))


def test_models_without_clip_are_refused(settings: TrainSettings, tmp_path: Path) -> None:
    model = make_family("pixart-sigma", tmp_path / "pixart" / "model")
    with pytest.raises(UserError, match="whose text encoders are all CLIP"):
        Trainer(check_settings(replace(settings, model=str(model))))
