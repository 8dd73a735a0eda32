"""Settings of what pictures are taken and how they are cut; `TrainSettings` has them too."""

from __future__ import annotations

from dataclasses import dataclass

from systolora.options import setting

DATA = "Model and pictures"
"""Heading of the help."""


@dataclass(frozen=True)
class DataSettings:
    """Which pictures are taken, which part of each, and where what was encoded is kept."""

    subfolders: bool = setting(False, "take the pictures of folders inside the data folder too", group=DATA)
    repeats: str = setting(
        "",
        "how often pictures of a folder in the data folder come in an epoch: cats=10,dogs=2, or names (10_cats comes ten times); "
        "goes with subfolders",
        group=DATA,
    )
    on_broken: str = setting(
        "stop",
        "what a picture that cannot be read does: stop the run, or skip it",
        group=DATA,
        choices=("stop", "skip"),
    )
    buckets: bool = setting(
        False, "keep the shape of pictures: sizes with about the pixels of the square, batches of one size", group=DATA
    )
    random_crops: int = setting(
        0, "crops at random places of each picture; 0 takes the centre", group=DATA, least=0, most=64
    )
    cache_dir: str = setting("", "folder that keeps encoded pictures and captions for the next run", group=DATA)
    split: str = setting("train", "of a Hugging Face data set", group=DATA)
    image_column: str = setting("image", "of a Hugging Face data set: the pictures", group=DATA)
    caption_column: str = setting("text", "of a Hugging Face data set: the captions", group=DATA)
