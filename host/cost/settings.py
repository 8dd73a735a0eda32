"""`SimulateSettings`: all that a simulation depends on; each field is an option of `systolora simulate`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields
from typing import Any

from systolora.errors import UserError
from systolora.hls.config import ArrayConfig
from systolora.hls.design import REQUESTS_IN_FLIGHT
from systolora.hls.isa import Result, ScaleMode, Source
from systolora.offloading.target_names import (
    ADAPTED,
    ATTENTION_PRODUCTS_HELP,
    TARGETS,
    TRAINING_TRANSFER_TYPE,
    TRANSFER_TYPES,
)
from systolora.options import check_rules, option_name, rule_of, setting
from systolora.sim.cost.dram import READ_LATENCY_NS, DramModel
from systolora.sim.cost.energy import TECHNOLOGIES
from systolora.sim.cost.tile_times import Machine
from systolora.sim.cost.unit_times import ArrayKind

from .array_options import GROUP as _ARRAY
from .array_options import array_config, array_setting, with_array_options

RESULTS = {name: Result[name.upper()] for name in TRANSFER_TYPES}
DATAFLOWS = ("auto", "ws", "os")
_STEP, _REPORT = "Training step", "Results"
"""Headings of the help."""

OUTPUTS = ("html", "csv", "plot", "trace")
"""Settings that name a file to write."""

_LEAST_GBPS = 0.001
"""One megabyte a second: with less, clocks of a step would not fit 64 bits."""


@dataclass(frozen=True)
@with_array_options
class SimulateSettings:
    """Settings of one simulation."""

    workload: str = setting(
        "sd15", "sd15, sd21, sdxl, pixart, sd3, flux, or a folder of a diffusers model", group=_STEP
    )
    gemms: str = setting(
        "", "a CSV list of GEMMs in place of a model's step (name, m, n, k, count, flags; or SCALE-Sim's)", group=_STEP
    )
    targets: str = setting(
        "kv",
        "layers on the accelerator: kv (cross-attention key and value), attention, linear, all",
        group=_STEP,
        choices=TARGETS,
    )
    adapt: str = setting(
        "",
        "layers that get an adapter: kv, attention, linear; empty means kv for targets kv, else attention, as in train",
        group=_STEP,
        choices=("", *ADAPTED, "linear"),
    )
    attention_products: bool = setting(False, ATTENTION_PRODUCTS_HELP, group=_STEP)
    rank: int = setting(4, "rank of the adapter", group=_STEP, least=1, most=8192)
    batch: int = setting(1, "pictures per step", group=_STEP, least=1, most=65_536)
    resolution: int = setting(0, "pixels of the square; 0 means the model's own", group=_STEP, least=0, most=16_384)
    release_weights: bool = setting(
        False,
        "frozen weights of these layers are kept in memory as INT8 only, as offload's release_weights",
        group=_STEP,
    )
    board: str = setting("", "preset of the array (systolora boards); the options below change it", group=_ARRAY)
    rows: int = array_setting("rows")
    cols: int = array_setting("cols")
    bus_bytes: int = array_setting("bus_bytes")
    clock_mhz: float = array_setting("clock_mhz")
    dram_gbps: float = array_setting("dram_gbps")
    input_bytes: int = array_setting("input_bytes")
    weight_bytes: int = array_setting("weight_bytes")
    output_bytes: int = array_setting("output_bytes")
    latency_ns: float = setting(
        READ_LATENCY_NS,
        "latency of device memory (an assumption, not measured)",
        group=_ARRAY,
        least=0,
        most=1_000_000,
    )
    in_flight: int = setting(
        REQUESTS_IN_FLIGHT,
        "bursts that a port has in flight; 1 if each row waits for the one before",
        group=_ARRAY,
        least=1,
        most=65_536,
    )
    host: str = setting(
        "", "file of 'systolora bench host' with the speed of the board's processor; none: an assumption", group=_ARRAY
    )
    result: str = setting(
        TRAINING_TRANSFER_TYPE,
        "what GEMMs write and quantizations read, as train's --transfer-type",
        group=_ARRAY,
        choices=TRANSFER_TYPES,
    )
    overlap: bool = setting(
        True, "preload and drain beside the work, as built; off: blocks one after the other, skewed", group=_ARRAY
    )
    dataflow: str = setting(
        "auto",
        "what the step's figures are for: auto (the better one for each GEMM), ws, os; all three are always shown",
        group=_ARRAY,
        choices=DATAFLOWS,
    )
    compat: str = setting(
        "", "scalesim: totals as SCALE-Sim 3.0.0 reports them", group=_REPORT, choices=("", "scalesim")
    )
    technology: str = setting("fpga16nm", "energy per operation", group=_REPORT, choices=tuple(TECHNOLOGIES))
    energy: str = setting(
        "", "YAML or JSON file with an energy table of your own; --technology gives what it leaves out", group=_REPORT
    )
    html: str = setting("", "write a report to this file", group=_REPORT)
    csv: str = setting("", "write every GEMM and QUANTIZE of the step (of a sweep: every point) as CSV", group=_REPORT)
    plot: str = setting("", "with --sweep: draw it to this file, .svg or .png", group=_REPORT)
    trace: str = setting("", "write a Chrome/Perfetto trace of the step's instructions to this file", group=_REPORT)
    trace_events: int = setting(
        200_000, "most events of the trace; where the step has more, it is said", group=_REPORT, least=1, most=10**8
    )

    def array_config(self) -> ArrayConfig:
        """The array: the board's preset or the default, with what was given changed.

        Raises:
            ConfigError: for an unknown board or values that are not allowed.
        """
        return array_config(self)

    def machine(self) -> Machine:
        """The array with its device memory, and how its blocks follow each other."""
        config = self.array_config()
        kind = ArrayKind.OVERLAPPED if self.overlap else ArrayKind.SERIAL_SKEWED
        return Machine(config, DramModel.of(config, self.latency_ns, self.in_flight), kind)


def check_simulation(settings: SimulateSettings) -> SimulateSettings:
    """The settings, if those that the workload and the array do not check themselves are allowed.

    Raises:
        UserError: naming the first that is not.
    """
    check_rules(settings)
    if 0 < settings.dram_gbps < _LEAST_GBPS:
        raise UserError(f"--dram-gbps {settings.dram_gbps:g}: it must be at least {_LEAST_GBPS}, or 0 for the board's")
    if settings.compat and settings.trace:
        raise UserError(
            "--trace with --compat scalesim: SCALE-Sim's totals have no instructions; leave one of them out"
        )
    built = settings.array_config().dataflows
    if settings.dataflow != "auto" and settings.dataflow not in built and not settings.compat:
        raise UserError(
            f"--dataflow {settings.dataflow}: the array is built for {', '.join(built)} alone; give --dataflows os,ws, or leave it out"
        )
    if settings.gemms:
        _check_list(settings)
    return settings


def changed_settings(settings: SimulateSettings) -> dict[str, Any]:
    """The settings that are not at their default, by name."""
    return {
        item.name: getattr(settings, item.name)
        for item in fields(settings)
        if getattr(settings, item.name) != item.default
    }


def usual_flags(result: Result) -> dict[str, Any]:
    """The fields of an instruction that need no word in a list whose GEMMs write `result`."""
    source = Source.BFLOAT16 if result == Result.BFLOAT16 else Source.FLOAT32
    return {"result": result, "scale_a": ScaleMode.VECTOR, "scale_b": ScaleMode.VECTOR, "source": source}


def settings_in_effect(settings: SimulateSettings) -> dict[str, Any]:
    """All settings by name; with a list of GEMMs those of a model's step say nothing and are left out."""
    unused = {name for name, item in _FIELDS.items() if settings.gemms and rule_of(item).group == _STEP} - {"gemms"}
    return {name: getattr(settings, name) for name in _FIELDS if name not in unused}


def command_line(settings: SimulateSettings) -> str:
    """The command that makes the same simulation."""
    words = ["systolora", "simulate"]
    for name, value in changed_settings(settings).items():
        option = option_name(name)
        if isinstance(value, bool):
            words.append(option if value else f"--no-{option[2:]}")
        else:
            words += [option, str(value)]
    return shlex.join(words)


def _check_list(settings: SimulateSettings) -> None:
    """A list says all of the step; an option that would say something else is no option then."""
    for name in changed_settings(settings):
        if name != "gemms" and rule_of(_FIELDS[name]).group == _STEP:
            raise UserError(
                f"--gemms with {option_name(name)}: the list has all GEMMs of the step; leave one of them out"
            )


_FIELDS = {item.name: item for item in fields(SimulateSettings)}
