"""A modifier token (Custom Diffusion): a new word of the CLIP text encoders, whose embedding is trained while all others stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from systolora.errors import UserError
from systolora.models.pipeline import PipelineParts, is_clip
from torch import Tensor, nn

from .adapter import settings_header, write_tensors
from .settings import TrainSettings

TOKEN_FILES = {
    "text_encoder": "modifier_token.safetensors",
    "text_encoder_2": "modifier_token_2.safetensors",
}
"""By text encoder: the file with its embedding of the token."""


class TokenEmbedding(nn.Module):
    """An embedding with one row of its own, the only one that is trained: the optimizer never sees the others.

    Attributes:
        frozen: the embedding of all other tokens. row: [width]. token: its number.
    """

    def __init__(self, frozen: nn.Embedding, token: int, row: Tensor) -> None:
        super().__init__()
        self.frozen = frozen
        self.token = token
        self.row = nn.Parameter(row.detach().clone())

    def forward(self, ids: Tensor) -> Tensor:
        """int64 [...] to [..., width]."""
        own = ids == self.token
        return torch.where(own[..., None], self.row, self.frozen(ids.masked_fill(own, 0)))


@dataclass(frozen=True)
class ModifierToken:
    """The token of a run.

    Attributes:
        word: as captions have it. encoders: that know it, by the name of their part. embeddings: theirs.
    """

    word: str
    encoders: dict[str, nn.Module]
    embeddings: dict[str, TokenEmbedding]

    def train(self, captions: Sequence[str]) -> None:
        """Lets the embeddings be trained, also after peft has frozen all that is not its own.

        Raises:
            UserError: if no caption has the token.
        """
        if not any(self.word in caption for caption in captions):
            raise UserError(
                f"--modifier-token {self.word}: no caption has it; write it into the captions, or give --prompt 'photo of a {self.word} ...'"
            )
        for embedding in self.embeddings.values():
            embedding.row.requires_grad_(True)

    def save(self, folder: Path, settings: TrainSettings) -> None:
        """Writes each embedding, [width] under the token's name, as diffusers' `load_textual_inversion` reads it."""
        for name, embedding in self.embeddings.items():
            write_tensors(folder / TOKEN_FILES[name], {self.word: embedding.row}, settings_header(settings))


def add_token(parts: PipelineParts, settings: TrainSettings) -> ModifierToken:
    """Adds the token to the tokenizers of a pipeline, and its embedding to their text encoders, with the initializer's values.

    Raises:
        UserError: for a family that has other text encoders than CLIP, a token that is known already, or an initializer that is no
            single token.
    """
    word, first = settings.modifier_token, settings.initializer_token
    pairs = {encoder: tokenizer for tokenizer, encoder in parts.family.layout.text}
    models = parts.encoders
    if models.keys() != pairs.keys() or not all(map(is_clip, models.values())):
        raise UserError(
            f"--modifier-token {word}: it is for models whose text encoders are all CLIP (Stable Diffusion, XL), and "
            f"{parts.family.layout.title} has T5; leave it out"
        )
    embeddings: dict[str, TokenEmbedding] = {}
    for name, model in models.items():
        tokenizer: Any = getattr(parts.pipe, pairs[name])
        begin = _known(tokenizer, first)
        if len(begin) != 1:
            raise UserError(
                f"--initializer-token {first}: it is no single token of the model's {pairs[name]}; give a word that is one"
            )
        if len(_known(tokenizer, word)) == 1 or not tokenizer.add_tokens(word):
            raise UserError(f"--modifier-token {word}: the model's {pairs[name]} has that token; give another name")
        frozen, token = model.get_input_embeddings(), tokenizer.convert_tokens_to_ids(word)
        embeddings[name] = TokenEmbedding(frozen, token, frozen.weight[begin[0]])
        model.set_input_embeddings(embeddings[name])
        model.config.vocab_size = max(model.config.vocab_size, token + 1)
    return ModifierToken(word, models, embeddings)


def _known(tokenizer: Any, word: str) -> list[int]:
    """The tokens of a word, without the one that stands for what is not known."""
    ids = tokenizer(word, add_special_tokens=False).input_ids
    return [token for token in ids if token != tokenizer.unk_token_id]
