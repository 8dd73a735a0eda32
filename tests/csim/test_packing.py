"""Two products in one DSP48E2: the template's own function, on all 2**24 operand triples."""

import shutil
import subprocess
from pathlib import Path

import pytest
from systolora.hls.config import ArrayConfig
from systolora.sim.csim.build import csim_sources

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")

OFFSET = "kPackedOffset = 18;"
CORRECTION = " + product_t((both >> (kPackedOffset - 1)) & 1);"

BENCH = """
#include <cstdio>
#include "array.hpp"
// Prints how many triples there are, how many have a wrong product, and how many do not fit the ports of a DSP48E2.
int main()
{
    long triples = 0, wrong = 0, misfits = 0;
    for (int weight1 = -128; weight1 < 128; ++weight1) {
        for (int weight0 = -128; weight0 < 128; ++weight0) {
            const long packed = weight1 * (1L << kPackedOffset) + weight0;
            misfits += packed < -(1L << 26) || packed >= 1L << 26;
            for (int activation = -128; activation < 128; ++activation) {
                product_t product0, product1;
                multiply_pair(activation, weight0, weight1, product0, product1);
                wrong += product0 != activation * weight0 || product1 != activation * weight1;
                ++triples;
            }
        }
    }
    std::printf("%ld %ld %ld\\n", triples, wrong, misfits);
}
"""


def _count(folder: Path, *changes: tuple[str, str]) -> list[int]:
    for path, text in csim_sources(ArrayConfig()).items():
        (folder / Path(path).name).write_text(text)
    array = (folder / "array.hpp").read_text()
    for old, new in changes:
        assert array.count(old) == 1
        array = array.replace(old, new)
    (folder / "array.hpp").write_text(array)
    (folder / "bench.cpp").write_text(BENCH)
    program = str(folder / "bench")
    subprocess.run(
        ["g++", "-std=c++14", "-O2", "-w", "-DSYSTOLORA_NATIVE", str(folder / "bench.cpp"), "-o", program], check=True
    )
    return [int(word) for word in subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()]


def test_every_product_of_a_pair_is_exact(tmp_path):
    assert _count(tmp_path) == [2**24, 0, 0]


def test_without_the_correction_a_negative_low_product_spoils_the_high_one(tmp_path):
    # weight0 * activation < 0: 128 * 127 + 127 * 128 pairs of them, for each weight1.
    assert _count(tmp_path, (CORRECTION, ";"))[1] == (128 * 127 + 127 * 128) * 256


def test_a_smaller_offset_has_no_room_for_the_largest_product(tmp_path):
    # -128 * -128 does not fit in 15 bits.
    assert _count(tmp_path, (OFFSET, "kPackedOffset = 15;"))[1] > 0


def test_a_larger_offset_does_not_fit_the_port(tmp_path):
    assert _count(tmp_path, (OFFSET, "kPackedOffset = 20;"))[2] > 0
