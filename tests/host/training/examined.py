"""A look at pictures as a run takes it before it encodes any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from systolora.training.captions import CaptionedPicture
from systolora.training.pictures import examine_pictures, refuse_broken, several_note


def check_pictures(pictures: Sequence[Path | CaptionedPicture]) -> list[str]:
    """Refuses broken ones; returns what is said of the others."""
    findings = examine_pictures(pictures)
    refuse_broken(findings)
    return several_note(findings)
