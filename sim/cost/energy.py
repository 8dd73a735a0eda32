"""What instructions cost in energy, and what the array takes in area, per technology.

Energy is counted operations times energy per operation; leakage, clock tree and the processor beside the accelerator are not in it.

Sources of the constants:

* 45 nm: M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014: INT8 multiply 0.2 pJ, INT32 add
  0.1 pJ, FP32 multiply 3.7 pJ and add 0.9 pJ, 64-bit access of a 32 KB SRAM 20 pJ, 64-bit access of DRAM 1.3 nJ at least.
* 7 nm: N. Jouppi et al., "Ten Lessons From Three Generations Shaped Google's TPUv4i", ISCA 2021, table 2, Horowitz's table at
  7 nm: 0.07, 0.03, 1.31, 0.38, 8.5 pJ; DDR stays at 1.3 nJ. (From memory: the paper's table could not be read again here.)
* 28 nm and 16 nm: between those two on straight lines in log(energy) over log(node). Good enough to compare dataflows, not
  for a data sheet.
* FPGA: logic of look-up tables and flip-flops takes about 14 times the dynamic power of an ASIC of the same node (I. Kuon and
  J. Rose, "Measuring the gap between FPGAs and ASICs", IEEE TCAD 26(2), 2007, abstract). Multipliers (DSP) and memories are hard blocks and are
  taken once; adders, registers and the epilogue 14 times.
* A register: writing and reading 32 bits is taken as one INT32 addition; no table of the above lists flip-flops.
* The memories are made of 32 KB banks, which is what one UltraRAM block holds (288 Kbit with parity).
* Areas at 45 nm: INT8 multiplier 282 um2, 32-bit adder 137 um2 (Horowitz's table, TSMC 45 nm, as reprinted by V. Sze et al.,
  "Efficient Processing of Deep Neural Networks", 2020); SRAM 0.346 um2 a bit cell (Intel 45 nm, K. Mistry et al., IEDM 2007) at 70 % array
  efficiency. Other nodes scale with the square of the node.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log

from systolora.hls.config import ACCUMULATOR_BYTES, ArrayConfig

_NODES = {
    45: {"multiply": 0.2, "add": 0.1, "float_multiply": 3.7, "float_add": 0.9, "sram_64": 20.0, "dram_64": 1300.0},
    7: {"multiply": 0.07, "add": 0.03, "float_multiply": 1.31, "float_add": 0.38, "sram_64": 8.5, "dram_64": 1300.0},
}
"""Picojoules per operation; `sram_64` and `dram_64` per 64 bits."""

_FPGA_LOGIC = 14.0
_MULTIPLIER_UM2, _ADDER_UM2, _SRAM_BIT_UM2, _SRAM_EFFICIENCY = 282.0, 137.0, 0.346, 0.7


@dataclass(frozen=True)
class Technology:
    """Energy per operation, in picojoules, and the node in nanometres.

    Attributes:
        mac: one INT8 multiplication and one INT32 addition. register: 32 bits written and read.
        element: dequantizing one element (three FP32 multiplications, two additions), or quantizing one.
        sram_byte, dram_byte: moving one byte.
    """

    name: str
    node: int
    mac: float
    register: float
    element: float
    sram_byte: float
    dram_byte: float


@dataclass(frozen=True)
class Work:
    """Operations to be paid for.

    Attributes:
        macs: multiply-accumulates of the GEMM. pe_cycles: PEs times clocks in which a word enters.
        elements: dequantized or quantized. sram_bytes, dram_bytes: read or written.
    """

    macs: int = 0
    pe_cycles: int = 0
    elements: int = 0
    sram_bytes: int = 0
    dram_bytes: int = 0


@dataclass(frozen=True)
class Energy:
    """Joules by component."""

    mac: float
    register: float
    epilogue: float
    sram: float
    dram: float

    @property
    def total(self) -> float:
        """Joules in all."""
        return self.mac + self.register + self.epilogue + self.sram + self.dram

    def as_dict(self) -> dict[str, float]:
        """Component -> joules."""
        return dict(vars(self))


def _between(node: int, name: str) -> float:
    """The 45 nm and 7 nm entries, interpolated in logarithms."""
    share = log(node / 7) / log(45 / 7)
    return exp(share * log(_NODES[45][name]) + (1 - share) * log(_NODES[7][name]))


def _technology(name: str, node: int, logic: float = 1.0) -> Technology:
    def value(entry: str) -> float:
        return _between(node, entry)

    return Technology(
        name=name,
        node=node,
        mac=value("multiply") + logic * value("add"),
        register=logic * value("add"),
        element=logic * (3 * value("float_multiply") + 2 * value("float_add")),
        sram_byte=value("sram_64") / 8,
        dram_byte=value("dram_64") / 8,
    )


TECHNOLOGIES: dict[str, Technology] = {
    technology.name: technology
    for technology in (
        _technology("45nm", 45),
        _technology("28nm", 28),
        _technology("16nm", 16),
        _technology("7nm", 7),
        _technology("fpga16nm", 16, _FPGA_LOGIC),
    )
}
"""Technologies by name; `fpga16nm` is that of Zynq UltraScale+."""


def technology(name: str) -> Technology:
    """The technology of a name.

    Raises:
        ValueError: if there is none; the text lists those that exist.
    """
    if name not in TECHNOLOGIES:
        raise ValueError(f"technology {name!r}: there are {', '.join(TECHNOLOGIES)}")
    return TECHNOLOGIES[name]


def energy(tech: Technology, work: Work) -> Energy:
    """Joules for some work."""
    pico = 1e-12
    return Energy(
        mac=pico * tech.mac * work.macs,
        register=pico * tech.register * work.pe_cycles,
        epilogue=pico * tech.element * work.elements,
        sram=pico * tech.sram_byte * work.sram_bytes,
        dram=pico * tech.dram_byte * work.dram_bytes,
    )


@dataclass(frozen=True)
class PeakFigures:
    """What an accelerator could do at best, and the silicon of its array and memories as an ASIC.

    Attributes:
        tops: 10**12 INT8 operations a second. ridge: operations a byte at which array and device memory are balanced.
        array_mm2, memory_mm2: multipliers, adders and 72 register bits a PE; SRAM. Control and wiring are not in it.
    """

    tops: float
    dram_gbps: float
    port_gbps: float
    ridge: float
    array_mm2: float
    memory_mm2: float


def peak_figures(config: ArrayConfig, tech: Technology) -> PeakFigures:
    """Peak rates and area of a configuration."""
    scale = (tech.node / 45) ** 2
    # A register bit is taken as four SRAM cells. Active and shadow weight, accumulator and moving sum.
    register_bits = 2 * 8 + 2 * 8 * ACCUMULATOR_BYTES
    per_pe = _MULTIPLIER_UM2 + _ADDER_UM2 + register_bits * 4 * _SRAM_BIT_UM2
    memory_bits = 8 * (config.input_bytes + config.weight_bytes + config.output_bytes)
    port_gbps = 3 * config.port_bytes * config.clock_mhz / 1000
    return PeakFigures(
        tops=config.peak_tops,
        dram_gbps=config.dram_gbps,
        port_gbps=port_gbps,
        ridge=1000 * config.peak_tops / min(config.dram_gbps, port_gbps),
        array_mm2=scale * config.rows * config.cols * per_pe / 1e6,
        memory_mm2=scale * memory_bits * _SRAM_BIT_UM2 / _SRAM_EFFICIENCY / 1e6,
    )
