"""`ArrayConfig`: the one description of an accelerator, from which everything else is derived.

The C++ constants, the instruction checks, the register map, the manifest, the driver and the performance model read this
object and nothing else. Its `fingerprint` is also a read-only register of the hardware.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import gcd, inf
from typing import Any

from .lanes import PIECE_WORDS, default_lanes, fitting_lanes, possible_lanes
from .sizes import (
    ACCUMULATOR_BYTES,
    LEAST_SIDE,
    MAX_MEMORY_WORDS,
    PORT_BYTES,
    band_rows_of,
    chain_of,
    memory_fault,
    memory_units,
)

HARDWARE_REVISION = 2
"""Raised whenever the generated hardware changes its behaviour; part of the fingerprint."""

FLOAT_BYTES = 4
MAX_K = 131_071
"""Largest contraction that cannot overflow int32: 131071 * (-128) * (-128) = 2**31 - 2**14."""

DATAFLOWS = (("ws",), ("os", "ws"))
"""What hardware can be built for. Output-stationary is an addition to the weight-stationary array, so alone it saves nothing."""

MIN_TILE_CLOCKS = 8
"""A partial sum is revisited no sooner than this many clocks: the read-add-write latency of the output memory."""


class ConfigError(ValueError):
    """An `ArrayConfig` that cannot be built; the text says what was given, what is allowed and what to do."""


@dataclass(frozen=True)
class ArrayConfig:
    """Size and memories of one accelerator.

    Attributes:
        rows, cols: PEs; 4 to 256 each, not necessarily equal. Weight-stationary: rows run along k, cols along n.
            Output-stationary: rows run along m, cols along n.
        input_bytes, weight_bytes, output_bytes: on-chip memories, in bytes, both halves (ping and pong) together.
        bus_bytes: width of one device memory word, in bytes (16 = 128 bit, the native width of Zynq UltraScale+ HP ports).
        clock_mhz: requested clock of the array.
        port_mhz: clock of the processor's memory ports, 16 bytes a clock each, behind the array's ports of `bus_bytes`. 0: they run
            with the array's clock and are as wide as its ports, whatever that is.
        output_ports: 1, or 2: odd rows of C go through the port of programs, which is idle while a GEMM runs.
        packed_dsp: two INT8 products in one DSP48E2 (they share the activation).
        dataflows: what the hardware is built for: ("ws",), or ("os", "ws"), whose PEs take some three times as many LUTs.
        part: FPGA part number, or "" for a configuration that is only simulated.
        board: preset name, or "".
        dram_gbps: bandwidth that device memory sustains in 10**9 bytes a second, for the performance model.
        max_instructions: longest program the controller accepts.
        quantize_lanes, epilogue_lanes: columns that QUANTIZE and the epilogue take in a clock at most; 0 takes the rule of
            `lanes.default_lanes`. `quantize_width` and `epilogue_width` are what is built.
    """

    rows: int = 64
    cols: int = 64
    input_bytes: int = 512 * 1024
    weight_bytes: int = 512 * 1024
    output_bytes: int = 1024 * 1024
    bus_bytes: int = 16
    clock_mhz: float = 200.0
    port_mhz: float = 0.0
    output_ports: int = 1
    packed_dsp: bool = True
    dataflows: tuple[str, ...] = ("os", "ws")
    part: str = ""
    board: str = ""
    dram_gbps: float = 19.2
    max_instructions: int = 65536
    quantize_lanes: int = 0
    epilogue_lanes: int = 0

    def __post_init__(self) -> None:
        # A manifest holds a list, and the order means nothing.
        object.__setattr__(self, "dataflows", tuple(sorted(self.dataflows)))
        _check(self)

    @property
    def input_depth(self) -> int:
        """Words (of `rows` int8 lanes) in one half of the input memory."""
        return self.input_bytes // 2 // self.rows

    @property
    def weight_depth(self) -> int:
        """Words (of `cols` int8 lanes) in one half of the weight memory."""
        return self.weight_bytes // 2 // self.cols

    @property
    def output_depth(self) -> int:
        """Words (of `cols` int32 lanes) in one half of the output memory."""
        return self.output_bytes // 2 // (ACCUMULATOR_BYTES * self.cols)

    @property
    def quantize_limit(self) -> int:
        """Most scales that one QUANTIZE instruction may produce: the absolute maxima stand in one half of the output memory."""
        return self.output_depth * self.cols

    @property
    def input_segment(self) -> int:
        """Lanes of an input memory word that one bus word can fill: the unit in which the load unit writes it."""
        return gcd(self.bus_bytes, self.rows)

    @property
    def weight_segment(self) -> int:
        """Lanes of a weight memory word that one bus word can fill."""
        return gcd(self.bus_bytes, self.cols)

    @property
    def output_stationary(self) -> bool:
        """Whether the hardware has the output-stationary dataflow."""
        return "os" in self.dataflows

    @property
    def chain(self) -> int:
        """Rows whose products are summed inside their DSPs: as many as are exact with two products in one, a power of two."""
        return chain_of(self.rows)

    @property
    def groups(self) -> int:
        """Chains in a column of the array; the last may be shorter."""
        return -(-self.rows // self.chain)

    @property
    def chain_columns(self) -> int:
        """Columns that share a chain."""
        return 2 if self.packed_dsp else 1

    @property
    def band_rows(self) -> int:
        """Rows of the array that work on the same rows of C, output-stationary: k enters by so many values at a time.

        A power of two: at least a chain and a segment of the input memory; 16 if they divide the rows, because a shift register of
        16 words takes no more LUTs than one of 8.
        """
        return band_rows_of(self.rows, self.bus_bytes)

    @property
    def pass_clocks(self) -> int:
        """Array clocks from an activation word at the edge to its sums at the bottom: a chain, and an adder a group."""
        return self.chain + self.groups

    @property
    def stationary_rows(self) -> int:
        """Rows of C that are in the array at once, output-stationary."""
        return self.rows // self.band_rows * self.band_rows

    @property
    def quantize_width(self) -> int:
        """Columns that QUANTIZE takes in a clock, at most those of one bus word."""
        return self.quantize_lanes or default_lanes(self.rows, self.cols, self.bus_bytes)

    @property
    def epilogue_width(self) -> int:
        """Columns that the epilogue finishes in a clock, at most those of one bus word."""
        return self.epilogue_lanes or default_lanes(self.rows, self.cols, self.bus_bytes)

    @property
    def output_segment(self) -> int:
        """Lanes of an output memory word in one memory of its own: no more than QUANTIZE or the epilogue ever take at once."""
        return min(self.quantize_width, self.epilogue_width, self.bus_bytes // FLOAT_BYTES)

    @property
    def row_words(self) -> int:
        """Bus words of a row that QUANTIZE can keep in the input memory, one half of it, while it is not in use by a GEMM.

        A word of it keeps `rows // bus_bytes` whole bus words; none if there are fewer rows than bytes in a bus word.
        """
        return self.input_depth * (self.rows // self.bus_bytes)

    @property
    def port_bytes(self) -> float:
        """Bytes that a memory port sustains in one clock of the array."""
        if not self.port_mhz:
            return self.bus_bytes
        return min(self.bus_bytes, PORT_BYTES * self.port_mhz / self.clock_mhz)

    @property
    def has_port_clock(self) -> bool:
        """Whether the memory ports have a clock of their own.

        A faster one behind ports that are no wider than the processor's would bring nothing, so those have the array's.
        """
        if self.bus_bytes <= PORT_BYTES:
            return 0 < self.port_mhz < self.clock_mhz
        return self.port_mhz not in (0, self.clock_mhz)

    @property
    def piece_words(self) -> int:
        """Bus words that QUANTIZE takes in one round, a multiple of 4, so that they give whole words of integers.

        A row that is kept in the input memory must hold one piece at least, so a small memory makes pieces small.
        """
        return min(PIECE_WORDS, (self.row_words or PIECE_WORDS) // 4 * 4)

    @cached_property
    def fingerprint(self) -> int:
        """32-bit hash of all that changes what the hardware does; readable from the hardware."""
        relevant = asdict(self)
        for key in ("board", "dram_gbps", "part", "clock_mhz", "port_mhz"):
            del relevant[key]
        relevant |= {"quantize_lanes": self.quantize_width, "epilogue_lanes": self.epilogue_width}
        text = json.dumps({"revision": HARDWARE_REVISION, **relevant}, sort_keys=True)
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")

    @property
    def fingerprint_text(self) -> str:
        """The fingerprint as eight hexadecimal digits."""
        return f"{self.fingerprint:08x}"

    @property
    def peak_tops(self) -> float:
        """Peak rate in 10**12 INT8 operations a second (a multiply-accumulate counts as two)."""
        return 2 * self.rows * self.cols * self.clock_mhz * 1e6 / 1e12

    def with_changes(self, **changes: object) -> ArrayConfig:
        """A copy with some attributes replaced; checked like a new one."""
        return replace(self, **changes)  # type: ignore[arg-type]


def _check(config: ArrayConfig) -> None:
    for name in ("rows", "cols"):
        value = getattr(config, name)
        if not LEAST_SIDE <= value <= 256:
            raise ConfigError(f"{name} = {value}: allowed are {LEAST_SIDE} to 256; give --{name} in that range")
    if config.bus_bytes not in (4, 8, 16, 32, 64):
        raise ConfigError(
            f"bus_bytes = {config.bus_bytes}: allowed are 4, 8, 16, 32 and 64 (16 is the width of a PS port)"
        )
    if config.output_ports not in (1, 2):
        raise ConfigError(f"output_ports = {config.output_ports}: allowed are 1 and 2")
    if config.dataflows not in DATAFLOWS:
        raise ConfigError(
            f"dataflows = {config.dataflows!r}: allowed are {' and '.join(','.join(each) for each in DATAFLOWS)}; "
            f"output-stationary alone would save nothing"
        )
    faults = [
        fault
        for name, (unit, least) in memory_units(config.rows, config.cols, config.bus_bytes).items()
        if (fault := memory_fault(name, getattr(config, name), unit, least))
    ]
    if faults:
        raise ConfigError("; ".join(faults))
    possible = (0, *possible_lanes(config.cols, config.bus_bytes))
    for name in ("quantize_lanes", "epilogue_lanes"):
        value = getattr(config, name)
        if value not in possible:
            raise ConfigError(
                f"{name} = {value}: allowed with {config.cols} columns and a bus of {config.bus_bytes} bytes are "
                f"{', '.join(map(str, possible))} (powers of two that divide the columns; a bus word holds at most "
                f"{config.bus_bytes // 2} values); 0 takes the rule, {default_lanes(config.rows, config.cols, config.bus_bytes)}"
            )
    if not 1 <= config.clock_mhz <= 1000:
        raise ConfigError(f"clock_mhz = {config.clock_mhz}: allowed are 1 to 1000")
    if config.port_mhz and not 1 <= config.port_mhz <= 1000:
        raise ConfigError(f"port_mhz = {config.port_mhz}: allowed are 1 to 1000, and 0 for the array's clock")
    if not 0 < config.dram_gbps < inf:
        raise ConfigError(f"dram_gbps = {config.dram_gbps}: it must be positive and finite")
    if not 1 <= config.max_instructions <= 2**24:
        raise ConfigError(f"max_instructions = {config.max_instructions}: allowed are 1 to {2**24}")


def fitted_config(base: ArrayConfig, changes: Mapping[str, object]) -> ArrayConfig:
    """`base` with changes, and with memories and lanes that those do not name cut to what fits the array that results.

    Raises:
        ConfigError: for a change that is not allowed.
    """
    names = ("rows", "cols", "bus_bytes")
    size = [value for name in names if isinstance(value := changes.get(name, getattr(base, name)), int)]
    if len(size) < len(names) or not LEAST_SIDE <= min(size) <= max(size) <= 256:
        return base.with_changes(**changes)  # which says what is wrong
    fitted: dict[str, object] = {}
    for name, (unit, least) in memory_units(*size).items():
        whole = getattr(base, name) // unit * unit
        fitted[name] = min(max(whole, least), unit * MAX_MEMORY_WORDS)
    for name in ("quantize_lanes", "epilogue_lanes"):
        fitted[name] = fitting_lanes(getattr(base, name), *size[1:])
    return base.with_changes(**{**fitted, **changes})


_KB = 1024


def _preset(board: str, part: str, size: tuple[int, int], kilobytes: tuple[int, int, int], **more: Any) -> ArrayConfig:
    """A board's array: rows and columns; input, weight and output memory in KB."""
    names = ("input_bytes", "weight_bytes", "output_bytes")
    more |= {name: value * _KB for name, value in zip(names, kilobytes, strict=True)}
    return ArrayConfig(board=board, part=part, rows=size[0], cols=size[1], **more)


_KRIA: dict[str, Any] = {"clock_mhz": 166.67, "dram_gbps": 8.5}
_WIDE: dict[str, Any] = {"bus_bytes": 32, "port_mhz": 300.0, "output_ports": 2, "quantize_lanes": 16}
_ZYNQ: dict[str, Any] = {"clock_mhz": 250.0, "dram_gbps": 14.4, **_WIDE}

BOARDS: dict[str, ArrayConfig] = {
    config.board: config
    for config in (
        _preset("kv260", "xck26-sfvc784-2LV-c", (32, 48), (768, 768, 384), **_KRIA),
        _preset("kr260", "xck26-sfvc784-2LV-c", (32, 48), (768, 768, 384), **_KRIA),
        _preset("zcu104", "xczu7ev-ffvc1156-2-e", (32, 64), (1024, 1024, 768), **_ZYNQ),
        _preset("zcu102", "xczu9eg-ffvb1156-2-e", (32, 96), (1024, 768, 768), epilogue_lanes=16, **_ZYNQ),
        _preset("rfsoc4x2", "xczu48dr-ffvg1517-2-e", (64, 64), (1024, 1024, 1024), **_ZYNQ),
        _preset(
            "ultra96v2",
            "xczu3eg-sbva484-1-i",
            (16, 16),
            (128, 128, 256),
            bus_bytes=8,
            quantize_lanes=2,
            epilogue_lanes=2,
            clock_mhz=125.0,
            dram_gbps=7.8,
        ),
    )
}
"""Presets by board. Each fits its part with a margin by the estimate of `resources`; DSPs are scarce first. 32 rows suit heads of 40
best (docs/performance.md). Clocks are such that I/O PLLs of 1,000 and 1,500 MHz both give, as `boards.pl_clock` says: 166.67 MHz
for the Kria's low-voltage part, 250 MHz for the others; none was met by a tool here. Ports of 32 bytes pay where the part has the LUTs and block RAM
for them (docs/decisions/0007-wide-ports.md)."""


def board_config(name: str) -> ArrayConfig:
    """The preset of a board.

    Raises:
        ConfigError: if there is no such preset; the text lists those that exist.
    """
    try:
        return BOARDS[name.lower().replace("-", "").replace("_", "")]
    except KeyError:
        raise ConfigError(
            f"no board {name!r}: there are {', '.join(sorted(BOARDS))}; or give --rows and --cols"
        ) from None
