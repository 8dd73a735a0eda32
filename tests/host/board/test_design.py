"""Which bitstream a board gets, and what its manifest must say. No pynq is needed for this."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from systolora.bitstreams.manifest import FileEntry, Manifest, load_manifest, render_manifest
from systolora.bitstreams.store import PACKAGE, digest
from systolora.board import design as board_design
from systolora.board.design import find_design
from systolora.board.errors import BoardOpenError
from systolora.board.opening import assigned_address, open_board
from systolora.emulated_board.opening import open_emulated_board
from systolora.hls.config import ArrayConfig, board_config

Make = Callable[..., Path]


@pytest.fixture
def make_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes folders like those of a real build in the cache; arguments change the manifest."""
    monkeypatch.setattr(board_design, "CACHE", tmp_path)

    def make(board: str = "kv260", **changes: Any) -> Path:
        folder = tmp_path / board
        shutil.copytree(PACKAGE / board, folder)
        (folder / "systolora.bit").write_bytes(b"bits")
        emulated = load_manifest(PACKAGE / board)
        bit = FileEntry("systolora.bit", digest(folder / "systolora.bit"), 4)
        tools: dict[str, str | None] = {"vitis_hls": "2024.1", "vivado": "2024.1"}
        built: Manifest = replace(
            emulated,
            kind="built",
            built=emulated.estimated,
            worst_slack_ns=0.2,
            tools=tools,
            files=(*emulated.files, bit),
        )
        (folder / "manifest.json").write_text(render_manifest(replace(built, **changes)))
        return folder

    return make


@pytest.mark.parametrize(
    ("board", "device_name"),
    [("kv260", "KV260"), ("ultra96v2", "Ultra96"), ("rfsoc4x2", "RFSoC4x2"), ("zcu104", "ZCU104")],
)
def test_the_name_that_pynq_gives_the_board_finds_its_bitstream(make_built: Make, board: str, device_name: str) -> None:
    folder = make_built(board)
    found = find_design(None, None, device_name)
    assert found.bitfile == folder / "systolora.bit"
    assert found.config == board_config(board)
    assert found.clock_mhz == load_manifest(folder).clock_mhz


def test_a_path_may_be_the_file_or_its_folder(make_built: Make) -> None:
    folder = make_built()
    assert find_design(folder, None, "KV260") == find_design(folder / "systolora.bit", None, "KV260")
    assert find_design(str(folder), None, "Unknown").config.board == "kv260"


def refusal(*arguments: Any) -> str:
    with pytest.raises(BoardOpenError) as caught:
        find_design(*arguments)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_design_that_nobody_built_is_not_passed_for_a_bitstream() -> None:
    text = refusal(PACKAGE / "kv260", None, "KV260")
    assert text.startswith("board, manifest: ") and "that nobody has built yet" in text
    assert "--emulated-board kv260" in text and "systolora bitstream fetch" in text


def test_changed_bytes(make_built: Make) -> None:
    folder = make_built()
    (folder / "systolora.bit").write_bytes(b"bite")
    text = refusal(folder, None, "KV260")
    assert "systolora.bit: SHA-256 is " in text and "copy the whole folder again" in text


def test_another_boards_bitstream(make_built: Make) -> None:
    text = refusal(make_built("zcu104"), None, "KV260")
    assert "the bitstream is for zcu104, and pynq says that this board is a KV260" in text


def test_hardware_of_another_version(make_built: Make) -> None:
    text = refusal(make_built(fingerprint="0badf00d"), None, "KV260")
    assert text.startswith("board, fingerprint: the bitstream has fingerprint 0badf00d")
    assert board_config("kv260").fingerprint_text in text


def test_another_configuration_than_asked_for(make_built: Make) -> None:
    folder = make_built()
    text = refusal(folder, None, "KV260", ArrayConfig())
    assert "this run asks for 64 x 64" in text and ArrayConfig().fingerprint_text in text
    assert find_design(folder, None, "KV260", board_config("kv260")).config == board_config("kv260")


def test_unknown_boards_missing_files_and_broken_manifests(make_built: Make, tmp_path: Path) -> None:
    assert "no bitstream is known for a board named 'Pynq-Z2'" in refusal(None, None, "Pynq-Z2")
    assert "is not there: give a .bit" in refusal(tmp_path / "nothing.bit", None, "KV260")
    folder = make_built()
    (folder / "manifest.json").write_text("{}")
    assert refusal(folder, None, "KV260").startswith("board, manifest: ")


def test_each_process_gets_a_board_of_its_own() -> None:
    addresses = "10.0.0.2, 10.0.0.3:8000"
    assert [assigned_address(addresses, rank, 2) for rank in range(2)] == ["10.0.0.2", "10.0.0.3:8000"]
    with pytest.warns(UserWarning, match="2 boards .* and 1 process: .* 1 of them stay idle"):
        assert assigned_address(addresses, 0, 1) == "10.0.0.2"
    with pytest.raises(BoardOpenError, match="3 processes and 2 boards .* give one address for each"):
        assigned_address(addresses, 0, 3)


def test_without_pynq_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynq", None)
    for call in (open_board, lambda: open_emulated_board("kv260")):
        with pytest.raises(
            BoardOpenError,
            match=r"^board, pynq: pynq cannot be imported .*pip install -c \S+pynq\d.txt -e \S+\[board\]",
        ):
            call()
