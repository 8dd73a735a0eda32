"""Captions into embeddings: their longest length, and models whose parts do not go together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from systolora.errors import UserError
from systolora.models.encoding import caption_lengths, caption_limit, encode_captions
from systolora.models.pipeline import PipelineParts, load_parts

from .stored_forms import copy_of_the_pipeline

LONG = "a red heart on a blue background " * 20


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> PipelineParts:
    return load_parts(copy_of_the_pipeline(tmp_path_factory.mktemp("model") / "plain"))


def test_a_tokenizer_without_a_length_takes_that_of_the_text_encoder(tmp_path: Path, parts: PipelineParts) -> None:
    folder = copy_of_the_pipeline(tmp_path / "model")
    path = folder / "tokenizer" / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["model_max_length"]
    path.write_text(json.dumps(config))
    without = load_parts(folder)
    assert without.tokenizer.model_max_length > 10**20
    assert caption_limit(without.tokenizer, without.text_encoder) == 24
    captions = ["a red heart", LONG, ""]
    found = encode_captions(without.tokenizer, without.text_encoder, captions)
    assert torch.equal(found, encode_captions(parts.tokenizer, parts.text_encoder, captions))


def test_a_tokenizer_that_promises_more_than_the_text_encoder_has_is_cut(parts: PipelineParts) -> None:
    parts.tokenizer.model_max_length = 4096
    try:
        assert encode_captions(parts.tokenizer, parts.text_encoder, [LONG]).shape == (1, 24, 64)
    finally:
        parts.tokenizer.model_max_length = 24


def test_lengths_are_those_before_cutting(parts: PipelineParts) -> None:
    caption = "a red heart on a blue background"
    empty, one, twenty = caption_lengths(parts.tokenizer, ["", caption, f"{caption} " * 20])
    assert empty == 2 and twenty - empty == 20 * (one - empty) > 100


def test_same_captions_have_the_same_row(parts: PipelineParts) -> None:
    found = encode_captions(parts.tokenizer, parts.text_encoder, ["a heart", "a star", "a heart"])
    assert torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])


def test_a_tokenizer_of_another_model_is_named(parts: PipelineParts) -> None:
    known = parts.text_encoder.config.vocab_size
    parts.text_encoder.config.vocab_size = 100
    try:
        with pytest.raises(UserError, match="its tokenizer gives token 602, where its text encoder knows 100"):
            encode_captions(parts.tokenizer, parts.text_encoder, ["a heart"])
    finally:
        parts.text_encoder.config.vocab_size = known


def test_a_text_encoder_that_gives_nan_is_named(tmp_path: Path) -> None:
    parts = load_parts(copy_of_the_pipeline(tmp_path / "model"))
    with torch.no_grad():
        parts.text_encoder.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(UserError, match="its text encoder gives values that are not finite for 'a heart'"):
        encode_captions(parts.tokenizer, parts.text_encoder, ["a heart"])
