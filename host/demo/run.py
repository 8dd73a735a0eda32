"""`systolora demo`: the built-in model learns a new concept twice, in INT8 on the device and in float32, and both are shown.

Everything is on disk already: the model, the pictures (drawn on the spot) and the judge that says what a picture shows.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from systolora.assets import pipeline_folder
from systolora.libraries import quiet_libraries
from systolora.options import check_rules
from systolora.outputs import check_folder, claim_folder
from systolora.training.adapter import ADAPTER_FILE
from systolora.training.device import open_device_for
from systolora.training.progress import train_with_progress
from systolora.training.settings import TrainSettings, check_settings
from systolora.training.trainer import Trainer, TrainResult

from .judge import concept_share
from .page import DemoFindings, DemoResult, write_page
from .sampling import generate_pictures, load_sprite_pipeline
from .settings import DemoSettings
from .sprites import (
    BACKGROUNDS,
    BASE_SHAPES,
    COLOURS,
    SpriteSet,
    make_sprites,
    remove_image_folder,
    write_image_folder,
)

MAKER = "systolora demo"
"""What the mark of the output folder says."""

CONCEPT_PICTURES = 64
PRIOR_PICTURES = 48
EXAMPLES_SHOWN = 16
JUDGED_PICTURES = 48
SHOWN_PICTURES = 12
HELD_OUT_COLOURS = ("cyan", "orange")
"""Colours in which the concept is never shown in training, so that the pictures cannot be memorised ones."""


@dataclass(frozen=True)
class _Run:
    result: TrainResult
    pictures: NDArray[np.uint8]


def recipe(settings: DemoSettings, data: Path) -> TrainSettings:
    """The training settings of the demo's runs (docs/demo_model.md says how they were found).

    Key and value alone learn slower: they get a larger batch, more steps and a larger scaling.
    """
    narrow = settings.targets == "kv"
    steps = settings.steps or (700 if narrow else 500)
    return TrainSettings(
        model=str(pipeline_folder()),
        data=str(data),
        output=str(settings.out / "adapter"),
        rank=8,
        alpha=16.0 if narrow else 8.0,
        targets=settings.targets,
        steps=steps,
        batch=16 if narrow else 8,
        learning_rate=1e-2 if narrow else 6e-3,
        schedule="cosine",
        warmup=min(20, max(1, steps // 4)),
        snr_gamma=5.0,
        seed=settings.seed,
        backend=settings.backend,
        emulated_board=settings.emulated_board,
        transfer_type=settings.transfer_type,
        checkpoint_every=0,
        threads=1,
    )


def demo_pictures(concept: str, seed: int) -> SpriteSet:
    """The training set: the new concept, and pictures of known shapes so that those are not forgotten."""
    colours = [colour for colour in COLOURS if colour not in HELD_OUT_COLOURS]
    new = make_sprites(CONCEPT_PICTURES, 1000 + seed, (concept,), colours, full_captions=True)
    old = make_sprites(PRIOR_PICTURES, 2000 + seed, BASE_SHAPES, full_captions=True)
    pictures = np.concatenate([new.pictures, old.pictures])
    return SpriteSet(pictures, new.captions + old.captions, new.sprites + old.sprites)


def demo_prompts(concept: str) -> list[str]:
    """Prompts that the concept is judged by; they go through all colours and backgrounds."""
    colours, backgrounds = list(COLOURS), list(BACKGROUNDS)
    return [
        f"a big {colours[i % len(colours)]} {concept} on a {backgrounds[(i // 2) % len(backgrounds)]} background"
        for i in range(JUDGED_PICTURES)
    ]


def run_demo(settings: DemoSettings, console: Console) -> DemoResult:
    """Runs the demo and writes adapter, plot, pictures and page into `settings.out`.

    Raises:
        UserError: for a setting that is not allowed, or an output folder that holds what no demo made.
        BackendError: for a device that is not here.
    """
    check_rules(settings)
    data = settings.out / "pictures"
    int8 = check_settings(recipe(settings, data))
    check_folder(settings.out, MAKER)
    open_device_for(int8).close()  # a backend that is not here is said before anything is written
    began = time.perf_counter()
    quiet_libraries()
    claim_folder(settings.out, MAKER)
    remove_image_folder(data)
    examples = demo_pictures(settings.concept, settings.seed)
    write_image_folder(data, examples)
    prompts = demo_prompts(settings.concept)
    console.print(
        f"the model has never seen a {settings.concept}; drawing {len(prompts)} pictures of what it makes of the word ..."
    )
    base = generate_pictures(load_sprite_pipeline(pipeline_folder()), prompts)
    float32 = replace(int8, precision="float32", output=str(settings.out / "adapter-float32"))
    runs = {name: _train(each, prompts, console, name) for name, each in (("INT8", int8), ("float32", float32))}
    loaded = _pictures_of_adapter(settings.out / "adapter", prompts)
    result = _judge(settings, base, runs, loaded, time.perf_counter() - began)
    findings = DemoFindings(
        concept=settings.concept,
        result=result,
        losses={name: run.result.losses for name, run in runs.items()},
        pictures={"before": base, **{f"after, {name}": run.pictures for name, run in runs.items()}},
        examples=examples.pictures[:EXAMPLES_SHOWN],
        prompts=prompts[:SHOWN_PICTURES],
        settings=int8,
        report=runs["INT8"].result.offload_report,
    )
    page = write_page(settings.out, findings)
    _print(result, settings, page, console)
    return result


def _train(settings: TrainSettings, prompts: list[str], console: Console, name: str) -> _Run:
    trainer = Trainer(settings)
    try:
        result = train_with_progress(trainer, console, f"{name:8s}")
        pipeline: Any = load_sprite_pipeline(Path(settings.model))
        trainer.unet.eval()
        pipeline.unet = trainer.unet
        return _Run(result, generate_pictures(pipeline, prompts))
    finally:
        trainer.close()


def _pictures_of_adapter(folder: Path, prompts: list[str]) -> NDArray[np.uint8]:
    """What plain diffusers makes of the INT8 run's adapter, in float32."""
    pipeline: Any = load_sprite_pipeline(pipeline_folder())
    pipeline.load_lora_weights(str(folder), weight_name=ADAPTER_FILE)
    return generate_pictures(pipeline, prompts)


def _judge(
    settings: DemoSettings, base: NDArray[np.uint8], runs: dict[str, _Run], loaded: NDArray[np.uint8], seconds: float
) -> DemoResult:
    int8, float32 = runs["INT8"], runs["float32"]
    tenth = max(1, len(float32.result.losses) // 10)
    difference = np.abs(loaded.astype(np.float32) - int8.pictures.astype(np.float32))
    return DemoResult(
        loss_int8=int8.result.final_loss,
        loss_fp32=float32.result.final_loss,
        loss_start=float(np.mean(float32.result.losses[:tenth])),
        concept_int8=concept_share(int8.pictures, settings.concept),
        concept_fp32=concept_share(float32.pictures, settings.concept),
        concept_base=concept_share(base, settings.concept),
        picture_error=float(difference.mean() / 255),
        seconds=seconds,
    )


def _print(result: DemoResult, settings: DemoSettings, page: Path, console: Console) -> None:
    console.print(
        f"loss: {result.loss_start:.4f} at the start, {result.loss_int8:.4f} INT8, {result.loss_fp32:.4f} float32"
    )
    console.print(
        f"pictures that show a {settings.concept}: {result.concept_base:.0%} before, "
        f"{result.concept_int8:.0%} INT8, {result.concept_fp32:.0%} float32"
    )
    console.print(
        f"adapter in plain diffusers: pictures differ from the INT8 model's by {result.picture_error:.2%} of full scale"
    )
    console.print(f"adapter: {settings.out / 'adapter' / ADAPTER_FILE}")
    console.print(f"page: {page}  ({result.seconds:.0f} s in all)")
