"""`SimulateSettings`: all that a simulation depends on; each field is an option of `systolora simulate`."""

from __future__ import annotations

from dataclasses import dataclass

from systolora.errors import UserError
from systolora.hls.config import ArrayConfig, board_config
from systolora.hls.isa import Result
from systolora.options import setting
from systolora.sim.cost.dram import READ_LATENCY_NS, REQUESTS_IN_FLIGHT, DramModel
from systolora.sim.cost.energy import TECHNOLOGIES
from systolora.sim.cost.tile_times import Machine
from systolora.sim.cost.unit_times import ArrayKind

RESULTS = {"float32": Result.FLOAT32, "bfloat16": Result.BFLOAT16}
COMPATIBLE = ("", "scalesim")


@dataclass(frozen=True)
class SimulateSettings:
    """Settings of one simulation."""

    workload: str = setting("sd15", "sd15, sd21, sdxl, pixart, sd3, flux, or a folder of a diffusers model")
    targets: str = setting(
        "kv", "layers on the accelerator: kv (cross-attention key and value), attention, linear, all"
    )
    adapt: str = setting("kv", "layers that get an adapter: kv, attention, linear")
    rank: int = setting(4, "rank of the adapter")
    batch: int = setting(1, "pictures per step")
    resolution: int = setting(0, "pixels of the square; 0 means the model's own")
    board: str = setting("", "preset of the array (systolora boards); the options below change it")
    rows: int = setting(0, "rows of the array; 0 means the board's, or 64")
    cols: int = setting(0, "columns of the array; 0 means the board's, or 64")
    bus_bytes: int = setting(0, "width of each memory port in bytes; 0 means the board's, or 16")
    clock_mhz: float = setting(0.0, "clock; 0 means the board's, or 200")
    dram_gbps: float = setting(0.0, "bandwidth of device memory in GB/s; 0 means the board's, or 19.2")
    latency_ns: float = setting(READ_LATENCY_NS, "latency of device memory (an assumption, not measured)")
    in_flight: int = setting(
        REQUESTS_IN_FLIGHT, "bursts that a port has in flight; 1 if each row waits for the one before"
    )
    result: str = setting("float32", "what GEMMs write and quantizations read: float32, bfloat16")
    overlap: bool = setting(
        True, "preload and drain beside the work, as built; off: blocks one after the other, skewed"
    )
    compat: str = setting("", "scalesim: totals as SCALE-Sim 3.0.0 reports them")
    technology: str = setting("fpga16nm", f"energy per operation: {', '.join(TECHNOLOGIES)}")
    html: str = setting("", "write a report to this file")
    trace: str = setting("", "write a Chrome/Perfetto trace of the step's instructions to this file")
    trace_events: int = setting(200_000, "events after which the trace ends")

    def array_config(self) -> ArrayConfig:
        """The array: the board's preset or the default, with what was given changed.

        Raises:
            ConfigError: for an unknown board or values that are not allowed.
        """
        base = board_config(self.board) if self.board else ArrayConfig()
        names = ("rows", "cols", "bus_bytes", "clock_mhz", "dram_gbps")
        changes = {name: getattr(self, name) for name in names if getattr(self, name)}
        changed = {name: value for name, value in changes.items() if value != getattr(base, name)}
        if changed.keys() & {"rows", "cols", "bus_bytes"}:
            # No longer what the board's preset says.
            changed |= {"board": "", "part": ""}
        return base.with_changes(**changed)

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
    choices = {"result": tuple(RESULTS), "compat": COMPATIBLE, "technology": tuple(TECHNOLOGIES)}
    for name, allowed in choices.items():
        if getattr(settings, name) not in allowed:
            text = ", ".join(item for item in allowed if item)
            raise UserError(f"--{name} {getattr(settings, name)!r}: allowed are {text}")
    for name in ("in_flight", "trace_events"):
        if getattr(settings, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(settings, name)}: it must be at least 1")
    if settings.compat and settings.trace:
        raise UserError(
            "--trace with --compat scalesim: SCALE-Sim's totals have no instructions; leave one of them out"
        )
    if settings.latency_ns < 0:
        raise UserError(f"--latency-ns {settings.latency_ns}: it must not be negative")
    return settings
