"""Multiply-adds that fit one DSP48E2 with its registers, and the Verilog in which each of them is such a block.

Open tools map the multiplier of UltraScale+ alone, not the addition and registers around it. So what Vivado's inference asks for
(UG901, UG579) is looked for in the nets, and synthesis counts what is left around the blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

from .design import Rtl, operand
from .net import Net

FACTOR_BITS = (27, 18)
SUM_BITS = 48
BLOCK = "multiply_add"


@dataclass(frozen=True)
class MultiplyAdd:
    """`register <= addend + left * right`, where the product has no other reader."""

    register: str
    addend: Net
    left: Net
    right: Net

    @property
    def cascaded(self) -> bool:
        """Whether the addend comes from a register: of the block above (PCIN) if that is a block too, not a constant (RND)."""
        return self.addend.kind == "register"


def multiply_adds(rtl: Rtl) -> dict[str, MultiplyAdd]:
    """The multiply-adds of a design that fit a block, by register."""
    readers: dict[int, int] = {}
    ends = [register.after for register in rtl.registers] + [port.net for port in rtl.outputs]
    for read in (*ends, *(part for net in rtl.nets for part in net.operands)):
        readers[id(read)] = readers.get(id(read), 0) + 1
    found = {}
    for register in rtl.registers:
        total = register.after
        if total.kind != "+" or readers[id(total)] != 1 or register.ctype.bits > SUM_BITS:
            continue
        for addend, product in (total.operands, total.operands[::-1]):
            if product.kind == "*" and readers[id(product)] == 1 and addend.kind in ("register", "constant"):
                if _fits(product):
                    found[register.name] = MultiplyAdd(register.name, addend, *product.operands)
                break
    return found


def _fits(product: Net) -> bool:
    narrow, wide = sorted(factor.bits + (not factor.signed) for factor in product.operands)
    return wide <= FACTOR_BITS[0] and narrow <= FACTOR_BITS[1]


def block_verilog(rtl: Rtl) -> str:
    """The design with a black box for each multiply-add."""
    blocks = multiply_adds(rtl)
    text = rtl.verilog(frozenset(blocks))
    lines = [
        f"  {BLOCK} block_{block.register} (.clk(clk), .a({operand(block.left, True)}), .b({operand(block.right, True)}), "
        f".c({operand(block.addend, True)}), .p({block.register}));"
        for block in blocks.values()
    ]
    body, end = text.rsplit("endmodule", 1)
    box = [
        f"(* blackbox *) module {BLOCK}(input clk, input signed [{FACTOR_BITS[0] - 1}:0] a, b,",
        f"  input signed [{SUM_BITS - 1}:0] c, output signed [{SUM_BITS - 1}:0] p);",
        "endmodule",
    ]
    return "\n".join([*box, body + "\n".join(lines), "endmodule" + end])
