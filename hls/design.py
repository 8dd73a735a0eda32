"""Names and addresses of the block design, shared by the Vivado script, the hardware hand-off file and the driver."""

from __future__ import annotations

from dataclasses import dataclass

from .registers import ARGUMENTS, STATUS_MAGIC
from .regmap import TOP

DESIGN = "systolora"
"""Name of the block design and of its files."""

PROCESSOR = "zynq_ultra_ps_e_0"
KERNEL = f"{TOP}_0"
KERNEL_VLNV = f"xilinx.com:hls:{TOP}:1.0"
IDENTITY = "systolora_id"
INTERRUPT_CONTROLLER = "axi_intc_0"
INTERRUPT_CONCAT = "interrupt_concat"

PORT_CLOCK = "port_clock"
"""The clocking wizard of memory ports that are faster than the array."""

LOCK_COUNTER_BITS = 17
"""Of the counter that resets it while it is not locked: half of its round, 65,536 clocks, is more than the 100 us that locking takes at
most (DS925, "MMCM Switching Characteristics") at up to 650 MHz, and ends within 10 ms at 20 MHz and more."""

CONTROL_BUS = "s_axi_control"
CONTROL_MASTER = "M_AXI_HPM0_FPD"

IDENTITY_MAGIC = STATUS_MAGIC
"""What the second channel of the identity register reads; the first reads the fingerprint."""


@dataclass(frozen=True)
class Slave:
    """A register block: instance, its bus, first address and size in bytes."""

    instance: str
    bus: str
    base: int
    size: int


SLAVES: tuple[Slave, ...] = (
    Slave(KERNEL, CONTROL_BUS, 0xA000_0000, 0x1_0000),
    Slave(INTERRUPT_CONTROLLER, "s_axi", 0xA001_0000, 0x1_0000),
    Slave(IDENTITY, "S_AXI", 0xA002_0000, 0x1_0000),
)


@dataclass(frozen=True)
class MemoryPort:
    """One AXI master of the core and the processor port that it reaches memory through.

    Attributes:
        argument: pointer argument of the top function; also its bundle, so that the master is `m_axi_<argument>`.
        name: of the processor's port, HP0 to HP3, or HPC0.
    """

    argument: str
    name: str

    @property
    def master(self) -> str:
        """Bus of the core."""
        return f"m_axi_{self.argument}"

    @property
    def slave(self) -> str:
        """Bus of the processor: a 128-bit port, not coherent, HPC0 neither, because the core's AxCACHE is 0011."""
        return f"S_AXI_{self.name}_FPD"

    @property
    def slot(self) -> int:
        """Number under which Vivado's processor block knows the port: S_AXI_GP0 is HPC0, S_AXI_GP2 to GP5 are HP0 to HP3."""
        return 0 if self.name == "HPC0" else int(self.name[-1]) + 2

    @property
    def segment(self) -> str:
        """Stem of the port's address segments in the processor's map."""
        return f"SAXIGP{self.slot}/{self.name}_DDR"

    @property
    def clock(self) -> str:
        """Clock pin of the processor port."""
        return f"saxi{self.name.lower()}_fpd_aclk"


_PORTS = {"memory_program": "HP2", "memory_input": "HP1", "memory_weight": "HP0", "memory_output": "HP3"}
"""HP1 and HP2 share a port of the memory controller (UG1085, figure "DDR memory controller"), so the nearly idle program has one of them."""


def memory_ports(output_ports: int = 1) -> tuple[MemoryPort, ...]:
    """The memory ports of a design: with two for results that of programs is busy too, and HPC0 has a port of the controller for itself."""
    ports = _PORTS if output_ports == 1 else {**_PORTS, "memory_program": "HPC0"}
    return tuple(
        MemoryPort(argument.name, ports[argument.name]) for argument in ARGUMENTS if argument.kind == "pointer"
    )


DDR_LOW_SIZE = 0x8000_0000
DDR_HIGH_BASE = 0x8_0000_0000
DDR_HIGH_SIZE = 0x8_0000_0000
"""32 GB: the whole of that range in the processor's map (UG1085), however much of it is memory, as hand-off files have it."""

REQUESTS_IN_FLIGHT = 8
"""Requests that a memory port holds at once: what the AXI FIFO interface of a Zynq UltraScale+ port takes."""

BURST_WORDS = 64
"""Bus words of the longest request; so many times `REQUESTS_IN_FLIGHT` is each buffer of a port."""

WRITTEN_PORTS = ("memory_program", "memory_output")
"""The memory ports that are written through; the others only read."""
