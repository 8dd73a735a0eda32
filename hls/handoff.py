"""The hardware hand-off file (`.hwh`) of the block design, predicted, for pynq on an emulated board.

Vivado writes such a file beside a bitstream and pynq reads it to find cores, addresses, registers, interrupts and clocks.
This one has what pynq 3.0.1 to 4.0.0 reads of it and no more (no interconnects, resets or clock networks). It is marked
emulated; a real build replaces it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from xml.etree import ElementTree

from .boards import BOARD_TABLE, pl_clock
from .config import ArrayConfig
from .design import (
    CONTROL_BUS,
    CONTROL_MASTER,
    DDR_HIGH_BASE,
    DDR_HIGH_SIZE,
    DDR_LOW_SIZE,
    DESIGN,
    IDENTITY,
    INTERRUPT_CONCAT,
    INTERRUPT_CONTROLLER,
    KERNEL,
    KERNEL_VLNV,
    PROCESSOR,
    SLAVES,
    MemoryPort,
    Slave,
    memory_ports,
)
from .regmap import TOP, RegisterMap, predict_map

EMULATED_MARK = "emulated: predicted by systolora, no vendor tool was run"
_VIVADO_VERSION = "2024.1"
_MEMORY_MAPPED = "xilinx.com:interface:aximm:1.0"
_INTERRUPT_PIN = "pl_ps_irq0"
_DEFAULT_BOARD = "kv260"

Ends = tuple[tuple[str, str], ...]


def render_handoff(config: ArrayConfig) -> str:
    """The text of the `.hwh` file. A configuration without a board is described as if on a KV260 of any size.

    The clock is the one that the processor can really give (`boards.pl_clock`).
    """
    board = BOARD_TABLE[config.board or _DEFAULT_BOARD]
    root = ElementTree.Element(
        "EDKSYSTEM", {"EDWVERSION": "1.2", "TIMESTAMP": EMULATED_MARK, "VIVADOVERSION": _VIVADO_VERSION}
    )
    root.append(ElementTree.Comment(f" {EMULATED_MARK}; fingerprint {config.fingerprint_text} "))
    device = board.part.split("-", 1)[0]
    system = {"ARCH": "zynquplus", "BOARD": board.name, "DEVICE": device, "NAME": DESIGN}
    ElementTree.SubElement(root, "SYSTEMINFO", system)
    ElementTree.SubElement(root, "EXTERNALPORTS")
    ElementTree.SubElement(root, "EXTERNALINTERFACES")
    modules = ElementTree.SubElement(root, "MODULES")
    _kernel(modules, predict_map(), board.dram_mb, memory_ports(config.output_ports))
    _interrupts(modules)
    _identity(modules)
    _processor(modules, config)
    ElementTree.indent(root, " ")
    return '<?xml version="1.0" encoding="UTF-8" standalone="no" ?>\n' + ElementTree.tostring(root, "unicode") + "\n"


def _module(
    parent: ElementTree.Element, instance: str, kind: str, vlnv: str, parameters: Mapping[str, object]
) -> ElementTree.Element:
    """A MODULE with its five sections in the order in which Vivado writes them."""
    module = ElementTree.SubElement(
        parent,
        "MODULE",
        {
            "FULLNAME": f"/{instance}",
            "HWVERSION": vlnv.split(":")[-1],
            "INSTANCE": instance,
            "IPTYPE": "PERIPHERAL",
            "IS_ENABLE": "1",
            "IS_PL": "FALSE" if instance == PROCESSOR else "TRUE",
            "MODCLASS": "PERIPHERAL",
            "MODTYPE": kind,
            "VLNV": vlnv,
        },
    )
    for section in ("ADDRESSBLOCKS", "PARAMETERS", "PORTS", "BUSINTERFACES", "MEMORYMAP"):
        ElementTree.SubElement(module, section)
    for name, value in parameters.items():
        ElementTree.SubElement(_section(module, "PARAMETERS"), "PARAMETER", {"NAME": name, "VALUE": str(value)})
    return module


def _section(module: ElementTree.Element, name: str) -> ElementTree.Element:
    section = module.find(name)
    assert section is not None, "every module is made with its sections"
    return section


def _port(
    module: ElementTree.Element,
    name: str,
    direction: str,
    kind: str = "undef",
    ends: Ends = (),
    high: int | None = None,
) -> None:
    """A pin, the pins it is connected to and, for a vector, its highest bit."""
    attributes = {"DIR": direction, "NAME": name, "SIGIS": kind, "SIGNAME": f"{module.get('INSTANCE')}_{name}"}
    if high is not None:
        attributes |= {"LEFT": str(high), "RIGHT": "0"}
    port = ElementTree.SubElement(_section(module, "PORTS"), "PORT", attributes)
    connections = ElementTree.SubElement(port, "CONNECTIONS")
    for instance, pin in ends:
        ElementTree.SubElement(connections, "CONNECTION", {"INSTANCE": instance, "PORT": pin})


def _bus(module: ElementTree.Element, name: str, role: str, pin: str, high: int, vlnv: str = _MEMORY_MAPPED) -> None:
    """A bus interface and the one pin of it that the parser needs; the pin is made if it is an address."""
    logical = "AWADDR" if vlnv == _MEMORY_MAPPED else "INTERRUPT"
    if vlnv == _MEMORY_MAPPED:
        _port(module, pin, "O" if role == "MASTER" else "I", high=high)
    attributes = {"BUSNAME": name, "NAME": name, "TYPE": role, "VLNV": vlnv}
    bus = ElementTree.SubElement(_section(module, "BUSINTERFACES"), "BUSINTERFACE", attributes)
    maps = ElementTree.SubElement(bus, "PORTMAPS")
    ElementTree.SubElement(maps, "PORTMAP", {"LOGICAL": logical, "PHYSICAL": pin})


def _range(
    module: ElementTree.Element, block: str, instance: str, base: int, size: int, buses: tuple[str, str]
) -> None:
    """One line of the address map of a master: `buses` are its own bus and that of the slave."""
    memory = instance == PROCESSOR
    attributes = {
        "ADDRESSBLOCK": block,
        "BASENAME": "C_BASEADDR",
        "BASEVALUE": f"0x{base:08X}",
        "HIGHNAME": "C_HIGHADDR",
        "HIGHVALUE": f"0x{base + size - 1:08X}",
        "INSTANCE": instance,
        "IS_DATA": "TRUE",
        "IS_INSTRUCTION": "TRUE",
        "MASTERBUSINTERFACE": buses[0],
        "MEMTYPE": "MEMORY" if memory else "REGISTER",
        "SLAVEBUSINTERFACE": buses[1],
    }
    ElementTree.SubElement(_section(module, "MEMORYMAP"), "MEMRANGE", attributes)


def _kernel(
    modules: ElementTree.Element, register_map: RegisterMap, dram_mb: int, ports: tuple[MemoryPort, ...]
) -> None:
    parameters: dict[str, object] = {
        "C_S_AXI_CONTROL_ADDR_WIDTH": register_map.address_bits,
        "C_S_AXI_CONTROL_DATA_WIDTH": 32,
    }
    for port in ports:
        # 0011 is the tool's default: bufferable and modifiable, not cacheable, hence never coherent.
        parameters[f"C_{port.master.upper()}_CACHE_VALUE"] = '"0011"'
    module = _module(modules, KERNEL, TOP, KERNEL_VLNV, parameters)
    attributes = {
        "ACCESS": "read-write",
        "INTERFACE": CONTROL_BUS,
        "NAME": "Reg",
        "RANGE": "65536",
        "USAGE": "register",
    }
    block = ElementTree.SubElement(_section(module, "ADDRESSBLOCKS"), "ADDRESSBLOCK", attributes)
    _registers(block, register_map)
    _port(module, "ap_clk", "I", "clk")
    _port(module, "ap_rst_n", "I", "rst")
    _port(module, "interrupt", "O", "INTERRUPT", ((INTERRUPT_CONCAT, "In0"),))
    _bus(module, CONTROL_BUS, "SLAVE", f"{CONTROL_BUS}_AWADDR", register_map.address_bits - 1)
    for port in ports:
        _bus(module, port.master, "MASTER", f"{port.master}_AWADDR", 63)
        for block_name, base, size in _memory_ranges(port, dram_mb):
            _range(module, block_name, PROCESSOR, base, size, (port.master, port.slave))


def _memory_ranges(port: MemoryPort, dram_mb: int) -> Iterable[tuple[str, int, int]]:
    yield f"{port.name}_DDR_LOW", 0, DDR_LOW_SIZE
    if dram_mb > DDR_LOW_SIZE >> 20:
        yield f"{port.name}_DDR_HIGH", DDR_HIGH_BASE, DDR_HIGH_SIZE


def _registers(block: ElementTree.Element, register_map: RegisterMap) -> None:
    registers = ElementTree.SubElement(block, "REGISTERS")
    for register in register_map.registers:
        element = ElementTree.SubElement(registers, "REGISTER", {"NAME": register.name})
        meaning = f"Data signal of {register.argument}" if register.argument else register.name
        properties = {
            "DESCRIPTION": meaning,
            "ADDRESS_OFFSET": register.offset,
            "SIZE": 32,
            "ACCESS": register.access,
            "IS_ENABLED": "true",
            "RESET_VALUE": 0,
        }
        _properties(element, properties)
        fields = ElementTree.SubElement(element, "FIELDS")
        for field in register.fields:
            properties = {
                "DESCRIPTION": field.name,
                "ADDRESS_OFFSET": field.lsb,
                "ACCESS": field.access,
                "BIT_OFFSET": field.lsb,
                "BIT_WIDTH": field.bits,
            }
            _properties(ElementTree.SubElement(fields, "FIELD", {"NAME": field.name}), properties)


def _properties(element: ElementTree.Element, properties: Mapping[str, object]) -> None:
    for name, value in properties.items():
        ElementTree.SubElement(element, "PROPERTY", {"NAME": name, "VALUE": str(value)})


def _interrupts(modules: ElementTree.Element) -> None:
    """Kernel -> xlconcat -> axi_intc -> processor: the only chain in which pynq finds an interrupt of every version."""
    concat = _module(modules, INTERRUPT_CONCAT, "xlconcat", "xilinx.com:ip:xlconcat:2.1", {"NUM_PORTS": 1})
    _port(concat, "In0", "I", ends=((KERNEL, "interrupt"),), high=0)
    _port(concat, "dout", "O", ends=((INTERRUPT_CONTROLLER, "intr"),), high=0)
    controller = _module(modules, INTERRUPT_CONTROLLER, "axi_intc", "xilinx.com:ip:axi_intc:4.1", {})
    _port(controller, "intr", "I", "INTERRUPT", ((INTERRUPT_CONCAT, "dout"),), high=0)
    _port(controller, "irq", "O", "INTERRUPT", ((PROCESSOR, _INTERRUPT_PIN),))
    _bus(controller, "s_axi", "SLAVE", "s_axi_awaddr", 8)
    _bus(controller, "interrupt", "INITIATOR", "irq", 0, "xilinx.com:interface:mbinterrupt:1.0")


def _identity(modules: ElementTree.Element) -> None:
    """Two read-only words: channel 1 is the fingerprint, channel 2 the magic number."""
    parameters = {"C_ALL_INPUTS": 1, "C_ALL_INPUTS_2": 1, "C_GPIO_WIDTH": 32, "C_GPIO2_WIDTH": 32, "C_IS_DUAL": 1}
    module = _module(modules, IDENTITY, "axi_gpio", "xilinx.com:ip:axi_gpio:2.0", parameters)
    _port(module, "gpio_io_i", "I", high=31)
    _port(module, "gpio2_io_i", "I", high=31)
    _bus(module, "S_AXI", "SLAVE", "s_axi_awaddr", 8)


def _processor(modules: ElementTree.Element, config: ArrayConfig) -> None:
    module = _module(
        modules, PROCESSOR, "zynq_ultra_ps_e", "xilinx.com:ip:zynq_ultra_ps_e:3.5", _processor_parameters(config)
    )
    _port(module, "pl_clk0", "O", "clk")
    _port(module, _INTERRUPT_PIN, "I", "INTERRUPT", ((INTERRUPT_CONTROLLER, "irq"),), high=0)
    _bus(module, CONTROL_MASTER, "MASTER", "maxigp0_awaddr", 39)
    for port in memory_ports(config.output_ports):
        _bus(module, port.slave, "SLAVE", f"saxigp{port.slot}_awaddr", 48)
    for slave in SLAVES:
        _slave_range(module, slave)


def _slave_range(module: ElementTree.Element, slave: Slave) -> None:
    _range(module, "Reg", slave.instance, slave.base, slave.size, (CONTROL_MASTER, slave.bus))


def _processor_parameters(config: ArrayConfig) -> dict[str, object]:
    """The four PL clocks (pynq needs them all) and the widths of the ports, which pynq programs when it loads a design."""
    clock = pl_clock(config)
    parameters: dict[str, object] = {}
    for index in range(4):
        prefix = f"PSU__CRL_APB__PL{index}_REF_CTRL__"
        first = index == 0
        parameters[f"PSU__FPGA_PL{index}_ENABLE"] = int(first)
        parameters[prefix + "DIVISOR0"] = clock.divisors[0] if first else 15
        parameters[prefix + "DIVISOR1"] = clock.divisors[1] if first else 1
        parameters[prefix + "ACT_FREQMHZ"] = clock.mhz if first else 100
        parameters[prefix + "SRCSEL"] = "IOPLL"
    parameters["C_MAXIGP0_DATA_WIDTH"] = 128
    for port in memory_ports(config.output_ports):
        parameters[f"C_SAXIGP{port.slot}_DATA_WIDTH"] = 128
    return parameters
