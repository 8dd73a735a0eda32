from __future__ import annotations

import json
from pathlib import Path

import pytest
from systolora.bitstreams.manifest import load_manifest
from systolora.bitstreams.store import verify
from systolora.board.bitstream_files import (
    BuildError,
    main,
    parse_utilization,
    record_build,
    render_folder,
    stale_files,
    update_folders,
)
from systolora.hls import BOARDS, ArrayConfig, ConfigError, board_config
from systolora.hls.regmap import predict_map, render_header

# Rows of Vivado's report_utilization, written by hand in its form; no tool made them.
UTILIZATION = """
| Site Type               |  Used | Fixed | Prohibited | Available | Util% |
| CLB LUTs                | 80123 |     0 |          0 |    117120 | 68.41 |
|   LUT as Logic          | 76000 |     0 |          0 |    117120 | 64.89 |
| CLB Registers           | 98765 |     0 |          0 |    234240 | 42.16 |
| Block RAM Tile |  9.5 |     0 |          0 |       144 |  6.60 |
| URAM           |   48 |     0 |          0 |        64 | 75.00 |
| DSPs           |  612 |     0 |          0 |      1248 | 49.04 |
"""
HEADER = "// Vitis HLS - High-Level Synthesis from C, C++ and OpenCL v2023.2 (64-bit)\n" + render_header(predict_map())


def make_results(folder: Path, config: ArrayConfig, **changes: object) -> Path:
    (folder / "reports").mkdir(parents=True)
    (folder / "systolora.bit").write_bytes(b"bits")
    (folder / "systolora.hwh").write_text("handoff")
    build = {"vivado": "2024.1", "fingerprint": config.fingerprint_text, "wns_ns": 0.12} | changes
    (folder / "build.json").write_text(json.dumps(build))
    (folder / "xsystolora_top_hw.h").write_text(HEADER)
    (folder / "reports/utilization.rpt").write_text(UTILIZATION)
    return folder


def test_committed_folders_are_current() -> None:
    """If this fails: python -m systolora.board.bitstream_files"""
    assert stale_files() == []
    assert main(["--check"]) == 0


def test_update_writes_all_and_then_nothing(tmp_path: Path) -> None:
    written = update_folders(tmp_path)
    assert len(written) == 3 * len(BOARDS)
    assert stale_files(tmp_path) == []
    for name in BOARDS:
        assert verify(tmp_path / name) == []
    (tmp_path / "kv260/systolora.hwh").write_text("changed")
    assert stale_files(tmp_path) == [tmp_path / "kv260/systolora.hwh"]
    assert update_folders(tmp_path) == [tmp_path / "kv260/systolora.hwh"]


def test_folder_says_that_it_is_emulated() -> None:
    config = board_config("zcu104")
    document = json.loads(render_folder(config)["manifest.json"])
    assert document["kind"] == "emulated"
    assert document["fingerprint"] == config.fingerprint_text
    assert document["tools"] == {"vitis_hls": None, "vivado": None}
    assert document["built"] is None
    assert document["worst_slack_ns"] is None


def test_a_folder_is_for_a_board() -> None:
    with pytest.raises(ConfigError, match="a bitstream is built for a board: give --board"):
        render_folder(ArrayConfig(rows=8, cols=8))


def test_build_is_recorded(tmp_path: Path) -> None:
    config = board_config("kv260")
    manifest = record_build(config, make_results(tmp_path / "out", config), tmp_path / "kv260")
    assert manifest.kind == "built"
    assert manifest.tools == {"vitis_hls": "2023.2", "vivado": "2024.1"}
    assert manifest.built == {"lut": 80123, "ff": 98765, "dsp": 612, "bram36": 10, "uram": 48}
    assert manifest.worst_slack_ns == 0.12
    assert verify(tmp_path / "kv260") == []
    assert load_manifest(tmp_path / "kv260") == manifest


def test_update_leaves_a_built_folder_alone(tmp_path: Path) -> None:
    config = board_config("kv260")
    record_build(config, make_results(tmp_path / "out", config), tmp_path / "root/kv260")
    update_folders(tmp_path / "root")
    assert load_manifest(tmp_path / "root/kv260").kind == "built"
    assert verify(tmp_path / "root/kv260") == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fingerprint": "00000000"}, r"built for fingerprint 00000000, the configuration has [0-9a-f]{8}"),
        ({"wns_ns": -0.3}, "timing was not met, worst slack -0.3 ns"),
    ],
)
def test_builds_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    config = board_config("kv260")
    with pytest.raises(BuildError, match=message):
        record_build(config, make_results(tmp_path / "out", config, **changes), tmp_path / "kv260")
    assert not (tmp_path / "kv260").exists()


def test_missing_results_are_named(tmp_path: Path) -> None:
    config = board_config("kv260")
    results = make_results(tmp_path / "out", config)
    (results / "systolora.bit").unlink()
    with pytest.raises(BuildError, match="no systolora.bit; run ./build.sh all"):
        record_build(config, results, tmp_path / "kv260")


def test_other_register_map_is_refused(tmp_path: Path) -> None:
    config = board_config("kv260")
    results = make_results(tmp_path / "out", config)
    (results / "xsystolora_top_hw.h").write_text(HEADER.replace("0x78", "0x7c"))
    with pytest.raises(BuildError, match="argument sequence: predicted 32 bits at 0x78, the tool has 32 bits at 0x7c"):
        record_build(config, results, tmp_path / "kv260")


def test_utilization_without_a_row_is_refused() -> None:
    with pytest.raises(BuildError, match="no row 'DSPs'"):
        parse_utilization(UTILIZATION.replace("DSPs", "DSP48"))
