"""`SimulateSettings`: all that a simulation depends on; each field is an option of `systolora simulate`."""

from __future__ import annotations

from dataclasses import dataclass

from systolora.errors import UserError
from systolora.hls.config import ArrayConfig, board_config, fitted_config
from systolora.hls.isa import Result
from systolora.options import check_rules, setting
from systolora.sim.cost.dram import READ_LATENCY_NS, REQUESTS_IN_FLIGHT, DramModel
from systolora.sim.cost.energy import TECHNOLOGIES
from systolora.sim.cost.tile_times import Machine
from systolora.sim.cost.unit_times import ArrayKind

RESULTS = {"float32": Result.FLOAT32, "bfloat16": Result.BFLOAT16}
_STEP, _ARRAY, _REPORT = "Training step", "Array and memory", "Results"
"""Headings of the help."""


@dataclass(frozen=True)
class SimulateSettings:
    """Settings of one simulation."""

    workload: str = setting(
        "sd15", "sd15, sd21, sdxl, pixart, sd3, flux, or a folder of a diffusers model", group=_STEP
    )
    targets: str = setting(
        "kv",
        "layers on the accelerator: kv (cross-attention key and value), attention, linear, all",
        group=_STEP,
        choices=("kv", "attention", "linear", "all"),
    )
    adapt: str = setting("kv", "layers that get an adapter", group=_STEP, choices=("kv", "attention", "linear"))
    rank: int = setting(4, "rank of the adapter", group=_STEP, least=1, most=8192)
    batch: int = setting(1, "pictures per step", group=_STEP, least=1, most=65_536)
    resolution: int = setting(0, "pixels of the square; 0 means the model's own", group=_STEP, least=0, most=16_384)
    board: str = setting("", "preset of the array (systolora boards); the options below change it", group=_ARRAY)
    rows: int = setting(0, "rows of the array; 0 means the board's, or 64", group=_ARRAY, least=0, most=256)
    cols: int = setting(0, "columns of the array; 0 means the board's, or 64", group=_ARRAY, least=0, most=256)
    bus_bytes: int = setting(
        0, "width of each memory port in bytes; 0 means the board's, or 16", group=_ARRAY, least=0, most=64
    )
    quantize_lanes: int = setting(
        0, "columns a clock of QUANTIZE; 0 means the board's, or the rule", group=_ARRAY, least=0, most=32
    )
    epilogue_lanes: int = setting(
        0, "columns a clock of the epilogue; 0 means the board's, or the rule", group=_ARRAY, least=0, most=32
    )
    clock_mhz: float = setting(0.0, "clock; 0 means the board's, or 200", group=_ARRAY, least=0, most=1000)
    dram_gbps: float = setting(
        0.0, "bandwidth of device memory in GB/s; 0 means the board's, or 19.2", group=_ARRAY, least=0, most=1_000_000
    )
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
    result: str = setting("float32", "what GEMMs write and quantizations read", group=_ARRAY, choices=tuple(RESULTS))
    overlap: bool = setting(
        True, "preload and drain beside the work, as built; off: blocks one after the other, skewed", group=_ARRAY
    )
    compat: str = setting(
        "", "scalesim: totals as SCALE-Sim 3.0.0 reports them", group=_REPORT, choices=("", "scalesim")
    )
    technology: str = setting("fpga16nm", "energy per operation", group=_REPORT, choices=tuple(TECHNOLOGIES))
    html: str = setting("", "write a report to this file", group=_REPORT)
    trace: str = setting("", "write a Chrome/Perfetto trace of the step's instructions to this file", group=_REPORT)
    trace_events: int = setting(200_000, "events after which the trace ends", group=_REPORT, least=1, most=10**8)

    def array_config(self) -> ArrayConfig:
        """The array: the board's preset or the default, with what was given changed.

        Raises:
            ConfigError: for an unknown board or values that are not allowed.
        """
        base = board_config(self.board) if self.board else ArrayConfig()
        names = ("rows", "cols", "bus_bytes", "quantize_lanes", "epilogue_lanes", "clock_mhz", "dram_gbps")
        changes = {name: getattr(self, name) for name in names if getattr(self, name)}
        changed = {name: value for name, value in changes.items() if value != getattr(base, name)}
        if changed.keys() & {"rows", "cols", "bus_bytes", "quantize_lanes", "epilogue_lanes"}:
            # No longer what the board's preset says.
            changed |= {"board": "", "part": ""}
        return fitted_config(base, changed)

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
    if settings.compat and settings.trace:
        raise UserError(
            "--trace with --compat scalesim: SCALE-Sim's totals have no instructions; leave one of them out"
        )
    return settings
