"""Resource estimate of a configuration, before any tool has run.

What is measured here: the array. `tests/hls/test_pe_area.py` translates the generated `array.hpp` itself, with a block for each
multiply-add that fits a DSP48E2, has yosys (synth_xilinx -family xcup) count the rest, and holds `array_resources` to it as an upper
bound: yosys does not put a choice and the addition behind it in one LUT as Vivado does.

What is not: everything around the array. `UNITS` is judgement from the sizes that published Vitis HLS reports give such
units (float operators, m_axi adapters) and is uncertain by about a third. A real report replaces it: `reports`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields

from .config import ACCUMULATOR_BYTES, ArrayConfig
from .design import BURST_WORDS, REQUESTS_IN_FLIGHT, WRITTEN_PORTS, memory_ports

ADDER_LUT = 32
"""Behind each group of rows, in each column: base + the chain's sum, unpacked in the same LUTs."""

STANDING_LUT = 3 * 32
"""Output-stationary, each band in each column: the sums' shift register, the choice of what is added to, and of what moves on."""

PACKING_LUT = 9
"""Two weights as one factor: the carry of the lower one's sign. Once a pair of columns for each weight word that enters."""

WEIGHT_FF = 17
"""Different bits of two packed weights; a PE pair holds active and shadow ones, in fabric if the DSP's own registers are not used."""

URAM_BITS, URAM_DEPTH = 72, 4096
_SHIFT_REGISTER_BITS = 16  # of one LUT, as yosys takes it; Vivado makes 32 of it
BRAM_SHAPES = ((72, 512), (36, 1024), (18, 2048), (9, 4096), (4, 8192), (2, 16384), (1, 32768))
"""(bits, words) that one BRAM36 can be (UG573)."""


@dataclass(frozen=True)
class Resources:
    """Counts of what an FPGA is made of; BRAM in 36 Kbit blocks, URAM in 288 Kbit blocks."""

    lut: int = 0
    ff: int = 0
    dsp: int = 0
    bram36: int = 0
    uram: int = 0

    def __add__(self, other: Resources) -> Resources:
        return Resources(*(x + y for x, y in zip(astuple(self), astuple(other), strict=True)))

    def times(self, count: int) -> Resources:
        """`count` such units."""
        return Resources(*(count * value for value in astuple(self)))


KINDS = tuple(field.name for field in fields(Resources))

UNITS: dict[str, Resources] = {
    "m_axi adapter": Resources(lut=1_000, ff=1_500),
    "m_axi adapter, byte of width": Resources(lut=30, ff=60),
    "interconnect of a memory port": Resources(lut=900, ff=1_300),
    # A SmartConnect that narrows words to 16 bytes and crosses to another clock: its buffers are LUT RAM. Judgement as above.
    "interconnect to a clock of its own, byte of width": Resources(lut=55, ff=80),
    "control: s_axilite, interconnect, interrupt, identity": Resources(lut=2_500, ff=3_000),
    "controller: fetch, decode, check, tile loops": Resources(lut=9_000, ff=10_000, dsp=32, bram36=2),
    "load unit: addresses": Resources(lut=3_000, ff=3_500, dsp=8),
    # Line buffers of 32 words in LUT RAM, two for each lane: 8 LUT hold 32 words of 14 bits, so 9 LUT; 3 for the choice of a byte.
    "load unit, byte of width squared: corner turning": Resources(lut=12, ff=9),
    "epilogue: addresses": Resources(lut=2_000, ff=2_500, dsp=6, bram36=4),
    # int32 to float32 200 LUT; three float products 120 LUT, 3 DSP each; two float sums in LUTs, 420 each; rounding to
    # bfloat16, canonical values and the integer path 350 LUT; its scales and bias of columns in LUT RAM 80 (8 LUT hold 64 words of 7 bits).
    "epilogue lane": Resources(lut=1_830, ff=1_900, dsp=9),
    "quantize: addresses, three dividers": Resources(lut=4_800, ff=5_500, dsp=8),
    # Three float products (factor and inverse; the factor again where a kept row is measured); one float sum in LUTs; two 32-bit integer
    # products for the random bits; rounding, maximum.
    "quantize lane": Resources(lut=1_420, ff=1_800, dsp=15),
    # An input memory that keeps rows: choice of what is written, of the bus word that is read.
    "kept rows, input lane": Resources(lut=12, ff=16),
    # Groups, factors and sums: choice of the lanes among the columns of a word.
    "lane choice, output column": Resources(lut=33, ff=32),
    "store unit": Resources(lut=1_500, ff=1_800, dsp=4),
    "store unit, a second port": Resources(lut=900, ff=900, dsp=2),
    # Read-add-write of the output memory (32) and the choice of the half (32); its pipeline registers.
    "output column": Resources(lut=64, ff=130),
    # Choice of the half on its way to the array, the choice of the word's age in output-stationary mode.
    "edge lane": Resources(lut=16, ff=24),
}
"""Cost of the units around the array."""


@dataclass(frozen=True)
class Memory:
    """One on-chip memory: two halves, each `arrays` separate arrays of `bits` x `depth`, in "uram" or "bram"."""

    name: str
    arrays: int
    bits: int
    depth: int

    def cost(self, kind: str) -> Resources:
        """Blocks that both halves take as URAM (72 bits x 4,096) or as BRAM36 (its best shape)."""
        if kind == "uram":
            blocks = _ceil(self.bits, URAM_BITS) * _ceil(self.depth, URAM_DEPTH)
            return Resources(uram=2 * self.arrays * blocks)
        blocks = min(_ceil(self.bits, bits) * _ceil(self.depth, depth) for bits, depth in BRAM_SHAPES)
        return Resources(bram36=2 * self.arrays * blocks)


@dataclass(frozen=True)
class Estimate:
    """Resources by part of the design, and which block RAM each memory is built of.

    Attributes:
        parts: name of the part -> its resources.
        storage: "input", "weight" and "output" -> "uram" or "bram".
    """

    parts: dict[str, Resources]
    storage: dict[str, str]

    @property
    def total(self) -> Resources:
        """Sum over the parts."""
        return _sum(self.parts.values())


def memories(config: ArrayConfig) -> tuple[Memory, Memory, Memory]:
    """Input, weight and output memory, split by segment: what the load unit writes, or the epilogue takes, in a clock."""
    lanes = config.output_segment
    return (
        Memory("input", config.rows // config.input_segment, 8 * config.input_segment, config.input_depth),
        Memory("weight", config.cols // config.weight_segment, 8 * config.weight_segment, config.weight_depth),
        Memory("output", config.cols // lanes, 8 * ACCUMULATOR_BYTES * lanes, config.output_depth),
    )


def array_resources(config: ArrayConfig) -> Resources:
    """The array: chains of DSPs, an adder a group and column, and its edge."""
    groups, cols, rows = config.groups, config.cols, config.rows
    bands = rows // config.band_rows if config.output_stationary else 0
    chains = _ceil(cols, config.chain_columns)
    # Weight-stationary the first group has nothing to add to.
    adders = ADDER_LUT * cols * (groups if bands else groups - 1)
    standing = STANDING_LUT * cols * bands
    packing = PACKING_LUT * (cols // 2) * max(1, bands) if config.packed_dsp else 0
    edge = 8 * rows
    for band in range(1, bands):
        # A delay and a choice: of the band's activations, and of its weight word.
        late = _ceil(band * config.band_rows, _SHIFT_REGISTER_BITS)
        edge += 8 * config.band_rows * (1 + late) + 8 * cols * (1 + _ceil(config.band_rows + 1, _SHIFT_REGISTER_BITS))
    weights = 2 * (WEIGHT_FF if config.packed_dsp else 8) * rows * chains
    registers = 32 * cols * (groups + bands) + 24 * rows
    return Resources(lut=adders + standing + packing + edge, ff=weights + registers, dsp=rows * chains)


def estimate(config: ArrayConfig, budget: Resources | None = None) -> Estimate:
    """The estimate of a configuration.

    Args:
        config: what is built.
        budget: what the part holds; the memories go to the kinds of block RAM that leave the most of both. Without it
            they go to URAM.
    """
    results = Memory("integers of QUANTIZE", 1, 8 * config.bus_bytes, config.piece_words // 2)
    kept = config.rows if config.row_words else 0
    parts = {
        "array": array_resources(config),
        "edges": UNITS["edge lane"].times(config.rows + config.cols)
        + (UNITS["output column"] + UNITS["lane choice, output column"]).times(config.cols),
        "controller": UNITS["controller: fetch, decode, check, tile loops"],
        "load": (
            UNITS["load unit: addresses"]
            + UNITS["load unit, byte of width squared: corner turning"].times(config.bus_bytes**2)
        ).times(2),
        "epilogue": UNITS["epilogue: addresses"]
        + UNITS["epilogue lane"].times(config.epilogue_width)
        + UNITS["store unit"]
        + UNITS["store unit, a second port"].times(config.output_ports - 1),
        "quantize": UNITS["quantize: addresses, three dividers"]
        + UNITS["quantize lane"].times(config.quantize_width)
        + UNITS["kept rows, input lane"].times(kept)
        + results.cost("bram"),
        "ports": _ports(config),
        "control": UNITS["control: s_axilite, interconnect, interrupt, identity"],
    }
    storage = _place(config, _sum(parts.values()), budget)
    parts["memories"] = _sum(memory.cost(storage[memory.name]) for memory in memories(config))
    return Estimate(parts, storage)


def _ports(config: ArrayConfig) -> Resources:
    """Adapters and interconnect of the memory ports. An adapter's buffer holds the words of all requests in flight in block RAM: of
    reads with two bits of answer each, of writes with a strobe for each byte (UG1399, "M_AXI Resources")."""
    adapter = (
        UNITS["m_axi adapter"]
        + UNITS["m_axi adapter, byte of width"].times(config.bus_bytes)
        + UNITS["interconnect of a memory port"]
    )
    if config.has_port_clock:
        adapter += UNITS["interconnect to a clock of its own, byte of width"].times(config.bus_bytes)
    words = REQUESTS_IN_FLIGHT * BURST_WORDS
    reads, writes = (
        Resources(bram36=min(_ceil(bits, width) * _ceil(words, depth) for width, depth in BRAM_SHAPES))
        for bits in (8 * config.bus_bytes + 2, 9 * config.bus_bytes)
    )
    return (adapter + reads).times(len(memory_ports())) + writes.times(len(WRITTEN_PORTS))


def _place(config: ArrayConfig, rest: Resources, budget: Resources | None) -> dict[str, str]:
    """The choice, of the eight, under which the fuller of BRAM and URAM is emptiest; of equals, the most URAM."""
    names = [memory.name for memory in memories(config)]
    if budget is None:
        return dict.fromkeys(names, "uram")
    best: tuple[float, dict[str, str]] | None = None
    for number in range(8):
        kinds = {name: "bram" if number >> index & 1 else "uram" for index, name in enumerate(names)}
        used = rest + _sum(memory.cost(kinds[memory.name]) for memory in memories(config))
        fullness = max(share(used.bram36, budget.bram36), share(used.uram, budget.uram))
        if best is None or fullness < best[0]:
            best = (fullness, kinds)
    assert best is not None
    return best[1]


def share(used: int, available: int) -> float:
    """Part of what is available that is used: 1.0 is all; infinite if there is none and some is needed."""
    if used == 0:
        return 0.0
    return used / available if available else float("inf")


def _sum(items: Iterable[Resources]) -> Resources:
    total = Resources()
    for item in items:
        total += item
    return total


def _ceil(value: int, step: int) -> int:
    return -(-value // step)
