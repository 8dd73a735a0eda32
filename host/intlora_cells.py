"""One training of the IntLoRA experiment: a method, a bit width, a seed; and every row of the table that follows from it."""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from systolora.sim.device import Device

from .intlora_baselines import RowRule, quantize_others, quantize_rows
from .intlora_evaluate import TestSet, measure, weight_error, with_unet
from .intlora_inference import install_merged
from .intlora_merge import frozen_weights, merged_file
from .intlora_peft import IntLoraHandle, attach
from .intlora_rules import IntegerWeight
from .intlora_settings import IntLoraSettings
from .judge import Judge
from .pipeline import PipelineParts
from .quantization import QuantizationConfig
from .settings import TrainSettings
from .train import Trainer

FLOAT_BITS = 32


@dataclass(frozen=True)
class Cell:
    """One training.

    Attributes:
        method: lora, qlora, qat or intlora. bits: of the weights; 32 for lora. seed: of the run.
        label: its name in the table. intlora: the settings of the integers, for intlora.
    """

    method: str
    bits: int
    seed: int
    label: str
    intlora: IntLoraSettings | None = None

    @property
    def key(self) -> str:
        """A name for files."""
        words = "".join(letter if letter.isalnum() else "-" for letter in self.label.lower())
        return f"w{self.bits}-{words}-s{self.seed}"


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
            )
        if cell.method == "intlora":
            return attach(self.unet, cell.intlora, self.device, quantization)
        return super()._offload()


def run_cell(bench: Bench, cell: Cell, folder: Path) -> list[Row]:
    """Trains a cell and measures it, as it is and in every form in which it is deployed."""
    unet = copy.deepcopy(bench.parts.unet)
    settings = replace(
        bench.settings,
        output=str(folder),
        seed=cell.seed,
        precision="float32" if cell.method == "lora" else "int8",
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
        return _rows(bench, cell, trainer, weights, time.process_time() - began)
    finally:
        trainer.close()


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


def _rows(bench: Bench, cell: Cell, trainer: Trainer, weights: dict[str, np.ndarray], seconds: float) -> list[Row]:
    products = _products(trainer)
    targets = {name: weights[name] + products[name] for name in weights}
    if cell.method in ("qat", "intlora"):
        assert isinstance(trainer.handle, IntLoraHandle)
        merged = trainer.handle.weights()
        return [_deployed(bench, cell, cell.bits, cell.label, merged, targets, seconds)]
    rows = [_with_float_adapter(bench, cell, trainer, weights, targets, products, seconds)]
    for bits in bench.ptq_bits if cell.method == "lora" else (cell.bits,):
        base = weights if cell.method == "lora" else _on_grid(weights, bits)
        merged = {name: quantize_rows(base[name] + products[name], bits) for name in base}
        rows.append(_deployed(bench, cell, bits, f"{cell.label} + PTQ", merged, targets, seconds))
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


def _with_float_adapter(
    bench: Bench,
    cell: Cell,
    trainer: Trainer,
    weights: dict[str, np.ndarray],
    targets: dict[str, np.ndarray],
    products: dict[str, np.ndarray],
    seconds: float,
) -> Row:
    """The model as it was trained: float32 low-rank factors beside the weight."""
    measured = measure(bench.pipeline, trainer.unet, bench.parts, bench.judge, bench.tests, cell.seed)
    count = sum(weight.size for weight in weights.values())
    rows = sum(len(weight) for weight in weights.values())
    factors = sum(p.numel() for p in trainer.parameters)
    if cell.bits == FLOAT_BITS:
        size, error, label = 4 * count, 0.0, f"{cell.label}, float32"
    else:
        base = _on_grid(weights, cell.bits)
        error = weight_error({name: base[name] + products[name] for name in base}, targets)
        size, label = count * cell.bits // 8 + 8 * rows + 4 * factors, f"{cell.label}, float adapter"
    return Row(
        _setting(cell.bits), label, cell.seed, *asdict(measured).values(), error, seconds, size, min(cell.bits, 32)
    )


def _deployed(
    bench: Bench,
    cell: Cell,
    bits: int,
    label: str,
    merged: dict[str, IntegerWeight],
    targets: dict[str, np.ndarray],
    seconds: float,
) -> Row:
    """Merged integers, run on the device with INT8 activations; the other layers on grids of the same width."""
    unet = copy.deepcopy(bench.parts.unet)
    quantize_others(unet, bits, merged)
    handle = install_merged(unet, merged, bench.device)
    try:
        measured = measure(bench.pipeline, unet, bench.parts, bench.judge, bench.tests, cell.seed)
    finally:
        handle.undo()
    size, widest = _packed(merged)
    if cell.method != "intlora":
        # Codes of `bits` bits, a float32 scale and a 16-bit zero point per row.
        size = sum(weight.values.size * bits // 8 + 6 * len(weight.scale) for weight in merged.values())
    error = weight_error({name: weight.real() for name, weight in merged.items()}, targets)
    return Row(_setting(bits), label, cell.seed, *asdict(measured).values(), error, seconds, size, widest)


def _packed(merged: dict[str, IntegerWeight]) -> tuple[int, int]:
    """(bytes of the packed integers and scales, bits of the widest integer)."""
    from .intlora_file import IntLoraFile

    content = merged_file(IntLoraFile("merged", IntLoraSettings(), "", 1.0, "", {}, {}), merged)
    return sum(array.nbytes for array in content.tensors.values()), max(bits for _, _, bits in content.layers.values())


def _setting(bits: int) -> str:
    return "float32" if bits == FLOAT_BITS else f"W{bits}A8"
