"""TensorBoard, and the other trackers that accelerate knows, for the figures and pictures of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from systolora.errors import UserError

from .settings import TrainSettings

NONE = "none"
DEFAULT = "tensorboard"
FOLDER = "tensorboard"


def tracker_names(settings: TrainSettings) -> list[str]:
    """The trackers that the settings ask for.

    Raises:
        UserError: for one that accelerate does not know.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    names = [name for part in settings.report_to.split(",") if (name := part.strip()) and name != NONE]
    unknown = [name for name in names if name not in LOGGER_TYPE_TO_CLASS]
    if unknown:
        raise UserError(f"--report-to {unknown[0]}: allowed are none, {', '.join(map(str, LOGGER_TYPE_TO_CLASS))}")
    return names


class Trackers:
    """The trackers of one run.

    Args:
        start: steps that were done before.

    Attributes:
        names: of those that are written to. notes: what the user should know, a line each.

    Raises:
        UserError: for a tracker that was asked for by name and is not installed.
    """

    def __init__(self, settings: TrainSettings, start: int = 0) -> None:
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

        PartialState(cpu=True)  # accelerate's log asks it which process this is
        self.notes: list[str] = []
        self.names: list[str] = []
        self._trackers: list[Any] = []
        available = {str(getattr(name, "value", name)) for name in get_available_trackers()}
        for name in tracker_names(settings):
            if name in available:
                self.names.append(name)
                self._trackers.append(self._open(LOGGER_TYPE_TO_CLASS[name], name, settings, start))
            elif settings.report_to == DEFAULT:
                self.notes.append("TensorBoard is not installed, so no log is written for it: pip install tensorboard")
            else:
                raise UserError(f"--report-to {name}: its Python package is not installed; install it, or leave it out")

    def _open(self, kind: Any, name: str, settings: TrainSettings, start: int) -> Any:
        output = Path(settings.output)
        if name == DEFAULT:
            tracker = kind(FOLDER, str(output), purge_step=start)  # what came after the checkpoint is gone
        elif kind.requires_logging_directory:
            tracker = kind(output.name or "run", str(output))
        else:
            tracker = kind(output.name or "run")
        tracker.main_process_only = False  # only the first process has trackers
        if hasattr(tracker, "start"):
            tracker.start()
        if name != DEFAULT:  # run.json has the settings; TensorBoard would make a second log of them
            tracker.store_init_configuration(settings.as_dict())
        return tracker

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Figures of a step."""
        for tracker in self._trackers:
            tracker.log(dict(values), step=step)

    def log_pictures(self, prompts: list[str], paths: list[Path], step: int) -> None:
        """Validation pictures of a step, for trackers that take pictures."""
        import numpy as np
        from PIL import Image

        for tracker in self._trackers:
            if hasattr(tracker, "log_images"):
                pictures = {}
                for prompt, path in zip(prompts, paths, strict=True):
                    with Image.open(path) as picture:
                        pictures[prompt] = np.asarray(picture.convert("RGB"))[None]
                options = {"dataformats": "NHWC"} if tracker.name == DEFAULT else {}
                tracker.log_images(pictures, step=step, **options)

    def close(self) -> None:
        """Writes out what they hold."""
        for tracker in self._trackers:
            tracker.finish()
        self._trackers = []
