"""Two sums in one chain of DSPs: the template's own functions, on the edges of all operands and on random extremes."""

import shutil
import subprocess
from pathlib import Path

import pytest
from systolora.hls.config import ArrayConfig
from systolora.sim.csim.build import csim_sources

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")

OFFSET = "kPackedOffset = 18;"
START = "constexpr int32_t kChainStart = (1 << (kPackedOffset - 1)) - 1;"
PROOF = "static_assert(kChain * 128 * 128 + kChainStart"

BENCH = """
#include <cstdio>
#include <cstdlib>
#include "array.hpp"
// Sends random and extreme words through one chain of two columns, and compares what leaves with plain sums.
// Prints: clocks, wrong sums, packed weights that do not fit the port, the least and the largest low sum seen.
static int value(int kind)
{
    const int ends[4] = {-128, 127, -127, 0};
    return kind == 0 ? std::rand() % 256 - 128 : kind == 1 ? ends[std::rand() % 2] : kind == 2 ? -128 : ends[std::rand() % 4];
}
int main()
{
    long clocks = 0, wrong = 0, misfits = 0, least = 0, most = 0;
    for (int trial = 0; trial < 20000; ++trial) {
        const int kind_a = std::rand() % 4, kind_0 = std::rand() % 4, kind_1 = std::rand() % 4;
        const int sign = trial % 3;
        chain_t chain = kChainStart;
        long sum0 = 0, sum1 = 0;
        for (int r = 0; r < kChain; ++r) {
            const int weight0 = value(kind_0), weight1 = value(kind_1);
            // Two thirds of the trials drive the low sum to one of its ends.
            const int activation = sign == 0 ? value(kind_a) : (weight0 < 0) == (sign == 1) ? -128 : 127;
            packed_weight_t packed;
            pack_weights(data_t(weight0), data_t(weight1), packed);
            misfits += packed < -(1L << 26) || packed >= 1L << 26;
            chain = chain + factor_t(activation) * packed;
            sum0 += activation * weight0;
            sum1 += activation * weight1;
        }
        least = sum0 < least ? sum0 : least;
        most = sum0 > most ? sum0 : most;
        acc_t base[kGroups], total[kGroups];
        chain_t complete[kGroups];
        for (int g = 0; g < kGroups; ++g) {
            base[g] = acc_t(1000 * g - 7);
            complete[g] = chain;
        }
        for (int column = 0; column < 2; ++column) {
            add_chains(base, complete, column, total);
            for (int g = 0; g < kGroups; ++g) {
                wrong += total[g] != acc_t(1000 * g - 7 + (column == 0 ? sum0 : sum1));
                ++clocks;
            }
        }
    }
    std::printf("%ld %ld %ld %ld %ld\\n", clocks, wrong, misfits, least, most);
}
"""


def _count(folder: Path, *changes: tuple[str, str], headers: Path | None = None) -> list[int]:
    for path, text in csim_sources(ArrayConfig()).items():
        (folder / Path(path).name).write_text(text)
    array = (folder / "array.hpp").read_text()
    for old, new in changes:
        assert array.count(old) == 1
        array = array.replace(old, new)
    (folder / "array.hpp").write_text(array)
    (folder / "bench.cpp").write_text(BENCH)
    program = str(folder / "bench")
    types = ["-DSYSTOLORA_NATIVE"] if headers is None else ["-isystem", str(headers)]
    subprocess.run(["g++", "-std=c++14", "-O1", "-w", *types, str(folder / "bench.cpp"), "-o", program], check=True)
    return [int(word) for word in subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()]


ENDS = [-8 * 128 * 127, 8 * 128 * 128]
"""The least and the largest low sum of a chain of eight."""


def test_both_sums_of_a_chain_are_exact_to_its_ends(tmp_path):
    assert _count(tmp_path) == [20000 * 16, 0, 0, *ENDS]


def test_on_the_types_of_the_hardware_too(tmp_path, ap_headers):
    assert _count(tmp_path, headers=ap_headers) == [20000 * 16, 0, 0, *ENDS]


@pytest.mark.parametrize(
    ("start", "why"),
    [
        ("0", "a negative low sum borrows from the high one"),
        ("1 << (kPackedOffset - 1)", "the largest low sum carries into the high one"),
        ("8 * 128 * 127 - 1", "the least low sum borrows"),
    ],
)
def test_no_other_start_has_room(tmp_path, start, why):
    wrong = f"constexpr int32_t kChainStart = {start};"
    assert _count(tmp_path, (START, wrong), (PROOF, "static_assert(true || kChain * 128 * 128 + kChainStart"))[1] > 0, (
        why
    )


def test_the_start_is_asserted(tmp_path):
    with pytest.raises(subprocess.CalledProcessError):
        _count(tmp_path, (START, "constexpr int32_t kChainStart = 1 << (kPackedOffset - 1);"))


def test_a_larger_offset_does_not_fit_the_port(tmp_path):
    assert _count(tmp_path, (OFFSET, "kPackedOffset = 20;"))[2] > 0
