"""Fine-tuning of a Stable Diffusion U-Net with LoRA: `systolora train`, step by step.

One step: draw the micro-batches (a pure function of seed and step), predict the noise, take gradients (GEMMs of the adapted
layers run on the device), clip, AdamW. A checkpoint holds adapter, optimizer, schedule and the device's rounding state, so a run that
was killed goes on and ends with the same bits.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from systolora.errors import UserError
from systolora.files import write_atomically
from systolora.models.pipeline import PipelineParts, load_parts
from torch import Tensor
from torch.nn import functional

from .adapter import ADAPTER_FILE, add_adapter, save_adapter
from .batches import Batch, EncodedPictures, draw_batch, encode_data
from .checkpoint import load_checkpoint, save_checkpoint
from .parallel import Processes
from .peak_memory import peak_bytes
from .settings import RESUME_FREE, TrainSettings, check_settings

LOG_FILE = "log.jsonl"


@dataclass(frozen=True)
class StepReport:
    """What a step tells: its number from 1, loss (mean over the global batch), learning rate, seconds."""

    step: int
    loss: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves: the adapter's file, the loss of every step, seconds of this process, the most memory that it ever held, in
    bytes, the device's report."""

    adapter: Path
    losses: list[float]
    seconds: float
    peak_bytes: int
    offload_report: str

    @property
    def final_loss(self) -> float:
        """Mean loss of the last tenth of the steps."""
        tail = self.losses[-max(1, len(self.losses) // 10) :]
        return sum(tail) / len(tail)


class Trainer:
    """One fine-tuning run; `run` does it, from the newest checkpoint if the settings say so.

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
        if settings.batch % self.processes.world:
            raise UserError(
                f"--batch {settings.batch}: it must divide by the number of processes, {self.processes.world}"
            )
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self.parts = parts or load_parts(Path(settings.model))
        self.data: EncodedPictures = encode_data(self.parts, settings, on_picture)
        self.unet = self.parts.unet
        add_adapter(self.unet, settings)
        if settings.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        self.unet.train()
        self._own_device = device is None
        self.device = device
        on_device = settings.precision == "int8" or settings.method != "lora"
        self.handle: Any = self._offload() if on_device else None
        self.parameters = [value for value in self.unet.parameters() if value.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.schedule = self._make_schedule()
        self.losses: list[float] = []
        self.start = self._restore() if settings.resume else 0

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the model's files, the pictures and the captions, a line each."""
        return self.parts.notes + self.data.notes

    def _offload(self) -> Any:
        from systolora.offloading.model import offload
        from systolora.offloading.quantization import quantization_for

        from .device import open_device_for

        if self.device is None and self.settings.precision == "int8":
            self.device = open_device_for(self.settings)
        quantization = quantization_for(self.settings.weight_scales, self.settings.rounding, self.settings.seed)
        if self.settings.method != "lora":
            from .integers import attach_for

            return attach_for(self.unet, self.settings, self.device, quantization)
        return offload(self.unet, targets=self.settings.targets, device=self.device, quantization=quantization)

    def _make_schedule(self) -> Any:
        from diffusers.optimization import get_scheduler

        settings = self.settings
        name = "constant_with_warmup" if settings.schedule == "constant" and settings.warmup else settings.schedule
        return get_scheduler(name, self.optimizer, num_warmup_steps=settings.warmup, num_training_steps=settings.steps)

    def run(self, on_step: Callable[[StepReport], None] | None = None) -> TrainResult:
        """Trains to the last step, writes the adapter, and returns what came out.

        Raises:
            UserError: if the loss is not finite.
        """
        began = time.perf_counter()
        for step in range(self.start, self.settings.steps):
            report = self.step(step)
            self.losses.append(report.loss)
            self._log(report)
            if on_step:
                on_step(report)
            every = self.settings.checkpoint_every
            if every and (step + 1) % every == 0 and step + 1 < self.settings.steps:
                self.checkpoint(step + 1)
        path = self.save()
        text = str(self.handle.report()) if self.handle else "float32: nothing was offloaded"
        return TrainResult(path, self.losses, time.perf_counter() - began, peak_bytes(), text)

    def save(self) -> Path:
        """Writes what was trained, in the first process: the LoRA, or IntLoRA's integer adapter. Returns where it is."""
        if self.settings.method != "lora":
            from .integers import INTLORA_FILE, save_integers

            first = self.processes.first
            return save_integers(self.unet, self.handle, self.output) if first else self.output / INTLORA_FILE
        return (
            save_adapter(self.unet, self.output, self.settings) if self.processes.first else self.output / ADAPTER_FILE
        )

    def step(self, step: int) -> StepReport:
        """One optimizer step; `step` counts from 0."""
        began = time.perf_counter()
        settings, total = self.settings, 0.0
        if self.handle:
            self.handle.step = step
        for micro in range(settings.accumulation):
            batch = draw_batch(self.data, settings, self.parts.noise.config.num_train_timesteps, step, micro)
            loss = self._loss(batch.part(self.processes.rank, self.processes.world))
            (loss / settings.accumulation).backward()
            total += loss.item() / settings.accumulation
        total = self.processes.mean_of(total)
        if not math.isfinite(total):
            raise UserError(
                f"the loss of step {step + 1} is {total}: lower --learning-rate, or resume from a checkpoint before it"
            )
        self.processes.average_gradients(self.parameters)
        if settings.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.parameters, settings.max_grad_norm)
        rate = self.optimizer.param_groups[0]["lr"]
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        return StepReport(step + 1, total, rate, time.perf_counter() - began)

    def _loss(self, batch: Batch) -> Tensor:
        noise = self.parts.noise
        noisy = noise.add_noise(batch.latents, batch.noise, batch.timesteps)
        predicted = self.unet(noisy, batch.timesteps, batch.text).sample
        velocity = noise.config.prediction_type == "v_prediction"
        target = noise.get_velocity(batch.latents, batch.noise, batch.timesteps) if velocity else batch.noise
        loss = functional.mse_loss(predicted.float(), target, reduction="none").mean((1, 2, 3))
        if self.settings.snr_gamma:
            loss = loss * self._snr_weight(batch.timesteps, velocity)
        return loss.mean()

    def _snr_weight(self, timesteps: Tensor, velocity: bool) -> Tensor:
        """Min-SNR weights (Hang et al. 2023, equation 4), for noise or velocity prediction."""
        kept = self.parts.noise.alphas_cumprod[timesteps]
        snr = kept / (1 - kept)
        return snr.clamp(max=self.settings.snr_gamma) / (snr + 1 if velocity else snr)

    def checkpoint(self, step: int) -> None:
        """Writes the state after `step` steps."""
        if not self.processes.first:
            return
        state = {
            "settings": self.settings.as_dict(),
            "adapter": {name: p.detach() for name, p in self.unet.named_parameters() if p.requires_grad},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "offload": self.handle.state_dict() if self.handle else {},
            "losses": self.losses,
        }
        save_checkpoint(self.output, step, state, self.settings.keep_checkpoints)

    def _restore(self) -> int:
        found = load_checkpoint(self.output)
        if found is None:
            return 0
        step, state = found
        self._same_settings(state["settings"])
        if step > self.settings.steps:
            raise UserError(f"--resume: the checkpoint is at step {step}, beyond --steps {self.settings.steps}")
        own = dict(self.unet.named_parameters())
        with torch.no_grad():
            for name, tensor in state["adapter"].items():
                own[name].copy_(tensor)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.handle:
            self.handle.load_state_dict(state["offload"])
        self.losses = list(state["losses"])
        self._trim_log(step)
        return step

    def _same_settings(self, saved: dict[str, Any]) -> None:
        for name, value in self.settings.as_dict().items():
            if name not in RESUME_FREE and saved.get(name, value) != value:
                raise UserError(
                    f"--resume: --{name.replace('_', '-')} is {value!r} but the checkpoint has {saved[name]!r}; "
                    "give the same settings, or another --output"
                )

    def _log(self, report: StepReport) -> None:
        if not self.processes.first:
            return
        self.output.mkdir(parents=True, exist_ok=True)
        row = {
            "step": report.step,
            "loss": report.loss,
            "learning_rate": report.learning_rate,
            "seconds": report.seconds,
        }
        mode = "w" if report.step == 1 else "a"
        with (self.output / LOG_FILE).open(mode) as file:
            file.write(json.dumps(row) + "\n")

    def _trim_log(self, step: int) -> None:
        path = self.output / LOG_FILE
        if self.processes.first and path.exists():
            kept = path.read_text().splitlines()[:step]
            write_atomically(path, "".join(line + "\n" for line in kept).encode())

    def close(self) -> None:
        """Takes the device's layers out of the model and gives the device back, if this run opened it."""
        if self.handle:
            self.handle.undo()
        if self._own_device and self.device is not None:
            self.device.close()


def train(settings: TrainSettings, on_step: Callable[[StepReport], None] | None = None) -> TrainResult:
    """A whole run: load, train, save, close.

    Raises:
        UserError: for anything in the settings or files that cannot be used.
    """
    trainer = Trainer(settings)
    for note in trainer.notes:
        warnings.warn(note, stacklevel=2)
    try:
        return trainer.run(on_step)
    finally:
        trainer.close()
