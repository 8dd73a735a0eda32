"""One training of the IntLoRA experiment: a method, a bit width, a seed; and every row of the table that follows from it."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from systolora.demo.judge import Judge
from systolora.intlora.digits import width
from systolora.intlora.fingerprints import frozen_weights
from systolora.intlora.inference import install_merged
from systolora.intlora.packing import packed_bytes
from systolora.intlora.peft import IntLoraHandle, attach
from systolora.intlora.rules import IntegerWeight
from systolora.intlora.settings import IntLoraSettings
from systolora.models.pipeline import PipelineParts
from systolora.offloading.quantization import QuantizationConfig
from systolora.sim.functional.device import Device
from systolora.training.settings import TrainSettings
from systolora.training.trainer import Trainer

from .baselines import RowRule, quantize_others, quantize_rows
from .evaluate import Measured, TestSet, measure, weight_error, with_unet

FLOAT_BITS = 32


@dataclass(frozen=True)
class Cell:
    """One training.

    Attributes:
        method: lora, qlora, qat or intlora. bits: of the weights; 32 for lora. seed: of the run.
        label: its name in the table. intlora: the settings of the integers, for intlora.
        refresh_every: for qat, as in the settings of intlora.
    """

    method: str
    bits: int
    seed: int
    label: str
    intlora: IntLoraSettings | None = None
    refresh_every: int = 0

    @property
    def key(self) -> str:
        """A name for files; other settings give another one, so that no result is taken for theirs."""
        words = "".join(letter if letter.isalnum() else "-" for letter in self.label.lower())
        digest = hashlib.sha256(repr(self).encode()).hexdigest()[:8]
        return f"w{self.bits}-{words}-s{self.seed}-{digest}"


@dataclass(frozen=True)
class Row:
    """One line of the table, from one seed.

    Attributes:
        setting: W8A8, W4A8 or float32. label: method. bytes: of the adapted layers as deployed. width: bits of the widest integer
            that is multiplied. error: relative error of the deployed weights. seconds: CPU time of the training.
    """

    setting: str
    label: str
    seed: int
    concept: float
    frechet: float
    loss: float
    error: float
    seconds: float
    bytes: int
    width: int


@dataclass(frozen=True)
class Bench:
    """What all cells share. parts: the float32 model. pipeline: of diffusers. device: where INT8 GEMMs run."""

    parts: PipelineParts
    pipeline: Any
    judge: Judge
    tests: TestSet
    settings: TrainSettings
    device: Device
    ptq_bits: tuple[int, ...] = (8, 4)


class CellTrainer(Trainer):
    """A training run whose adapted layers are those of a cell."""

    def __init__(self, settings: TrainSettings, parts: PipelineParts, device: Device, cell: Cell) -> None:
        self.cell = cell
        super().__init__(settings, parts, device)

    def _offload(self) -> Any:
        cell = self.cell
        quantization = QuantizationConfig(weight_scales="channel", seed=self.settings.seed)
        if cell.method == "qat":
            return attach(
                self.unet,
                device=self.device,
                quantization=quantization,
                make=lambda weight, name: RowRule(weight, cell.bits),
                refresh_every=cell.refresh_every,
            )
        if cell.method == "intlora":
            return attach(self.unet, cell.intlora, self.device, quantization)
        return super()._offload()

    def _save(self, folder: Path) -> Path:
        """Writes a LoRA where that is what was trained: not the factors of weights that are on a grid."""
        return super()._save(folder) if self.cell.method == "lora" else folder


def run_cell(bench: Bench, cell: Cell, folder: Path) -> list[Row]:
    """Trains a cell and measures it, as it is and in every form in which it is deployed."""
    unet = copy.deepcopy(bench.parts.unet)
    settings = replace(
        bench.settings,
        output=str(folder),
        seed=cell.seed,
        precision="float32" if cell.method == "lora" else "int8",
        transfer_type="float32",  # as the integer methods of these tables have it
        weight_scales="channel",
    )
    names = adapted_names(bench)
    weights = frozen_weights(unet, names)
    if cell.bits != FLOAT_BITS:
        quantize_others(unet, cell.bits, names)
    if cell.method == "qlora":
        _put_on_grid(unet, names, cell.bits)
    began = time.process_time()
    trainer = CellTrainer(settings, with_unet(bench.parts, unet), bench.device, cell)
    try:
        trainer.run()
        seconds = time.process_time() - began
        return _rows(_Trained(bench, cell, trainer, weights, _products(trainer), seconds))
    finally:
        trainer.close()


@dataclass(frozen=True)
class _Trained:
    """A cell after training. weights: before any quantization. products: s (up down) in float32. seconds: CPU time."""

    bench: Bench
    cell: Cell
    trainer: Trainer
    weights: dict[str, np.ndarray]
    products: dict[str, np.ndarray]
    seconds: float

    def sums(self, base: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """base + AB, by layer."""
        return {name: weight + self.products[name] for name, weight in base.items()}

    def row(self, bits: int, label: str, measured: Measured, error: float, size: int, width: int) -> Row:
        """A line of the table."""
        setting = "float32" if bits == FLOAT_BITS else f"W{bits}A8"
        return Row(
            setting=setting,
            label=label,
            seed=self.cell.seed,
            **asdict(measured),
            error=error,
            seconds=self.seconds,
            bytes=size,
            width=width,
        )

    def measure(self, unet: Any) -> Measured:
        """How good a U-Net is."""
        bench = self.bench
        return measure(bench.pipeline, unet, bench.parts, bench.judge, bench.tests, self.cell.seed)


def adapted_names(bench: Bench) -> list[str]:
    """The layers that get an adapter."""
    endings = (".to_q", ".to_k", ".to_v", ".to_out.0")
    return [name for name, _ in bench.parts.unet.named_modules() if name.endswith(endings)]


def _put_on_grid(unet: Any, names: list[str], bits: int) -> None:
    import torch

    modules = dict(unet.named_modules())
    with torch.no_grad():
        for name in names:
            weight = modules[name].weight
            weight.copy_(torch.from_numpy(quantize_rows(weight.float().numpy(), bits).real()))


def _rows(trained: _Trained) -> list[Row]:
    cell, handle = trained.cell, trained.trainer.handle
    if isinstance(handle, IntLoraHandle):
        return [_deployed(trained, cell.bits, cell.label, handle.weights())]
    rows = [_with_float_adapter(trained)]
    for bits in trained.bench.ptq_bits if cell.method == "lora" else (cell.bits,):
        base = trained.weights if cell.method == "lora" else _on_grid(trained.weights, bits)
        merged = {name: quantize_rows(total, bits) for name, total in trained.sums(base).items()}
        rows.append(_deployed(trained, bits, f"{cell.label} + PTQ", merged))
    return rows


def _products(trainer: Trainer) -> dict[str, np.ndarray]:
    """s (up down) in float32, by layer."""
    from peft.tuners.lora.layer import Linear as LoraLinear

    found = {}
    for name, module in trainer.unet.named_modules():
        if isinstance(module, LoraLinear):
            key: Any = module.active_adapters[0]
            found[name] = module.get_delta_weight(key).detach().float().numpy()
    return found


def _on_grid(weights: dict[str, np.ndarray], bits: int) -> dict[str, np.ndarray]:
    return {name: quantize_rows(weight, bits).real() for name, weight in weights.items()}


def _with_float_adapter(trained: _Trained) -> Row:
    """The model as it was trained: float32 low-rank factors beside the weight."""
    cell, weights = trained.cell, trained.weights
    measured = trained.measure(trained.trainer.unet)
    count = sum(weight.size for weight in weights.values())
    if cell.bits == FLOAT_BITS:
        return trained.row(cell.bits, f"{cell.label}, float32", measured, 0.0, 4 * count, cell.bits)
    error = weight_error(trained.sums(_on_grid(weights, cell.bits)), trained.sums(weights))
    factors = 4 * sum(parameter.numel() for parameter in trained.trainer.parameters)
    size = _code_bytes(weights, cell.bits) + factors
    return trained.row(cell.bits, f"{cell.label}, float adapter", measured, error, size, cell.bits)


def _deployed(trained: _Trained, bits: int, label: str, merged: dict[str, IntegerWeight]) -> Row:
    """Merged integers, run on the device with INT8 activations; the other layers on grids of the same width."""
    bench = trained.bench
    unet = copy.deepcopy(bench.parts.unet)
    quantize_others(unet, bits, merged)
    handle = install_merged(unet, merged, bench.device)
    try:
        measured = trained.measure(unet)
    finally:
        handle.undo()
    values = {name: weight.values for name, weight in merged.items()}
    if trained.cell.method == "intlora":
        size = sum(packed_bytes(part.size, width(part)) + 4 * len(part) for part in values.values())
    else:
        size = _code_bytes(values, bits)
    error = weight_error({name: weight.real() for name, weight in merged.items()}, trained.sums(trained.weights))
    return trained.row(bits, label, measured, error, size, max(width(part) for part in values.values()))


def _code_bytes(weights: Mapping[str, np.ndarray], bits: int) -> int:
    """Codes of `bits` bits, and per row a float32 scale and a 16-bit zero point."""
    return sum(packed_bytes(weight.size, bits) + 6 * len(weight) for weight in weights.values())
