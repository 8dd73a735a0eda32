from __future__ import annotations

import json

import pytest
from systolora.hls.registers import ARGUMENTS, Argument
from systolora.hls.regmap import RegisterMapError, compare_maps, parse_header, predict_map, render_header, render_json

# The form of a header that Vitis HLS 2022.2 writes, written by hand for a pointer, a scalar and two outputs. The distances follow published headers: 8 bytes for a 32-bit
# input, 12 for a pointer, 16 for an output.
REAL_HEADER = """\
// ==============================================================
// Vitis HLS - High-Level Synthesis from C, C++ and OpenCL v2022.2 (64-bit)
// ==============================================================
// control
// 0x00 : Control signals
//        bit 8  - sw_reset (Read/Write)
// 0x10 : Data signal of table
#define XPROBE_CONTROL_ADDR_AP_CTRL     0x00
#define XPROBE_CONTROL_ADDR_GIE         0x04
#define XPROBE_CONTROL_ADDR_IER         0x08
#define XPROBE_CONTROL_ADDR_ISR         0x0c
#define XPROBE_CONTROL_ADDR_TABLE_DATA  0x10
#define XPROBE_CONTROL_BITS_TABLE_DATA  64
#define XPROBE_CONTROL_ADDR_START_R_DATA 0x1c
#define XPROBE_CONTROL_BITS_START_R_DATA 1
#define XPROBE_CONTROL_ADDR_COUNT_DATA  0x24
#define XPROBE_CONTROL_BITS_COUNT_DATA  32
#define XPROBE_CONTROL_ADDR_COUNT_CTRL  0x28
#define XPROBE_CONTROL_ADDR_LAST_DATA   0x34
#define XPROBE_CONTROL_BITS_LAST_DATA   32
#define XPROBE_CONTROL_ADDR_LAST_CTRL   0x38
"""
PROBE = (
    Argument("table", 64, "pointer", ""),
    Argument("start", 1, "scalar", ""),
    Argument("count", 32, "output", ""),
    Argument("last", 32, "output", ""),
)


def test_offsets_of_the_accelerator() -> None:
    """Written out, so that a change of the argument list or of the rule shows here."""
    register_map = predict_map()
    assert {name: offset for name, (offset, _) in register_map.arguments.items()} == {
        "memory_program": 0x10,
        "memory_input": 0x1C,
        "memory_weight": 0x28,
        "memory_output": 0x34,
        "window_address": 0x40,
        "window_size": 0x4C,
        "program_address": 0x58,
        "instruction_count": 0x64,
        "status_address": 0x6C,
        "sequence": 0x78,
        "error": 0x80,
        "error_index": 0x90,
        "fingerprint": 0xA0,
    }
    assert {name: bits for name, (_, bits) in register_map.arguments.items()} == {
        argument.name: argument.bits for argument in ARGUMENTS
    }
    assert register_map.size == 0xB0
    assert register_map.address_bits == 8


def test_control_bits() -> None:
    fields = {field.name: field.lsb for field in predict_map().registers[0].fields}
    assert fields["AP_START"] == 0
    assert fields["AP_DONE"] == 1
    assert fields["AP_IDLE"] == 2
    assert fields["SW_RESET"] == 8
    assert fields["INTERRUPT"] == 9


@pytest.mark.parametrize("register", predict_map().registers, ids=lambda register: register.name)
def test_fields_fill_a_word(register: object) -> None:
    place = 0
    for field in register.fields:  # type: ignore[attr-defined]
        assert field.lsb == place
        place += field.bits
    assert place == 32


def test_offset_by_name() -> None:
    register_map = predict_map()
    assert register_map.offset("CTRL") == 0
    assert register_map.offset("window_size") == 0x4C
    assert register_map.offset("fingerprint") == 0xA0
    with pytest.raises(RegisterMapError, match="no register 'scale' in the map; there are CTRL, GIER"):
        register_map.offset("scale")


def test_rule_reproduces_a_tool_header() -> None:
    assert compare_maps(predict_map(PROBE), parse_header(REAL_HEADER)) == []
    assert parse_header(REAL_HEADER).size == predict_map(PROBE).size == 0x44


def test_own_header_reads_back() -> None:
    predicted = predict_map()
    assert compare_maps(predicted, parse_header(render_header(predicted))) == []


def test_differences_are_named() -> None:
    moved = (
        REAL_HEADER.replace("COUNT_DATA  0x24", "COUNT_DATA  0x2c")
        .replace("0x28", "0x30")
        .replace("GIE         0x04", "GIE  0x40")
    )
    wide = moved.replace("BITS_TABLE_DATA  64", "BITS_TABLE_DATA  32").replace("LAST", "FINAL")
    assert compare_maps(predict_map(PROBE), parse_header(wide)) == [
        "GIER: predicted 0x04, the tool has 0x40",
        "argument table: predicted 64 bits at 0x10, the tool has 32 bits at 0x10",
        "argument count: predicted 32 bits at 0x24, the tool has 32 bits at 0x2c",
        "argument last: predicted at 0x34, the tool has none of that name",
        "argument final: the tool has it at 0x34, the prediction has none",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int main;", "no register addresses found"),
        (
            REAL_HEADER.replace("#define XPROBE_CONTROL_BITS_LAST_DATA   32\n", ""),
            "last: address and width do not both",
        ),
        (REAL_HEADER.replace("LAST_CTRL   0x38", "LAST_CTRL   0x3c"), "last: control word at 0x3c, not after its data"),
    ],
)
def test_unreadable_headers(text: str, message: str) -> None:
    with pytest.raises(RegisterMapError, match=message):
        parse_header(text)


@pytest.mark.parametrize(
    "argument", [Argument("x", 64, "output", ""), Argument("x", 8, "array", ""), Argument("x", 0, "scalar", "")]
)
def test_arguments_without_a_rule_are_refused(argument: Argument) -> None:
    with pytest.raises(RegisterMapError, match="allowed are pointer and scalar of 1 to 64 bits and output of 1 to 32"):
        predict_map((argument,))


def test_json_names_each_register() -> None:
    document = json.loads(render_json(predict_map()))
    assert document["top"] == "systolora_top"
    assert [register["offset"] for register in document["registers"]] == sorted(
        register["offset"] for register in document["registers"]
    )
    assert {"name": "fingerprint", "offset": 0xA0, "bits": 32} in document["arguments"]
    assert "no vendor tool" in document["origin"]
