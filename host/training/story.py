"""What a run leaves for people to see: run.json, its page, validation pictures, trackers, adapters on the way.

Nothing here changes what is trained, and nothing that cannot be written ends a run.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from systolora.errors import UserError
from systolora.models.pipeline import PipelineParts

from .adapter import public_settings
from .batches import EncodedPictures
from .folder import ADAPTERS
from .reports import StepReport
from .run_page import PageFacts, write_page
from .run_record import FAILED, FINISHED, INTERRUPTED, RUNNING, now, read_log, versions, write_run, write_settings
from .settings import TrainSettings
from .trackers import Trackers
from .validation import draw_validation, drawn_steps, is_due, prompts_of

_TRACKED = ("loss", "learning_rate", "seconds", "device_seconds")


@dataclass
class RunStory:
    """Tells of one run; only the process that holds the folder has one.

    Attributes:
        start: steps that were done before. fingerprint: of the data. report: gives what ran where so far. save: writes the adapter into a
            folder. say: tells the user something on the way. forecast: name and value of what a cost model says of a step.
    """

    settings: TrainSettings
    parts: PipelineParts
    data: EncodedPictures
    start: int
    fingerprint: str
    report: Callable[[], str]
    save: Callable[[Path], Any]
    say: Callable[[str], None]
    forecast: Sequence[tuple[str, str]] = ()
    clock: Callable[[], float] = time.monotonic
    _trackers: Trackers | None = None
    _facts: dict[str, Any] = field(default_factory=dict)
    _saved_at: float = 0.0

    @property
    def output(self) -> Path:
        """The run's folder."""
        return Path(self.settings.output)

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Around a run: says that it runs, and then how it ended.

        Raises:
            UserError: for a tracker that there is not.
        """
        self._trackers = Trackers(self.settings, self.start)
        self._saved_at = self.clock()
        self._facts = {
            "state": RUNNING,
            "message": "",
            "started": now(),
            "resumed_from": self.start,
            "settings": {**public_settings(self.settings), "resume": False},
            "versions": versions(),
            "trackers": self._trackers.names,
            "notes": self._trackers.notes,
            "data": {"pictures": self.data.count, "skipped": self.data.skipped, "fingerprint": self.fingerprint},
        }
        try:
            self._write(RUNNING)
            if self.start < self.settings.steps:
                self._draw(self.start)
            yield
            self._write(FINISHED)
        except KeyboardInterrupt as stop:
            self._write(INTERRUPTED, str(stop))
            raise
        except BaseException as error:
            self._write(FAILED, " ".join(str(error).split()) or type(error).__name__)
            raise
        finally:
            self._trackers.close()

    def checkpoint_is_due(self) -> bool:
        """Whether so many minutes went by since the last checkpoint, or the beginning."""
        minutes = self.settings.checkpoint_minutes
        return minutes > 0 and self.clock() - self._saved_at >= 60 * minutes

    def step(self, report: StepReport, saved: bool) -> None:
        """After a step; `saved` says whether a checkpoint was written."""
        assert self._trackers is not None
        done = report.step
        self._trackers.log({name: getattr(report, name) for name in _TRACKED}, done)
        every = self.settings.adapter_every
        if every and done % every == 0:
            self._keep_adapter(done)
        drawn = self._draw(done)
        if saved:
            self._saved_at = self.clock()
        if (saved or drawn) and done < self.settings.steps:
            self._write(RUNNING)

    def _keep_adapter(self, step: int) -> None:
        with self._going_on(f"the adapter of step {step} is"):
            try:
                self.save(self.output / ADAPTERS / f"step-{step:07d}")
            except UserError as error:  # it is all zero still
                self.say(f"no adapter of step {step} is kept: {error}")

    def _draw(self, step: int) -> bool:
        if not is_due(self.settings, step):
            return False
        assert self._trackers is not None
        with self._going_on(f"the validation pictures of step {step} are"):
            paths = draw_validation(self.parts, self.settings, step)
            self._trackers.log_pictures(prompts_of(self.settings), paths, step)
        return True

    def _write(self, state: str, message: str = "") -> None:
        facts = {**self._facts, "state": state, "message": message, "updated": now()}
        report = self.report()
        # On the way the next one makes up for one that fails, and the checkpoint beside it has told of the disk.
        with contextlib.suppress(OSError) if state == RUNNING else self._going_on("run.json and the page are"):
            write_settings(self.output, {key: value for key, value in facts["settings"].items() if key != "model"})
            write_run(self.output, {**facts, "report": report})
            drawn, rows = drawn_steps(self.output), read_log(self.output)
            write_page(
                self.output, PageFacts(facts, rows, prompts_of(self.settings), drawn, report, tuple(self.forecast))
            )

    @contextlib.contextmanager
    def _going_on(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.say(f"{self.output} cannot be written ({error.strerror or error}): {what} not written; going on")
