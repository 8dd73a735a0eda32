"""The untrained parts of the demo model: autoencoder, tokenizer, text encoder, U-Net, noise schedule.

Each is an ordinary class of diffusers or transformers, only small, so that every diffusers program loads the
trained folder. Sizes were chosen so that the whole model trains in minutes on one CPU core
(docs/demo_model.md).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diffusers import AutoencoderTiny, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import ByteLevel, Whitespace
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

LATENT_CHANNELS = 4
LATENT_SIZE = 8
"""Latents are [batch, 4, 8, 8]: half the picture's width and height."""

TEXT_WIDTH = 64
PROMPT_TOKENS = 24
"""Long enough for a full caption whose shape is an unknown word, spelled letter by letter."""

_START, _END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"


def make_autoencoder() -> AutoencoderTiny:
    """[batch, 3, 16, 16] <-> [batch, 4, 8, 8], without normalization layers.

    AutoencoderTiny, because the group normalization of AutoencoderKL needs several times the steps to learn
    flat colours.
    """
    return AutoencoderTiny(
        in_channels=3,
        out_channels=3,
        encoder_block_out_channels=(24, 24),
        decoder_block_out_channels=(24, 24),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        latent_channels=LATENT_CHANNELS,
        scaling_factor=1.0,
        latent_magnitude=3,
    )


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A CLIP text model of width 64 with 2 layers for this tokenizer's vocabulary."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=PROMPT_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def make_unet() -> UNet2DConditionModel:
    """A U-Net of two levels, 32 and 64 channels, with cross-attention on both and in the middle."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=(32, 64),
        norm_num_groups=16,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
    )


def make_noise_schedule() -> DDPMScheduler:
    """Stable Diffusion's schedule: 1,000 steps, scaled-linear betas, the noise itself is predicted."""
    return DDPMScheduler(**_schedule(), clip_sample=False)


def make_sampler() -> DDIMScheduler:
    """The same schedule for generating, with the settings that StableDiffusionPipeline expects."""
    return DDIMScheduler(**_schedule(), clip_sample=False, set_alpha_to_one=False, steps_offset=1)


def _schedule() -> dict[str, Any]:
    return {
        "num_train_timesteps": 1000,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "prediction_type": "epsilon",
    }


def make_tokenizer(folder: Path, captions: Iterable[str]) -> CLIPTokenizer:
    """A byte-pair tokenizer learned from the captions, in CLIP's format.

    Writes CLIP's two files, `vocab.json` and `merges.txt`, into `folder`. Every byte is in the vocabulary, as
    a letter and as a word's last letter, so any text can be encoded: the words of the captions become one token
    each, other words are spelled out.
    """
    merges = _learn_merges(captions)
    letters = sorted(ByteLevel.alphabet())
    words = letters + [letter + _WORD_END for letter in letters]
    words += [first + second for first, second in merges] + [_START, _END]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary_file, merges_file = folder / "vocab.json", folder / "merges.txt"
    vocabulary_file.write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{first} {second}" for first, second in merges)]
    merges_file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return CLIPTokenizer(str(vocabulary_file), str(merges_file), model_max_length=PROMPT_TOKENS)


def _learn_merges(captions: Iterable[str]) -> list[tuple[str, str]]:
    """The byte-pair merges, most frequent first, that build each word of the captions from its letters."""
    learner = Tokenizer(BPE(end_of_word_suffix=_WORD_END))
    learner.normalizer = Lowercase()
    learner.pre_tokenizer = Whitespace()
    trainer = BpeTrainer(vocab_size=1200, end_of_word_suffix=_WORD_END, show_progress=False)
    learner.train_from_iterator(captions, trainer)
    merges = json.loads(learner.to_str())["model"]["merges"]
    # Older releases of tokenizers write a merge as one string, newer ones as a pair.
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in merges)
    return [(first, second) for first, second in pairs]
