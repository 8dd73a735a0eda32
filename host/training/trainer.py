"""Fine-tuning of a latent diffusion model with LoRA: `systolora train`, step by step.

One step: draw the micro-batches (a pure function of seed and step), predict, take gradients (GEMMs of the adapted layers run on the
device), clip, AdamW. A checkpoint holds adapter, optimizer and the device's rounding state, so a run that was killed or interrupted
goes on and ends with the same bits.
"""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from systolora.errors import UserError
from systolora.models.pipeline import PipelineParts
from systolora.models.sources import load_model
from systolora.offloading.model import OffloadHandle

from .adapter import AVERAGE_FILE, add_adapter, add_text_adapters, save_adapter
from .batches import Batch, EncodedPictures, draw_batch, encode_data
from .device import offload_for, open_device_for
from .flow import objective_of
from .folder import rescue
from .interrupts import StopFlag, Stopped, signal_name
from .modifier import add_token
from .objective import finite
from .optimization import NotFiniteError, Optimization
from .order import generator
from .parallel import Processes
from .peak_memory import peak_bytes
from .prior import encode_class, make_class_pictures
from .records import Records
from .reports import StepReport, TrainResult
from .run_record import LOG_FILE
from .settings import TrainSettings, check_settings
from .start_adapter import start_from
from .story import RunStory

__all__ = ["LOG_FILE", "StepReport", "TrainResult", "Trainer", "train"]


class Trainer:
    """One fine-tuning run; `run` does it, from the newest checkpoint if the settings say so.

    It holds the output folder, so that no second run writes there, until `run` ends or `close` is called.

    Args:
        parts, device: in place of those that the settings name.
        on_picture: called with (pictures encoded so far, all of them).

    Attributes:
        start: optimizer steps that were done before. notes: what the user should know before the first step, a line each.
        on_note: called with what the user should know on the way.

    Raises:
        UserError: for settings, folders or files that cannot be used.
    """

    def __init__(
        self,
        settings: TrainSettings,
        parts: PipelineParts | None = None,
        device: Any = None,
        on_picture: Callable[[int, int], None] | None = None,
    ) -> None:
        self.settings = check_settings(settings)
        self.output = Path(settings.output)
        self.processes = Processes.current()
        self.handle: Any = None
        self.records = Records(self.settings)
        self._own_device = device is None
        self.device = device
        self.losses: list[float] = []
        self.notes: list[str] = []
        self.story: RunStory | None = None
        self.on_note: Callable[[str], None] = warnings.warn
        try:
            with self.processes.together():
                self._load(parts, on_picture)
            with self.processes.together():  # the first one has made the pictures of the class by now
                self._set_up(on_picture)
        except BaseException:
            self.close()
            raise

    def _load(self, parts: PipelineParts | None, on_picture: Callable[[int, int], None] | None) -> None:
        settings = self.settings
        self.processes.check_batch(settings.batch)
        if self.processes.first:
            self.records.open_folder()
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self.parts = parts or load_model(settings.model, settings.variant, settings.model_config)
        self.objective = objective_of(self.parts, settings)
        self.token = add_token(self.parts, settings) if settings.modifier_token else None
        self.data: EncodedPictures = encode_data(self.parts, settings, on_picture)
        made = settings.class_prompt and self.processes.first
        notes = make_class_pictures(self.parts, settings, on_picture) if made else []
        self.notes += [f"note: {text}" for text in (*self.parts.notes, *self.data.notes, *notes)]

    def _set_up(self, on_picture: Callable[[int, int], None] | None) -> None:
        settings = self.settings
        self.prior = encode_class(self.parts, settings) if settings.class_prompt else None
        self.notes += [f"note: pictures of the class: {text}" for text in self.prior.notes] if self.prior else []
        self.unet = self.parts.unet
        add_adapter(self.unet, settings)
        self.text = add_text_adapters(self.parts, settings) if settings.train_text_encoder else {}
        if settings.init_from:
            start_from({self.parts.family.layout.trained: self.unet, **self.text}, settings)
        if self.token:
            self.token.train(self.data.captions)
        if settings.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        for model in (self.unet, *self.text.values()):
            model.train()
        self.handle = self._offload() if settings.precision == "int8" or settings.method != "lora" else None
        encoders = {**(self.token.encoders if self.token else {}), **self.text}
        self.optimization = Optimization(self.unet, settings, encoders)
        self.notes += self.optimization.notes
        self.start = self._restore()
        if self.processes.first:
            self.records.begin(self.start, self.optimization.bytes)
            self.story = self._story()

    def _story(self) -> RunStory:
        return RunStory(
            self.settings,
            self.parts,
            self.data,
            self.start,
            self.records.fingerprint(),
            self.report,
            self._save,
            lambda text: self.on_note(text),
        )

    def report(self) -> str:
        """What ran where so far."""
        return str(self.handle.report()) if self.handle else "float32: nothing was offloaded"

    def _offload(self) -> Any:
        if self.device is None and self.settings.precision == "int8":
            self.device = open_device_for(self.settings)
        return offload_for(self.unet, self.settings, self.device, self.processes.own_seed(self.settings.seed))

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The adapter's, which are trained."""
        return self.optimization.parameters

    def run(self, on_step: Callable[[StepReport], None] | None = None) -> TrainResult:
        """Trains to the last step, writes the adapter, and returns what came out.

        SIGINT, SIGTERM and SIGHUP end the run between two steps, with a checkpoint; a second one has its usual effect at once.

        Raises:
            UserError: if losses, gradients or weights are not finite; nothing is written then, and the last checkpoint stays. If the
                adapter cannot be written; the text says where it is instead.
            Stopped: for a signal.
        """
        if self.processes.first and not self.records.is_open:
            raise RuntimeError("this trainer has run or was closed: make another, with resume to go on")
        began = time.perf_counter()
        try:
            told = self.story.told() if self.story else contextlib.nullcontext()
            with StopFlag(patience=1 if self.processes.world == 1 else 2) as flag, told:
                for step in range(self.start, self.settings.steps):
                    self._stop_if_asked(flag, step)
                    self._one_step(step, on_step)
                path = rescue(self._save, self.output) if self.processes.first else self.output
        except BaseException:
            self.processes.leave()
            raise
        finally:
            self.records.close()
        averaged = path.with_name(AVERAGE_FILE) if self.optimization.average and self.processes.first else None
        return TrainResult(path, self.losses, time.perf_counter() - began, peak_bytes(), self.report(), averaged)

    def _one_step(self, step: int, on_step: Callable[[StepReport], None] | None) -> None:
        report, done = self.step(step), step + 1
        self.losses.append(report.loss)
        if self.processes.first:
            with self._going_on(f"{LOG_FILE} lacks step {done}"):
                self.records.log(asdict(report))
        saved = self._checkpoint_is_due(done)
        if saved:
            with self._going_on(f"there is no checkpoint of step {done}"):
                self.checkpoint(done)
        if self.story:
            self.story.step(report, saved)
        if on_step:
            on_step(report)

    def _checkpoint_is_due(self, done: int) -> bool:
        every = self.settings.checkpoint_every
        by_time = bool(self.story and self.story.checkpoint_is_due())
        last = self.settings.checkpoints and done == self.settings.steps
        return last or by_time or (every > 0 and done % every == 0)

    @contextlib.contextmanager
    def _going_on(self, consequence: str) -> Iterator[None]:
        """What is written on the way may fail, for a disk that is full for a while, without ending the run."""
        try:
            yield
        except OSError as error:
            self.on_note(f"{self.output} cannot be written ({error.strerror or error}): {consequence}; going on")

    def _stop_if_asked(self, flag: StopFlag, done: int) -> None:
        """Ends the run after `done` steps if this or another process of it got a signal.

        Raises:
            Stopped: with what was saved.
        """
        signum = self.processes.largest(flag.signum)
        if not signum:
            return
        text = f"stopped by {signal_name(signum)} after step {done} of {self.settings.steps}"
        if done == 0:
            text = f"stopped by {signal_name(signum)} before the first step: nothing to save, start it again"
        elif not self.settings.checkpoints and done > self.start:
            text += "; nothing was saved, as --checkpoint-every is 0"
        else:
            try:
                if done > self.start:
                    self.checkpoint(done)
                text += "; go on with --resume"
            except OSError as error:
                text += f"; its checkpoint cannot be written ({error.strerror or error}), {self.records.last()}"
        self.processes.largest(0)  # the others end when it is written, or their launcher would end this one
        raise Stopped(text, signum)

    def step(self, step: int) -> StepReport:
        """One optimizer step; `step` counts from 0.

        Raises:
            UserError: if loss, gradients or new weights are not finite.
        """
        began, on_device = time.perf_counter(), self._device_seconds()
        if self.handle:
            self.handle.step = step
        # For models with dropout: it repeats in a run that goes on.
        random = generator("step", self.settings.seed, step, self.processes.rank)
        torch.default_generator.manual_seed(random.initial_seed())
        try:
            loss = self._gradients(step)
            self.optimization.apply(step)
        except NotFiniteError as error:
            if step == 0 and finite(self.parameters):
                cause = ", before anything was trained: the weights in --model are damaged or overflow"
            else:
                cause = f": lower --learning-rate; {self.records.last()}"
            raise self.processes.told_once(UserError(f"{error}{cause}")) from None
        seconds, rate = time.perf_counter() - began, self.optimization.rate(step)
        return StepReport(step + 1, loss, rate, seconds, self._device_seconds() - on_device)

    def _device_seconds(self) -> float:
        return float(self.handle.device_seconds) if self.handle else 0.0

    def _gradients(self, step: int) -> float:
        """The loss of a step, whose gradients then lie in the parameters."""
        settings, total = self.settings, 0.0
        for micro in range(settings.accumulation):
            if isinstance(self.handle, OffloadHandle):  # micro-batches are not rounded with the same random numbers
                self.handle.step = step * settings.accumulation + micro
            loss = self._loss(draw_batch(self.data, settings, self.objective.draw_times, step, micro))
            if self.prior:
                known = draw_batch(self.prior, settings, self.objective.draw_times, step, micro, "class ")
                loss = loss + settings.prior_weight * self._loss(known)
            (loss / settings.accumulation).backward()
            total += loss.item() / settings.accumulation
        total = self.processes.mean_of(total)
        if not math.isfinite(total):
            raise NotFiniteError(f"the loss of step {step + 1} is {total}")
        self.processes.average_gradients(self.parameters)
        return total

    def _loss(self, batch: Batch) -> torch.Tensor:
        """Of this process's share of a micro-batch."""
        batch = batch.part(self.processes.rank, self.processes.world)
        with torch.autocast(self.parameters[0].device.type, torch.bfloat16, self.settings.mixed_precision == "bf16"):
            return self.objective.loss(self.unet, batch.encoded_anew(self.parts) if self.text or self.token else batch)

    def checkpoint(self, step: int) -> None:
        """Writes the state after `step` steps.

        Raises:
            OSError: if it cannot be written; those that are there stay.
        """
        if self.processes.first:
            state = self.optimization.take(self.handle)
            self.records.checkpoint(step, self.losses, state, self.processes.world)

    def _restore(self) -> int:
        if not self.settings.resume:
            return 0
        found = self.records.newest()
        if found is None:
            self.notes.append(f"--resume: there is no checkpoint in {self.output} yet; the run starts at step 1")
            return 0
        losses, state, world = found
        self.optimization.put(state, self.handle)
        self.losses = losses
        self.notes += self.processes.change_notes(world)
        self.notes += [f"going on after step {len(losses)} of {self.settings.steps}", *self.records.changes()]
        return len(losses)

    def _save(self, folder: Path) -> Path:
        """Writes what was trained: the LoRA, or IntLoRA's integer adapter in place of it. Returns where it is."""
        if self.settings.method == "lora":
            layout = self.parts.family.layout
            if self.optimization.average:
                with self.optimization.average.in_place():
                    save_adapter(self.unet, folder, self.settings, layout, self.text, AVERAGE_FILE)
            path = save_adapter(self.unet, folder, self.settings, layout, self.text)
            if self.token:
                self.token.save(folder, self.settings)
            return path
        from .integers import save_integers

        return save_integers(self.unet, self.handle, folder)

    def close(self) -> None:
        """Takes the device's layers out of the model and gives the device back, if this run opened it; frees the folder."""
        if self.handle:
            self.handle.undo()
        if self._own_device and self.device is not None:
            self.device.close()
        self.records.close()


def train(settings: TrainSettings, on_step: Callable[[StepReport], None] | None = None) -> TrainResult:
    """A whole run: load, train, save, close. What the user should know is a warning.

    Raises:
        UserError: for anything in the settings or files that cannot be used.
        Stopped: for a signal.
    """
    trainer = Trainer(settings)
    for note in trainer.notes:
        warnings.warn(note, stacklevel=2)
    try:
        return trainer.run(on_step)
    finally:
        trainer.close()
