"""Time and memory of one LoRA training step in INT8 on the emulator, next to torch in bfloat16 and float32.

Each way runs in a process of its own, so that its memory can be told; the ways take turns step by step, so that what else the
computer does meets all of them alike.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import multiprocessing
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

from systolora.errors import UserError
from systolora.training.peak_memory import peak_bytes, reset_peak

from .step_profile import profiled
from .training_step import StepSettings, TrainingStep

WAYS = ("int8", "bf16", "fp32", "torchao")
"""Everything frozen in INT8 on the emulator, the rest in bfloat16; torch and peft in bfloat16; the same in float32; torch and peft in
bfloat16 with torchao's INT8 training on the frozen linear layers, where it is installed."""


@dataclass(frozen=True)
class WayResult:
    """One way's steps: wall seconds, processor seconds, the most memory the process held during them, in bytes; and, if asked
    for, the shares of what is computed in a step's time."""

    seconds: tuple[float, ...]
    cpu_seconds: tuple[float, ...]
    peak_bytes: int
    loss: float
    shares: dict[str, float] = field(default_factory=dict)

    @property
    def median_seconds(self) -> float:
        """Median of the wall seconds."""
        return median(self.seconds)


def bench_step(settings: StepSettings, ways: tuple[str, ...] = WAYS) -> dict[str, WayResult]:
    """Runs the ways in turn and returns what each took; "torchao" is left out where it is not installed.

    Raises:
        UserError: for an unknown way, or a way that failed; the text holds the end of its error.
    """
    unknown = sorted(set(ways) - set(WAYS))
    if unknown:
        raise UserError(f"no way {', '.join(unknown)}: there are {', '.join(WAYS)}")
    if "torchao" in ways and importlib.util.find_spec("torchao") is None:
        ways = tuple(way for way in ways if way != "torchao")
    workers = {way: _Worker(way, settings) for way in ways}
    try:
        for worker in workers.values():
            worker.ask("step")
            worker.ask("reset")
        steps: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for _ in range(settings.repeats):
            for way, worker in workers.items():
                steps[way].append(worker.ask("step"))
        results = {way: _result(steps[way], worker.ask("peak")) for way, worker in workers.items()}
        if settings.profile:
            results = {way: replace(result, shares=workers[way].ask("profile")) for way, result in results.items()}
        return results
    finally:
        for worker in workers.values():
            worker.stop()


def summary(results: Mapping[str, WayResult]) -> dict[str, Any]:
    """The figures by name: seconds and peak bytes of each way, and the ratios to bfloat16 and float32."""
    found: dict[str, Any] = {}
    for way, result in results.items():
        found[f"{way}_seconds"] = round(result.median_seconds, 4)
        found[f"{way}_seconds_all"] = [round(value, 4) for value in result.seconds]
        found[f"{way}_cpu_seconds"] = round(median(result.cpu_seconds), 4)
        found[f"{way}_peak_bytes"] = result.peak_bytes
        if result.shares:
            found[f"{way}_shares"] = {group: round(share, 4) for group, share in result.shares.items()}
    for other in ("bf16", "fp32", "torchao"):
        if "int8" in results and other in results:
            pairs = zip(results["int8"].seconds, results[other].seconds, strict=True)
            found[f"time_ratio_to_{other}"] = round(median(a / b for a, b in pairs), 4)
            found[f"memory_ratio_to_{other}"] = round(results["int8"].peak_bytes / results[other].peak_bytes, 4)
    return found


def _result(steps: list[dict[str, float]], memory: dict[str, float]) -> WayResult:
    return WayResult(
        tuple(step["seconds"] for step in steps),
        tuple(step["cpu_seconds"] for step in steps),
        int(memory["bytes"]),
        steps[-1]["loss"],
    )


class _Worker:
    """A process that builds one way's model and does its steps on demand."""

    def __init__(self, way: str, settings: StepSettings) -> None:
        context = multiprocessing.get_context("spawn")
        self._way = way
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, way, json.dumps(asdict(settings))), daemon=True)
        self._process.start()
        other.close()

    def ask(self, what: str) -> dict[str, float]:
        """Has the worker do something and waits for its answer."""
        try:
            self._pipe.send(what)
            answer = self._pipe.recv()
        except (EOFError, OSError):
            raise UserError(f"bench step: the {self._way} process ended; it may have run out of memory") from None
        if "error" in answer:
            raise UserError(f"bench step: {self._way} failed: {answer['error']}")
        return answer

    def stop(self) -> None:
        """Ends the process."""
        self._process.terminate()
        self._process.join()


def _serve(pipe: Connection, way: str, settings: str) -> None:
    try:
        run = TrainingStep(way, StepSettings(**json.loads(settings))).run
        answers: dict[str, Callable[[], dict[str, float]]] = {
            "step": run,
            "reset": _reset_peak,
            "peak": _peak,
            "profile": partial(profiled, run),
        }
        while True:
            pipe.send(answers[pipe.recv()]())
    except EOFError:
        return
    except Exception as error:  # whatever it is, the parent has to tell it
        pipe.send({"error": f"{type(error).__name__}: {error}; {traceback.format_exc().splitlines()[-2].strip()}"})


def _reset_peak() -> dict[str, float]:
    """Starts the count of the largest memory, so that loading the model is not in it; where that cannot be, it is."""
    gc.collect()
    return {"reset": float(reset_peak())}


def _peak() -> dict[str, float]:
    return {"bytes": float(peak_bytes())}
