"""The demo's page: loss curves, pictures before and after, figures. One folder, no network, opens in any browser."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from systolora.training.settings import TrainSettings

from .sprites import tile_pictures


@dataclass(frozen=True)
class DemoResult:
    """The figures of one demo; losses are means over the last (first) tenth of the steps, concepts are shares 0 to 1."""

    loss_int8: float
    loss_fp32: float
    loss_start: float
    concept_int8: float
    concept_fp32: float
    concept_base: float
    picture_error: float
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: round(value, 6) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class DemoFindings:
    """What the page shows.

    Attributes:
        losses: per run, the loss of each step. pictures: per column of the comparison, uint8 [n, 16, 16, 3].
        examples: the training pictures of the concept. prompts: one per row of the comparison.
    """

    concept: str
    result: DemoResult
    losses: dict[str, list[float]]
    pictures: dict[str, NDArray[np.uint8]]
    examples: NDArray[np.uint8]
    prompts: list[str]
    settings: TrainSettings
    report: str


def write_page(folder: Path, findings: DemoFindings) -> Path:
    """Writes `index.html` and its pictures; returns the page's path."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    plot_losses(findings.losses, images / "loss.png")
    tile_pictures(findings.examples, columns=8).save(images / "examples.png")
    rows = []
    for index, prompt in enumerate(findings.prompts):
        row = []
        for column, pictures in enumerate(findings.pictures.values()):
            name = f"{index:02d}-{column}.png"
            Image.fromarray(pictures[index]).resize((96, 96), Image.Resampling.NEAREST).save(images / name)
            row.append(name)
        rows.append((prompt, row))
    shown = np.concatenate([pictures[: len(findings.prompts)] for pictures in findings.pictures.values()])
    tile_pictures(shown, columns=len(findings.prompts)).save(folder / "grid.png")
    template = files("systolora.demo").joinpath("templates/demo.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = folder / "index.html"
    text = environment.from_string(template).render(findings=findings, rows=rows, result=findings.result)
    page.write_text(text, encoding="utf-8")
    return page


def plot_losses(losses: dict[str, list[float]], path: Path) -> None:
    """Draws the loss curves, each with its running mean over a twentieth of the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.4), dpi=110, layout="constrained")
    axes = figure.subplots()
    # The curves lie on each other: a wide light one under a thin dashed one shows both.
    styles = (("#f59e0b", 4.0, "-"), ("#1e3a8a", 1.4, "--"))
    for (name, values), (colour, width, dash) in zip(losses.items(), styles, strict=True):
        steps = np.arange(1, len(values) + 1)
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.7)
        window = max(1, len(values) // 20)
        smooth = np.convolve(values, np.ones(window) / window, mode="valid")
        axes.plot(steps[window - 1 :], smooth, color=colour, label=name, linewidth=width, linestyle=dash)
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.grid(alpha=0.25, which="both")
    axes.legend(frameon=False)
    figure.savefig(path)
