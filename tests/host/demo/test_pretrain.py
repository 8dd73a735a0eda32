"""The recipe of the demo model: a quick run goes through every stage; the model that ships is as good as stated."""

import json
import random

import numpy as np
import pytest
import torch
import typer
from safetensors import safe_open
from systolora.assets import judge_file, pipeline_folder
from systolora.demo.judge import load_judge
from systolora.demo.pretrain import PretrainConfig, PretrainResult, pretrain, pretrain_command
from systolora.demo.sampling import generate_pictures, load_sprite_pipeline, pictures_to_tensor, tensor_to_pictures
from systolora.demo.sprite_model import PROMPT_TOKENS, make_tokenizer
from systolora.demo.sprites import CONCEPTS, make_sprites
from systolora.libraries import quiet_libraries
from typer.testing import CliRunner

PROMPT_BOUND = 0.97
"""Least share of generated pictures whose shape, colour and background are what the prompt asks for."""


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> PretrainResult:
    return pretrain(PretrainConfig.quick(), tmp_path_factory.mktemp("quick"), lambda line: None)


@pytest.fixture(scope="module", autouse=True)
def quiet():
    quiet_libraries()


@pytest.fixture(scope="module")
def shipped():
    return load_sprite_pipeline(pipeline_folder())


def _weights(folder, part):
    (path,) = (folder / part).glob("*.safetensors")
    with safe_open(str(path), "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict


def test_a_quick_run_makes_a_pipeline_that_loads_and_draws(quick):
    pipeline = load_sprite_pipeline(quick.pipeline_folder)
    pictures = generate_pictures(pipeline, ["a red star", "nothing"], steps=2)
    assert pictures.shape == (2, 16, 16, 3)
    assert load_judge(quick.judge_file).look(pictures).features.shape == (2, 64)
    assert (quick.pipeline_folder.parent / "samples.png").stat().st_size > 0


def test_weights_are_stored_in_16_bits_and_load_as_float32(quick):
    pipeline = load_sprite_pipeline(quick.pipeline_folder)
    for part in ("unet", "vae", "text_encoder"):
        stored = _weights(quick.pipeline_folder, part)
        loaded = getattr(pipeline, part).state_dict()
        assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
        assert {tensor.dtype for tensor in loaded.values() if tensor.is_floating_point()} == {torch.float32}
        for name, tensor in stored.items():
            assert torch.equal(loaded[name], tensor.float()), name


def test_the_same_seed_makes_the_same_files_and_training_moves_the_weights(quick, tmp_path):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    again = pretrain(PretrainConfig.quick(), tmp_path / "again", lambda line: None)
    assert torch.equal(torch.get_rng_state(), before)
    other = pretrain(PretrainConfig.quick(seed=1), tmp_path / "other", lambda line: None)
    for part in ("unet", "vae", "text_encoder"):
        first, second = _weights(quick.pipeline_folder, part), _weights(again.pipeline_folder, part)
        third = _weights(other.pipeline_folder, part)
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert any(not torch.equal(first[name], third[name]) for name in first)
    assert again.judge_file.read_bytes() == quick.judge_file.read_bytes()


def test_nothing_is_written_over(quick):
    with pytest.raises(ValueError, match="sprite_pipeline exists"):
        pretrain(PretrainConfig.quick(), quick.pipeline_folder.parent, lambda line: None)


@pytest.mark.parametrize("field", ["seed", "denoiser_steps", "denoiser_rate", "pictures"])
def test_a_negative_setting_is_refused(field):
    with pytest.raises(ValueError, match=f"{field} is -1"):
        PretrainConfig(**{field: -1})


def test_zero_steps_and_full_dropout_are_refused():
    with pytest.raises(ValueError, match="autoencoder_steps is 0"):
        PretrainConfig(autoencoder_steps=0)
    for share in ("caption_dropout", "made_up_share"):
        with pytest.raises(ValueError, match=f"{share} is 1"):
            PretrainConfig(**{share: 1})


def test_the_command_writes_a_report(tmp_path):
    app = typer.Typer()
    app.command()(pretrain_command)
    result = CliRunner().invoke(app, ["--out", str(tmp_path / "made"), "--quick"])
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "made" / "pretrain.json").read_text())
    assert figures["config"]["denoiser_steps"] == PretrainConfig.quick().denoiser_steps
    assert set(figures["prompt_accuracy"]) == {"shape", "colour", "background"}


def test_the_tokenizer_knows_its_words_and_spells_others(tmp_path):
    tokenizer = make_tokenizer(tmp_path, make_sprites(500, 0).captions)
    assert tokenizer.tokenize("A red Star") == ["a</w>", "red</w>", "star</w>"]
    for text in ("a big mushroom", "zyx, é 42!", "übermütig"):
        ids = tokenizer(text).input_ids
        assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")
    longest = "a small purple mushroom on a mint background"
    assert len(tokenizer(longest).input_ids) <= PROMPT_TOKENS
    assert (tmp_path / "merges.txt").read_text().startswith("#version: 0.2\n")


def test_pictures_survive_the_way_to_tensors_and_back():
    pictures = make_sprites(4, 0).pictures
    tensor = pictures_to_tensor(pictures)
    assert tensor.dtype == torch.float32 and tensor.shape == (4, 3, 16, 16)
    assert tensor.min() >= -1 and tensor.max() <= 1
    assert np.array_equal(tensor_to_pictures(tensor), pictures)


def test_generating_needs_prompts_and_a_pipeline(tmp_path, shipped):
    with pytest.raises(ValueError, match="no prompts"):
        generate_pictures(shipped, [])
    with pytest.raises(ValueError, match="no model_index.json"):
        load_sprite_pipeline(tmp_path)


def test_the_shipped_files_are_small():
    files = [path for path in (*pipeline_folder().rglob("*"), judge_file()) if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 5_000_000
    names = {path.name for path in (pipeline_folder() / "tokenizer").iterdir()}
    assert {"vocab.json", "merges.txt"} <= names


@pytest.mark.parametrize("guidance", [1.5, 3.0])
def test_the_shipped_model_follows_prompts(shipped, guidance):
    asked = make_sprites(64, 60_000, full_captions=True)
    pictures = generate_pictures(shipped, asked.captions, seed=1, guidance=guidance)
    accuracy = load_judge().prompt_accuracy(pictures, asked.sprites)
    assert min(accuracy.shape, accuracy.colour, accuracy.background) >= PROMPT_BOUND


@pytest.mark.parametrize("concept", CONCEPTS)
def test_the_shipped_model_does_not_know_the_concepts(shipped, concept):
    asked = make_sprites(48, 60_001, (concept,), full_captions=True)
    pictures = generate_pictures(shipped, asked.captions, seed=1)
    judge = load_judge()
    assert judge.concept_share(pictures, concept) <= 0.05
    # The unknown word leaves the rest of the sentence as it is.
    accuracy = judge.prompt_accuracy(pictures, asked.sprites)
    assert min(accuracy.colour, accuracy.background) >= 0.9


def test_a_picture_does_not_depend_on_the_batch(shipped):
    prompts = [f"a {random.Random(i).choice(('red', 'blue'))} star" for i in range(3)]
    together = generate_pictures(shipped, prompts, seed=4, steps=5).astype(int)
    alone = generate_pictures(shipped, prompts[:1], seed=4, steps=5).astype(int)
    # Other batch sizes sum in another order: one level of 256 may differ.
    assert np.abs(together[:1] - alone).max() <= 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_full_recipe_makes_an_equivalent_model(tmp_path):
    result = pretrain(PretrainConfig(seed=1), tmp_path)
    print(result)
    prompts, drawn = result.prompt_accuracy, result.drawn_accuracy
    assert min(prompts.shape, prompts.colour, prompts.background) >= PROMPT_BOUND
    assert min(drawn.shape, drawn.colour, drawn.background) >= 0.99
    assert result.megabytes <= 5
    pipeline = load_sprite_pipeline(result.pipeline_folder)
    for concept in CONCEPTS:
        asked = make_sprites(96, 60_001, (concept,), full_captions=True)
        pictures = generate_pictures(pipeline, asked.captions, seed=1)
        assert load_judge(result.judge_file).concept_share(pictures, concept) <= 0.05
