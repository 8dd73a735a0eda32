"""Settings of a modifier token; `TrainSettings` has them too."""

from __future__ import annotations

from dataclasses import dataclass

from systolora.options import setting

_TOKEN = "Modifier token"
"""Heading of the help."""


@dataclass(frozen=True)
class TokenSettings:
    """A word of its own for the subject, whose embedding is trained (Custom Diffusion)."""

    modifier_token: str = setting(
        "", "a new word, such as <new1>, whose embedding is trained too; captions must have it", group=_TOKEN
    )
    initializer_token: str = setting("ktn", "the token whose embedding it begins with", group=_TOKEN)
