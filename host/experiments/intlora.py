"""`systolora experiment intlora`: every method and baseline, several seeds, one table; each training is cached, so a run can be resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from systolora.assets import pipeline_folder
from systolora.demo.judge import load_judge
from systolora.demo.run import demo_prompts, recipe
from systolora.demo.sampling import load_sprite_pipeline
from systolora.demo.settings import DemoSettings
from systolora.demo.sprites import BASE_SHAPES, SpriteSet, make_sprites, write_image_folder
from systolora.device import open_device
from systolora.errors import UserError
from systolora.files import write_atomically
from systolora.intlora.settings import METHODS, RATIOS, REMEDIES, IntLoraSettings
from systolora.libraries import quiet_libraries
from systolora.models.pipeline import load_parts
from systolora.outputs import claim_folder

from .cells import FLOAT_BITS, Bench, Cell, Row, run_cell
from .evaluate import make_test_set
from .table import page_tables

BITS = (8, 4)
CONCEPT = "heart"
CONCEPT_PICTURES, PRIOR_PICTURES = 64, 16
LEARNING_RATE = 1e-2
EXPONENTS = (1.0, 1.5, 2.0, 2.5)
REFRESH_EVERY = 50
QAT = "quantization-aware LoRA"
SIDE_SEEDS = 3
"""Most seeds of the side tables: each remedy alone, exponents."""


@dataclass(frozen=True)
class ExperimentSettings:
    """What the command line gives.

    Attributes:
        out: folder of the cached cells and the table. seeds: how many. steps: of each training. quick: seconds instead of hours.
        cached: train nothing, make the tables of what is there. workers: processes that train at once, one thread each.
    """

    out: Path
    seeds: int = 6
    steps: int = 200
    quick: bool = False
    cached: bool = False
    workers: int = 1


def run_experiment(settings: ExperimentSettings, report: Callable[[str], None]) -> Path:
    """Runs what is not cached and writes `table.md`; returns its path.

    Raises:
        UserError: if the folder cannot be written, or holds what no experiment made.
    """
    claim_folder(settings.out, "systolora experiment intlora")
    quiet_libraries()
    seeds, steps = (1, 4) if settings.quick else (settings.seeds, settings.steps)
    bits = BITS[1:] if settings.quick else BITS
    cells = main_cells(seeds, bits)
    if not settings.quick:
        cells += remedy_cells(min(seeds, SIDE_SEEDS)) + exponent_cells(min(seeds, SIDE_SEEDS))
    paths = {cell: settings.out / "cells" / f"{cell.key}-{steps}.json" for cell in cells}
    made: dict[Cell, list[Row]] = {}

    def note(cell: Cell) -> None:
        try:
            made[cell] = [Row(**values) for values in json.loads(paths[cell].read_text(encoding="utf-8"))]
        except (ValueError, TypeError):
            raise UserError(f"{paths[cell]}: it is damaged; remove it, and it is trained again") from None
        for row in made[cell]:
            report(
                f"{len(made)}/{len(cells)} {row.setting} {row.label}, seed {row.seed}: concept {row.concept:.2f}, "
                f"Frechet {row.frechet:.1f}, loss {row.loss:.4f}, weight error {row.error:.2%}, {row.seconds:.0f} s"
            )

    for cell, path in paths.items():
        if path.is_file():
            note(cell)
    missing = {} if settings.cached else {cell: path for cell, path in paths.items() if cell not in made}
    for cell in _train_cells(missing, settings, steps, bits):
        note(cell)
    table = settings.out / "table.md"
    write_atomically(table, page_tables([row for cell in cells for row in made.get(cell, [])], steps).encode())
    return table


def _train_cells(
    cells: dict[Cell, Path], settings: ExperimentSettings, steps: int, bits: tuple[int, ...]
) -> Iterator[Cell]:
    """Trains cells into their files, here or in several processes; gives each when it is done."""
    if settings.workers > 1 and len(cells) > 1:
        pool = ProcessPoolExecutor(settings.workers, mp_context=get_context("spawn"))
        try:
            jobs = {pool.submit(_train_in_worker, settings, steps, bits, *item): item[0] for item in cells.items()}
            for job in as_completed(jobs):
                job.result()
                yield jobs[job]
        finally:
            pool.shutdown(cancel_futures=True)
    elif cells:
        bench = make_bench(settings, steps, bits)
        try:
            for cell, path in cells.items():
                _train(bench, settings, cell, path)
                yield cell
        finally:
            bench.device.close()


def _train_in_worker(settings: ExperimentSettings, steps: int, bits: tuple[int, ...], cell: Cell, path: Path) -> None:
    quiet_libraries()
    _train(_worker_bench(settings, steps, bits), settings, cell, path)


def _train(bench: Bench, settings: ExperimentSettings, cell: Cell, path: Path) -> None:
    rows = run_cell(_with_pictures(bench, settings.out, cell.seed), cell, settings.out / "runs" / cell.key)
    write_atomically(path, json.dumps([asdict(row) for row in rows], indent=1).encode())


def main_cells(seeds: int, bits: tuple[int, ...]) -> list[Cell]:
    """The table of methods, 4 bits first: each with the quantizers of the start, and with refreshed ones."""
    cells = [Cell("lora", FLOAT_BITS, seed, "LoRA") for seed in range(seeds)]
    for width in sorted(bits):
        for seed in range(seeds):
            cells.append(Cell("qlora", width, seed, "QLoRA"))
            cells.append(Cell("qat", width, seed, QAT))
            cells.append(Cell("qat", width, seed, f"{QAT}, refreshed", refresh_every=REFRESH_EVERY))
            for method in METHODS:
                mended = IntLoraSettings(method=method, bits=width, seed=seed)
                name = f"IntLoRA_{method.upper()}"
                refreshed = replace(mended, refresh_every=REFRESH_EVERY)
                cells.append(Cell("intlora", width, seed, f"{name}, paper", mended.paper()))
                cells.append(Cell("intlora", width, seed, f"{name}, mended", mended))
                cells.append(Cell("intlora", width, seed, f"{name}, mended, refreshed", refreshed))
    return cells


def remedy_cells(seeds: int) -> list[Cell]:
    """What each change does, at 4 bits: the measured ratio and exponent without remedy, and each remedy alone with them."""
    cells = []
    for seed in range(seeds):
        for method in METHODS:
            mended = IntLoraSettings(method=method, bits=4, seed=seed)
            name = f"{method.upper()}, 4 bits"
            cells.append(Cell("intlora", 4, seed, f"{name}: no remedy", replace(mended, remedies=())))
            for remedy in REMEDIES:
                cells.append(Cell("intlora", 4, seed, f"{name}: only {remedy}", replace(mended, remedies=(remedy,))))
    return cells


def exponent_cells(seeds: int) -> list[Cell]:
    """Exponents and ratios of variance matching, MUL at 4 bits, mended."""
    cells = []
    for seed in range(seeds):
        for ratio in RATIOS:
            for exponent in EXPONENTS:
                settings = IntLoraSettings(method="mul", bits=4, seed=seed, ratio=ratio, exponent=exponent)
                cells.append(Cell("intlora", 4, seed, f"MUL, 4 bits: {ratio} ratio, exponent {exponent}", settings))
    return cells


def make_bench(settings: ExperimentSettings, steps: int, bits: tuple[int, ...]) -> Bench:
    """Loads the demo model and its judge, and draws the test set."""
    folder = pipeline_folder()
    parts, judge = load_parts(folder), load_judge()
    prompts = demo_prompts(CONCEPT)
    sizes = (8, 16, 4) if settings.quick else (2 * len(prompts), 256, 25)
    prompts = (prompts * 2)[: sizes[0]]
    tests = make_test_set(parts, judge, CONCEPT, prompts, sizes[1], sizes[2])
    demo = DemoSettings(out=settings.out, steps=steps)
    train = replace(recipe(demo, settings.out), learning_rate=LEARNING_RATE, threads=1)
    return Bench(parts, load_sprite_pipeline(folder), judge, tests, train, open_device("emulator"), bits)


_worker_bench = lru_cache(maxsize=1)(make_bench)
"""For a process that trains one cell after the other."""


def _with_pictures(bench: Bench, out: Path, seed: int) -> Bench:
    folder = out / "pictures" / str(seed)
    if not (folder / "metadata.jsonl").is_file():
        write_image_folder(folder, training_pictures(seed))
    return replace(bench, settings=replace(bench.settings, data=str(folder)))


def training_pictures(seed: int) -> SpriteSet:
    """Pictures of the concept, and fewer of known shapes so that those are not forgotten."""
    new = make_sprites(CONCEPT_PICTURES, 1000 + seed, (CONCEPT,), full_captions=True)
    old = make_sprites(PRIOR_PICTURES, 2000 + seed, BASE_SHAPES, full_captions=True)
    pictures = np.concatenate([new.pictures, old.pictures])
    return SpriteSet(pictures, new.captions + old.captions, new.sprites + old.sprites)
