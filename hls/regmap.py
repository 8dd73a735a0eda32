"""The AXI-Lite register map that Vitis HLS gives the top function, predicted from `ARGUMENTS`.

Layout (UG1399, "S_AXILITE Control Register Map"; checked against public register headers of cores that others built with
Vitis HLS 2020.1, 2020.2, 2022.2 and 2023.2):

* 0x00 CTRL, 0x04 GIER, 0x08 IP_IER, 0x0C IP_ISR;
* arguments from 0x10 in the order of the C++ declaration. An input takes ceil(bits / 32) words and one reserved word, so
  64-bit values (pointers too) are not 8-byte aligned and are always two 32-bit writes;
* an output of up to 32 bits takes four words: data, control (bit 0 is `<name>_ap_vld`, clear on read), two reserved.
  (Vivado HLS 2019.2 and earlier left the two reserved words out.)

No vendor tool was run to make this file. After a real synthesis, `parse_header` reads the tool's own header and
`compare_maps` says where it differs.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from .registers import ARGUMENTS, Argument

TOP = "systolora_top"
"""Name of the top function, of the IP core and of its register block."""

CONTROL_NAMES = {0x00: "CTRL", 0x04: "GIER", 0x08: "IP_IER", 0x0C: "IP_ISR"}
_HEADER_CONTROL = {"AP_CTRL": "CTRL", "GIE": "GIER", "IER": "IP_IER", "ISR": "IP_ISR"}
_FIRST_ARGUMENT = 0x10
_MOST_BITS = {"pointer": 64, "scalar": 64, "output": 32}

READ_ONLY, READ_WRITE, WRITE_ONLY = "read-only", "read-write", "write-only"


class RegisterMapError(ValueError):
    """A register map that cannot be read, or an argument that it does not have."""


@dataclass(frozen=True)
class RegisterField:
    """Bits `lsb` .. `lsb + bits - 1` of a register; `access` as a hardware hand-off file spells it."""

    name: str
    lsb: int
    bits: int
    access: str


@dataclass(frozen=True)
class Register:
    """One 32-bit word of the register block.

    Attributes:
        name: as a hardware hand-off file names it: `<argument>`, or `<argument>_1`, `<argument>_2` for 64 bits.
        offset: bytes from the base address.
        access: "read-only", "read-write" or "write-only".
        fields: its bits, lowest first.
        argument: the top function's argument that it belongs to, or "" for CTRL, GIER, IP_IER and IP_ISR.
        word: which 32-bit word of the argument; -1 for the control word of an output.
    """

    name: str
    offset: int
    access: str
    fields: tuple[RegisterField, ...]
    argument: str = ""
    word: int = 0


@dataclass(frozen=True)
class RegisterMap:
    """All registers in the order of their offsets, and the number of bytes that they span."""

    registers: tuple[Register, ...]
    size: int

    @property
    def address_bits(self) -> int:
        """Width of the AXI-Lite address, as the tool sets C_S_AXI_CONTROL_ADDR_WIDTH."""
        return max(4, (self.size - 1).bit_length())

    @property
    def arguments(self) -> dict[str, tuple[int, int]]:
        """(offset, bits) of each argument, in order."""
        found: dict[str, tuple[int, int]] = {}
        for register in self.registers:
            if register.argument and register.word >= 0:
                offset, bits = found.get(register.argument, (register.offset, 0))
                found[register.argument] = (offset, bits + register.fields[0].bits)
        return found

    def offset(self, name: str) -> int:
        """Byte offset of an argument's first word, or of CTRL, GIER, IP_IER, IP_ISR.

        Raises:
            RegisterMapError: if there is no such argument; the text lists those that exist.
        """
        for register in self.registers:
            if name in (register.argument, register.name) and register.word == 0:
                return register.offset
        names = ", ".join([*CONTROL_NAMES.values(), *self.arguments])
        raise RegisterMapError(f"no register {name!r} in the map; there are {names}")


def predict_map(arguments: tuple[Argument, ...] = ARGUMENTS) -> RegisterMap:
    """The map of `ap_ctrl_hs` control with software reset and interrupt, for Vitis HLS 2022.1 and later.

    Raises:
        RegisterMapError: if an argument has a kind other than pointer, scalar or output, or a width other than 1 to 64
            (1 to 32 for an output).
    """
    registers = list(_control_registers())
    offset = _FIRST_ARGUMENT
    for argument in arguments:
        most = _MOST_BITS.get(argument.kind, 0)
        if not 1 <= argument.bits <= most:
            raise RegisterMapError(
                f"argument {argument.name!r} is a {argument.bits}-bit {argument.kind}; "
                "allowed are pointer and scalar of 1 to 64 bits and output of 1 to 32"
            )
        registers += _argument_words(argument, offset)
        offset = registers[-1].offset + _bytes_after_last(registers[-1])
    return RegisterMap(tuple(registers), offset)


def _control_registers() -> tuple[Register, ...]:
    ctrl = (
        RegisterField("AP_START", 0, 1, READ_WRITE),
        RegisterField("AP_DONE", 1, 1, READ_ONLY),
        RegisterField("AP_IDLE", 2, 1, READ_ONLY),
        RegisterField("AP_READY", 3, 1, READ_ONLY),
        RegisterField("RESERVED_1", 4, 3, READ_ONLY),
        RegisterField("AUTO_RESTART", 7, 1, READ_WRITE),
        RegisterField("SW_RESET", 8, 1, READ_WRITE),
        RegisterField("INTERRUPT", 9, 1, READ_ONLY),
        RegisterField("RESERVED_3", 10, 22, READ_ONLY),
    )
    gier = (RegisterField("Enable", 0, 1, READ_WRITE), RegisterField("RESERVED", 1, 31, READ_ONLY))
    enable = (
        RegisterField("CHAN0_INT_EN", 0, 1, READ_WRITE),
        RegisterField("CHAN1_INT_EN", 1, 1, READ_WRITE),
        RegisterField("RESERVED_0", 2, 30, READ_ONLY),
    )
    status = (
        RegisterField("CHAN0_INT_ST", 0, 1, READ_ONLY),
        RegisterField("CHAN1_INT_ST", 1, 1, READ_ONLY),
        RegisterField("RESERVED_0", 2, 30, READ_ONLY),
    )
    layouts = (ctrl, gier, enable, status)
    return tuple(
        Register(name, offset, READ_WRITE, layout)
        for (offset, name), layout in zip(CONTROL_NAMES.items(), layouts, strict=True)
    )


def _argument_words(argument: Argument, offset: int) -> list[Register]:
    output = argument.kind == "output"
    access = READ_ONLY if output else WRITE_ONLY
    count = -(-argument.bits // 32)
    words = []
    for word in range(count):
        bits = min(32, argument.bits - 32 * word)
        fields = [RegisterField(argument.name, 0, bits, access)]
        if bits < 32:
            fields.append(RegisterField("RESERVED", bits, 32 - bits, READ_ONLY))
        name = argument.name if count == 1 else f"{argument.name}_{word + 1}"
        words.append(Register(name, offset + 4 * word, access, tuple(fields), argument.name, word))
    if output:
        fields = [
            RegisterField(f"{argument.name}_ap_vld", 0, 1, READ_ONLY),
            RegisterField("RESERVED", 1, 31, READ_ONLY),
        ]
        name = f"{argument.name}_ctrl"
        words.append(Register(name, offset + 4 * count, READ_ONLY, tuple(fields), argument.name, -1))
    return words


def _bytes_after_last(last: Register) -> int:
    """From the last word that means something to the end of its argument: reserved words belong to it."""
    if last.word < 0:
        return 12
    return 8 if last.argument else 4


def render_json(register_map: RegisterMap) -> str:
    """The map as JSON: `top`, `address_bits`, `size`, `arguments` and `registers`, offsets as integers."""
    document = {
        "top": TOP,
        "origin": "predicted from the argument list; no vendor tool was run here",
        "address_bits": register_map.address_bits,
        "size": register_map.size,
        "arguments": [
            {"name": name, "offset": offset, "bits": bits} for name, (offset, bits) in register_map.arguments.items()
        ],
        "registers": [
            {
                "name": register.name,
                "offset": register.offset,
                "access": register.access,
                "fields": [
                    {"name": field.name, "lsb": field.lsb, "bits": field.bits, "access": field.access}
                    for field in register.fields
                ],
            }
            for register in register_map.registers
        ],
    }
    return json.dumps(document, indent=1) + "\n"


def render_header(register_map: RegisterMap, top: str = TOP) -> str:
    """The map as C macros with the names that the tool's own `x<top>_hw.h` gives them."""
    prefix = f"X{top.upper()}_CONTROL"
    lines = [
        f"// Register map of {top}, predicted from its argument list. Not run here: no vendor tool made this file.",
        "// After synthesis compare it with solution/impl/misc/drivers/*/src/x*_hw.h.",
        f"#ifndef {prefix}_PREDICTED_H",
        f"#define {prefix}_PREDICTED_H",
        "",
    ]
    for offset, name in zip(CONTROL_NAMES, _HEADER_CONTROL, strict=True):
        lines.append(f"#define {prefix}_ADDR_{name} 0x{offset:02x}")
    for name, (offset, bits) in register_map.arguments.items():
        lines.append(f"#define {prefix}_ADDR_{name.upper()}_DATA 0x{offset:02x}")
        lines.append(f"#define {prefix}_BITS_{name.upper()}_DATA {bits}")
    for register in register_map.registers:
        if register.word < 0:
            lines.append(f"#define {prefix}_ADDR_{register.argument.upper()}_CTRL 0x{register.offset:02x}")
    return "\n".join([*lines, "", "#endif", ""])


_DEFINE = re.compile(
    r"^#define\s+X\w+?_(ADDR|BITS)_(AP_CTRL|GIE|IER|ISR|\w+?(?=_DATA|_CTRL))(?:_(DATA|CTRL))?\s+(0x[0-9a-fA-F]+|\d+)\s*$",
    re.MULTILINE,
)


def parse_header(text: str) -> RegisterMap:
    """The map in a tool's `x<top>_hw.h`. Macro names are upper case, so argument names come back in lower case.

    Raises:
        RegisterMapError: if it has no register addresses, or an address without a width.
    """
    control: list[Register] = []
    places: dict[str, int] = {}
    widths: dict[str, int] = {}
    valid: dict[str, int] = {}
    for kind, name, suffix, number in _DEFINE.findall(text):
        value = int(number, 0)
        if kind == "ADDR" and name in _HEADER_CONTROL and not suffix:
            control.append(Register(_HEADER_CONTROL[name], value, READ_WRITE, ()))
        elif kind == "BITS":
            widths[name.lower()] = value
        elif suffix == "CTRL":
            valid[name.lower()] = value
        else:
            places[name.lower()] = value
    if not control and not places:
        raise RegisterMapError("no register addresses found: give the x<top>_hw.h that Vitis HLS exports with the core")
    without = sorted(set(places) ^ set(widths))
    if without:
        raise RegisterMapError(f"{', '.join(without)}: address and width do not both stand in the header")
    registers = list(control)
    for name, place in places.items():
        output = name in valid
        registers += _argument_words(Argument(name, widths[name], "output" if output else "scalar", ""), place)
        if output and valid[name] != registers[-1].offset:
            raise RegisterMapError(f"{name}: control word at 0x{valid[name]:02x}, not after its data")
    ordered = sorted(registers, key=lambda register: register.offset)
    return RegisterMap(tuple(ordered), ordered[-1].offset + _bytes_after_last(ordered[-1]))


def compare_maps(predicted: RegisterMap, real: RegisterMap) -> list[str]:
    """One line per difference; empty if the driver can use `real` as it would use `predicted`.

    A real name with `_r` appended is taken as the same argument: the tool renames words that are reserved in VHDL or Verilog.
    """
    differences = []
    for name in CONTROL_NAMES.values():
        wanted, got = _control_offset(predicted, name), _control_offset(real, name)
        if wanted != got:
            differences.append(f"{name}: predicted {_place(wanted)}, the tool has {_place(got)}")
    found = {_plain(name, predicted.arguments): value for name, value in real.arguments.items()}
    for name, (offset, bits) in predicted.arguments.items():
        if name not in found:
            differences.append(f"argument {name}: predicted at 0x{offset:02x}, the tool has none of that name")
        elif found[name] != (offset, bits):
            differences.append(
                f"argument {name}: predicted {bits} bits at 0x{offset:02x}, "
                f"the tool has {found[name][1]} bits at 0x{found[name][0]:02x}"
            )
    for name in found.keys() - predicted.arguments.keys():
        differences.append(f"argument {name}: the tool has it at 0x{found[name][0]:02x}, the prediction has none")
    return differences


def _control_offset(register_map: RegisterMap, name: str) -> int | None:
    return next((register.offset for register in register_map.registers if register.name == name), None)


def _place(offset: int | None) -> str:
    return "none" if offset is None else f"0x{offset:02x}"


def _plain(name: str, known: dict[str, tuple[int, int]]) -> str:
    return name[:-2] if name.endswith("_r") and name not in known and name[:-2] in known else name
