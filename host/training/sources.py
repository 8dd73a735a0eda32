"""Where pictures and captions come from: a folder of picture files, or a data set of Hugging Face's `datasets` on disk."""

from __future__ import annotations

from pathlib import Path

from .captions import CaptionedPicture, find_pictures, folder_notes
from .dataset_folder import find_rows, is_dataset
from .settings import TrainSettings


def find_data(folder: Path, settings: TrainSettings) -> tuple[list[CaptionedPicture], list[str]]:
    """(pictures, notes for the user) of a data folder.

    Raises:
        UserError: for a folder, a list of captions or a data set that cannot be used.
    """
    if is_dataset(folder):
        return find_rows(folder, settings), []
    pictures = find_pictures(folder, settings.prompt, settings.subfolders or bool(settings.repeats))
    return pictures, folder_notes(folder, pictures)
