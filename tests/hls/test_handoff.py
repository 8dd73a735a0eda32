"""The rules that pynq's metadata parser has (tests/pynq load the same text with the real parser)."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from systolora.hls import BOARDS, ArrayConfig, board_config
from systolora.hls.boards import BOARD_TABLE, pl_clock
from systolora.hls.handoff import EMULATED_MARK, render_handoff
from systolora.hls.regmap import predict_map


def modules_of(config: ArrayConfig) -> dict[str, ElementTree.Element]:
    root = ElementTree.fromstring(render_handoff(config))
    return {module.attrib["INSTANCE"]: module for module in root.iter("MODULE")}


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_sections_that_the_parser_needs(name: str) -> None:
    root = ElementTree.fromstring(render_handoff(board_config(name)))
    assert root.tag == "EDKSYSTEM"
    assert root.attrib["VIVADOVERSION"] == "2024.1"
    assert root.attrib["TIMESTAMP"] == EMULATED_MARK
    system = root.find("SYSTEMINFO")
    assert system is not None
    assert BOARD_TABLE[name].part.startswith(system.attrib["DEVICE"])
    assert root.find("EXTERNALPORTS") is not None
    for module in root.iter("MODULE"):
        assert {"INSTANCE", "FULLNAME", "MODTYPE", "VLNV"} <= module.attrib.keys()
        assert len(module.attrib["VLNV"].split(":")) == 4


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_every_reference_resolves(name: str) -> None:
    """A port map or a connection to a pin that does not exist makes the parser fail."""
    modules = modules_of(board_config(name))
    pins = {(instance, port.attrib["NAME"]) for instance, module in modules.items() for port in module.iter("PORT")}
    for instance, module in modules.items():
        for mapped in module.iter("PORTMAP"):
            assert (instance, mapped.attrib["PHYSICAL"]) in pins
        for connection in module.iter("CONNECTION"):
            assert (connection.attrib["INSTANCE"], connection.attrib["PORT"]) in pins
        buses = {bus.attrib["NAME"] for bus in module.iter("BUSINTERFACE")}
        for block in module.iter("ADDRESSBLOCK"):
            assert block.attrib["INTERFACE"] in buses
        for line in module.iter("MEMRANGE"):
            assert line.attrib["MASTERBUSINTERFACE"] in buses
            slave = modules[line.attrib["INSTANCE"]]
            assert line.attrib["SLAVEBUSINTERFACE"] in {bus.attrib["NAME"] for bus in slave.iter("BUSINTERFACE")}


def test_interrupt_chain_goes_both_ways() -> None:
    modules = modules_of(board_config("kv260"))
    ends = {
        (instance, port.attrib["NAME"]): {
            (end.attrib["INSTANCE"], end.attrib["PORT"]) for end in port.iter("CONNECTION")
        }
        for instance, module in modules.items()
        for port in module.iter("PORT")
    }
    chain = [
        (("systolora_top_0", "interrupt"), ("interrupt_concat", "In0")),
        (("interrupt_concat", "dout"), ("axi_intc_0", "intr")),
        (("axi_intc_0", "irq"), ("zynq_ultra_ps_e_0", "pl_ps_irq0")),
    ]
    for source, target in chain:
        assert target in ends[source]
        assert source in ends[target]


def test_registers_are_those_predicted() -> None:
    kernel = modules_of(board_config("zcu104"))["systolora_top_0"]
    found = {}
    for register in kernel.iter("REGISTER"):
        properties = {item.attrib["NAME"]: item.attrib["VALUE"] for item in register.findall("PROPERTY")}
        found[register.attrib["NAME"]] = (int(properties["ADDRESS_OFFSET"]), properties["ACCESS"])
    assert found == {register.name: (register.offset, register.access) for register in predict_map().registers}
    parameters = {item.attrib["NAME"]: item.attrib["VALUE"] for item in kernel.iter("PARAMETER")}
    assert parameters["C_S_AXI_CONTROL_ADDR_WIDTH"] == "8"
    assert parameters["C_M_AXI_MEMORY_INPUT_CACHE_VALUE"] == '"0011"'


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_clocks_are_what_the_dividers_give(name: str) -> None:
    processor = modules_of(board_config(name))["zynq_ultra_ps_e_0"]
    parameters = {item.attrib["NAME"]: item.attrib["VALUE"] for item in processor.iter("PARAMETER")}
    prefix = "PSU__CRL_APB__PL0_REF_CTRL__"
    product = int(parameters[prefix + "DIVISOR0"]) * int(parameters[prefix + "DIVISOR1"])
    assert float(parameters[prefix + "ACT_FREQMHZ"]) == pytest.approx(1499.985 / product, abs=1e-6)
    assert parameters["PSU__FPGA_PL0_ENABLE"] == "1"
    assert [parameters[f"PSU__FPGA_PL{index}_ENABLE"] for index in (1, 2, 3)] == ["0", "0", "0"]


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_presets_ask_for_clocks_that_exist(name: str) -> None:
    config = board_config(name)
    assert pl_clock(config).mhz == pytest.approx(config.clock_mhz, rel=1e-3)
    assert pl_clock(config).mhz <= config.clock_mhz


@pytest.mark.parametrize(
    ("asked", "divisors"), [(250.0, (6, 1)), (249.0, (9, 1)), (200.0, (9, 1)), (17.0, (45, 2)), (1000.0, (3, 1))]
)
def test_clock_is_never_faster_than_asked(asked: float, divisors: tuple[int, int]) -> None:
    clock = pl_clock(ArrayConfig(clock_mhz=asked))
    assert clock.divisors == divisors
    assert clock.mhz == pytest.approx(1499.985 / (divisors[0] * divisors[1]), abs=1e-6)
    assert clock.mhz <= asked
    # The other PLL that boot images set gives it too.
    parts = 999.99 / clock.mhz
    assert parts == pytest.approx(round(parts), abs=1e-4)


@pytest.mark.parametrize("asked", [1.0, 2.3, 17.0])
def test_slow_clocks_take_two_dividers(asked: float) -> None:
    processor = modules_of(ArrayConfig(clock_mhz=asked))["zynq_ultra_ps_e_0"]
    parameters = {item.attrib["NAME"]: item.attrib["VALUE"] for item in processor.iter("PARAMETER")}
    first, second = (int(parameters[f"PSU__CRL_APB__PL0_REF_CTRL__DIVISOR{index}"]) for index in (0, 1))
    assert 1 <= first <= 63
    assert 1 <= second <= 63
    assert float(parameters["PSU__CRL_APB__PL0_REF_CTRL__ACT_FREQMHZ"]) == pytest.approx(
        1499.985 / (first * second), abs=1e-6
    )


def test_a_design_with_two_ports_for_results() -> None:
    """Programs and odd rows go through HPC0, which Vivado and pynq number 0; ports with a clock of their own change nothing in the file."""
    config = board_config("zcu102").with_changes(output_ports=2, bus_bytes=32, port_mhz=300.0)
    modules = modules_of(config)
    lines = [line.attrib for line in modules["systolora_top_0"].iter("MEMRANGE")]
    taken = {line["MASTERBUSINTERFACE"]: (line["SLAVEBUSINTERFACE"], line["ADDRESSBLOCK"]) for line in lines[::2]}
    assert taken["m_axi_memory_program"] == ("S_AXI_HPC0_FPD", "HPC0_DDR_LOW")
    assert taken["m_axi_memory_output"] == ("S_AXI_HP3_FPD", "HP3_DDR_LOW")
    parameters = {item.attrib["NAME"]: item.attrib["VALUE"] for item in modules["zynq_ultra_ps_e_0"].iter("PARAMETER")}
    assert {name for name in parameters if name.startswith("C_SAXIGP")} == {
        f"C_SAXIGP{slot}_DATA_WIDTH" for slot in (0, 2, 3, 5)
    }
    pins = {port.attrib["NAME"] for port in modules["zynq_ultra_ps_e_0"].iter("PORT")}
    assert {"saxigp0_awaddr", "pl_clk0"} <= pins
    assert parameters["PSU__FPGA_PL1_ENABLE"] == "0"


def test_high_memory_only_where_there_is_some() -> None:
    for name, expected in (("zcu104", 4), ("kv260", 8)):
        lines = list(modules_of(board_config(name))["systolora_top_0"].iter("MEMRANGE"))
        assert len(lines) == expected
    high = [line for line in lines if line.attrib["ADDRESSBLOCK"].endswith("HIGH")]
    assert {line.attrib["BASEVALUE"] for line in high} == {"0x800000000"}


def test_fingerprint_stands_in_the_text() -> None:
    config = ArrayConfig(rows=8, cols=8)
    assert f"fingerprint {config.fingerprint_text}" in render_handoff(config)
