"""The boards: what their FPGA holds, what Vivado needs to know of them, and the clock that their processor can give.

Part counts are from the data sheets DS891 (Zynq UltraScale+ MPSoC), DS889 (RFSoC) and DS987 (Kria K26); board part names as
found in public Vivado projects. Nothing here was checked with Vivado.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from .config import ArrayConfig, ConfigError
from .resources import Resources
from .sizes import PORT_BYTES

IO_PLL_MHZ = 33.333 * 90 / 2
"""The I/O PLL as some boot images of these boards set it: 33.333 MHz x 90 / 2 = 1499.985 MHz; others have x 60 / 2."""

COMMON_CLOCK_MHZ = 33.333 * 30 / 2
"""499.995 MHz: an integer part of both PLLs, 1,000 and 1,500 MHz. Hand-off files of real Kria designs have either."""

MOST_PORT_MHZ = 333.34
"""Fastest clock of a memory port: Vivado warns critically of more than 333.33 MHz (github.com/esa-tu-darmstadt/tapasco, issue 205). The data
sheets DS925 and DS926 have the figure for each speed grade under "PS-PL Interface Performance"; that table could not be read here."""

_LARGEST_DIVIDER = 63


@dataclass(frozen=True)
class Board:
    """One board.

    Attributes:
        name: preset name in `config.BOARDS`.
        title: as the vendor writes it.
        part: FPGA part number.
        lut, ff, dsp, bram36, uram: what the part holds (BRAM in 36 Kbit blocks, URAM in 288 Kbit blocks).
        dram_gbps: peak bandwidth of the processor's memory in 10**9 bytes a second.
        sustained_gbps: what others have measured from the FPGA, or the nearest board's part of the peak: `BOARD_TABLE`.
        dram_mb: size of that memory. Above 2048 part of it lies at 0x8_0000_0000 (DDR high).
        board_part: pattern that finds the board part in Vivado's catalogue, any vendor prefix and version.
        board_files: where Vivado gets the board files from.
    """

    name: str
    title: str
    part: str
    lut: int
    ff: int
    dsp: int
    bram36: int
    uram: int
    dram_gbps: float
    sustained_gbps: float
    dram_mb: int
    board_part: str
    board_files: str

    @property
    def budget(self) -> Resources:
        """What the part holds."""
        return Resources(self.lut, self.ff, self.dsp, self.bram36, self.uram)


_VIVADO = "part of Vivado's installation"
_STORE = "Vivado's board store: xhub::install [xhub::get_xitems *{}*]"

BOARD_TABLE: dict[str, Board] = {
    board.name: board
    for board in (
        Board("kv260", "Kria KV260", "xck26-sfvc784-2LV-c", 117_120, 234_240, 1_248, 144, 64, 17.07, 8.5, 4096,
              "*:kv260_som:part0:*", _VIVADO),
        Board("kr260", "Kria KR260", "xck26-sfvc784-2LV-c", 117_120, 234_240, 1_248, 144, 64, 17.07, 8.5, 4096,
              "*:kr260_som:part0:*", _VIVADO),
        Board("zcu104", "ZCU104", "xczu7ev-ffvc1156-2-e", 230_400, 460_800, 1_728, 312, 96, 19.2, 14.4, 2048,
              "*:zcu104:part0:*", _VIVADO),
        Board("zcu102", "ZCU102", "xczu9eg-ffvb1156-2-e", 274_080, 548_160, 2_520, 912, 0, 19.2, 14.4, 4096,
              "*:zcu102:part0:*", _VIVADO),
        Board("rfsoc4x2", "RFSoC 4x2", "xczu48dr-ffvg1517-2-e", 425_280, 850_560, 4_272, 1_080, 80, 19.2, 14.4, 4096,
              "*:rfsoc4x2:part0:*", "https://github.com/RealDigitalOrg/RFSoC4x2-BSP (board_files)"),
        Board("ultra96v2", "Ultra96-V2", "xczu3eg-sbva484-1-i", 70_560, 141_120, 360, 216, 0, 8.5, 7.8, 2048,
              "*:ultra96v2:part0:*", _STORE.format("ultra96v2")),
    )
}  # fmt: skip
"""All boards for which there is a preset.

Bandwidth: the KV260's memory is DDR4-2133 (its hand-off files: 533.328 MHz), of which two reading and one writing port got 8.5 GB/s in
a published measurement with buffers as they are allocated. Manev et al. (FPT 2019, 10.1109/ICFPT47387.2019.00029) got 75 % of the
peak on a ZCU102 and 92.5 % on an Ultra96; ZCU104 and RFSoC 4x2 are taken to be like the former, the KR260 like the KV260.
"""


def board_of(config: ArrayConfig) -> Board | None:
    """The board of a configuration, or None if it names none.

    Raises:
        ConfigError: if it names a board that is not in the table, or a part that is not the board's, or asks for memory
            ports that the board does not have.
    """
    if not config.board:
        return None
    if config.board not in BOARD_TABLE:
        raise ConfigError(f"no board {config.board!r}: there are {', '.join(sorted(BOARD_TABLE))}")
    board = BOARD_TABLE[config.board]
    if config.part != board.part:
        raise ConfigError(
            f"part {config.part!r} is not that of {board.title}, which has {board.part}; give that part, or no board"
        )
    if (config.port_mhz or config.clock_mhz) > MOST_PORT_MHZ:
        raise ConfigError(
            f"port_mhz = {config.port_mhz:g}, clock_mhz = {config.clock_mhz:g}: memory ports of {board.title} take 333.33 MHz at most; "
            "give --port-mhz 300 (0 is the array's clock), or no board"
        )
    if config.bus_bytes > PORT_BYTES and not config.port_mhz:
        raise ConfigError(
            f"bus_bytes = {config.bus_bytes}: a memory port of {board.title} carries {PORT_BYTES} bytes in each clock of its own; "
            f"give that clock, --port-mhz up to 333, or --bus-bytes {PORT_BYTES} or less, or no board"
        )
    return board


@dataclass(frozen=True)
class PlClock:
    """A clock that the processor can give the FPGA: `IO_PLL_MHZ` through these two 6-bit dividers, or a PLL of 1,000 MHz through others."""

    divisors: tuple[int, int]
    mhz: float


def pl_clock(config: ArrayConfig) -> PlClock:
    """The fastest PL clock that is not above the configuration's (0.1 % aside, so that 250 MHz takes 249.9975).

    pynq sets PL clocks by integer divisors of the PLL that the boot image chose and never changes the PLL, so other
    frequencies would be silently replaced by a neighbour. Which PLL that is differs from image to image: only clocks that both
    give are offered, integer parts of `COMMON_CLOCK_MHZ` (500, 250, 166.67, 125, 100 ... MHz).
    """
    part = max(1, ceil(COMMON_CLOCK_MHZ / (config.clock_mhz * 1.001)))
    whole = round(IO_PLL_MHZ / COMMON_CLOCK_MHZ)
    while True:
        for second in range(1, _LARGEST_DIVIDER + 1):
            first, rest = divmod(whole * part, second)
            if rest == 0 and first <= _LARGEST_DIVIDER:
                return PlClock((first, second), round(COMMON_CLOCK_MHZ / part, 6))
        part += 1
