"""Simulations of one step over every combination of some settings: the same as single calls, each step traced once."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from itertools import product
from math import prod
from multiprocessing import get_context
from typing import Any

from systolora.errors import UserError
from systolora.hls.config import ConfigError
from systolora.options import merge_settings, option_name

from .energy_table import energy_table
from .host_time import read_rates
from .provenance import provenance
from .run import find_workload, step_options
from .settings import OUTPUTS, SimulateSettings, changed_settings, check_simulation, command_line
from .simulation import simulate_workload
from .workloads import Workload

MOST_POINTS = 4096
_SWITCH = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}


@dataclass(frozen=True)
class Axis:
    """A setting and the values that it takes."""

    name: str
    values: tuple[Any, ...]

    @property
    def is_number(self) -> bool:
        """Whether the values can stand along an axis of a plot."""
        return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in self.values)


@dataclass(frozen=True)
class Point:
    """One combination.

    Attributes:
        values: of the axes, in their order. settings: all of them.
        figures: `Simulation.step_figures`; empty before it is simulated.
    """

    values: tuple[Any, ...]
    settings: SimulateSettings
    figures: dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """Points in the order of the axes, the last one fastest."""

    settings: SimulateSettings
    axes: tuple[Axis, ...]
    points: tuple[Point, ...]

    @property
    def command(self) -> str:
        """The command that makes the same sweep."""
        swept = [f"{axis.name}={','.join(shown(value) for value in axis.values)}" for axis in self.axes]
        return " ".join([command_line(self.settings), *(f"--sweep {shlex.quote(text)}" for text in swept)])

    def provenance(self) -> dict[str, Any]:
        """As of a simulation; what differs between points stands at the points."""
        return provenance(self.settings, self.command)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        points = []
        for point in self.points:
            machine = point.settings.machine()
            array = {**asdict(machine.config), "kind": machine.kind.value}
            swept = dict(zip((axis.name for axis in self.axes), point.values, strict=True))
            points.append({"settings": swept, "step": point.figures, "array": array, "dram": asdict(machine.dram)})
        axes = {axis.name: list(axis.values) for axis in self.axes}
        return {"sweep": axes, "points": points, "provenance": self.provenance()}


def shown(value: Any) -> str:
    """A value of an axis as it is typed."""
    if isinstance(value, bool):
        return "on" if value else "off"
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if not isinstance(value, float) or float(short) == value else repr(value)


def read_axes(texts: Sequence[str], settings: SimulateSettings) -> tuple[Axis, ...]:
    """Axes from `name=value,value`.

    Raises:
        UserError: for a name that is no setting, one that is given twice, and values that it cannot have.
    """
    axes: list[Axis] = []
    for text in texts:
        axis = _read_axis(text, settings)
        if axis.name in (other.name for other in axes):
            raise UserError(f"--sweep {axis.name} is given twice; give all of its values in one, with commas")
        if axis.name in changed_settings(settings):
            raise UserError(
                f"--sweep {axis.name} and {option_name(axis.name)} name the same setting; leave one of them out"
            )
        axes.append(axis)
    return tuple(axes)


def _read_axis(text: str, settings: SimulateSettings) -> Axis:
    origin = f"--sweep {text[:60]}"
    name, _, listed = text.partition("=")
    name = name.strip().replace("-", "_")
    values = [value.strip() for value in listed.split(",")]
    allowed = [item.name for item in fields(settings) if item.name not in (*OUTPUTS, "trace_events")]
    if name not in allowed:
        near = get_close_matches(name, allowed, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{origin}: it is no setting that can be swept; those are {', '.join(allowed)}{hint}")
    if not all(values):
        raise UserError(f"{origin}: give values with commas between them, such as --sweep rows=16,32,64")
    typed = tuple(_typed(name, value, settings, origin) for value in values)
    if len(set(typed)) < len(typed):
        raise UserError(f"{origin}: a value is given twice")
    return Axis(name, typed)


def _typed(name: str, value: str, settings: SimulateSettings, origin: str) -> Any:
    given: Any = value
    if isinstance(getattr(settings, name), bool):
        if value.lower() not in _SWITCH:
            raise UserError(f"{origin}: {name} = {value!r}: allowed are on, off")
        given = _SWITCH[value.lower()]
    return getattr(merge_settings(settings, {name: given}, origin), name)


def sweep_points(settings: SimulateSettings, axes: Sequence[Axis]) -> tuple[Point, ...]:
    """Every combination, checked, not simulated yet.

    Raises:
        UserError: naming the first combination that cannot be, and why.
    """
    count = prod(len(axis.values) for axis in axes)
    if count > MOST_POINTS:
        raise UserError(
            f"--sweep: {count:,} combinations; at most {MOST_POINTS:,} in one call, so leave out some values"
        )
    points = []
    for values in product(*(axis.values for axis in axes)):
        swept = dict(zip((axis.name for axis in axes), values, strict=True))
        try:
            point = check_simulation(replace(settings, **swept))
            point.machine()
            energy_table(point.technology, point.energy)
            read_rates(point.host)
        except (UserError, ConfigError) as error:
            called = ", ".join(f"{name} {shown(value)}" for name, value in swept.items())
            raise UserError(f"--sweep, at {called}: {error}") from None
        points.append(Point(values, point, {}))
    return tuple(points)


def simulate_points(points: Sequence[Point], jobs: int) -> tuple[Point, ...]:
    """The points with their figures, computed by `jobs` processes; the figures do not depend on how many.

    Raises:
        UserError: for a workload that cannot be traced or read, and if a process ends, as it does without memory.
    """
    workloads: dict[Any, Workload] = {}
    work = []
    for point in points:
        key = _workload_key(point.settings)
        if key not in workloads:
            workloads[key] = replace(find_workload(point.settings), order=())
        work.append((point.settings, workloads[key]))
    figures = map(_figures, work) if min(jobs, len(work)) < 2 else _in_processes(work, min(jobs, len(work)))
    return tuple(replace(point, figures=found) for point, found in zip(points, figures, strict=True))


def _workload_key(settings: SimulateSettings) -> tuple[Any, ...]:
    return settings.gemms, settings.workload, step_options(settings)


def _figures(work: tuple[SimulateSettings, Workload]) -> dict[str, Any]:
    return simulate_workload(*work).step_figures()


def _in_processes(work: Sequence[tuple[SimulateSettings, Workload]], jobs: int) -> Iterator[dict[str, Any]]:
    # Spawned, not forked: torch has threads by now. Ctrl-C is the parent's to handle.
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN))
    try:
        yield from pool.map(_figures, work)
    except BrokenProcessPool:
        raise UserError(
            f"a process of --jobs {jobs} ended early, as it does where memory is short; give fewer"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
