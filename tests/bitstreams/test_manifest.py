from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
from systolora.bitstreams.manifest import (
    ArgumentEntry,
    FileEntry,
    Manifest,
    ManifestError,
    load_manifest,
    parse_manifest,
    render_manifest,
)
from systolora.bitstreams.store import PACKAGE, list_folders

RESOURCES = {"lut": 1, "ff": 2, "dsp": 3, "bram36": 4, "uram": 5}
EMULATED = Manifest(
    kind="emulated",
    board="kv260",
    part="xck26-sfvc784-2LV-c",
    design="systolora",
    vlnv="xilinx.com:hls:systolora_top:1.0",
    fingerprint="0123abcd",
    config={"rows": 4},
    base=0xA0000000,
    arguments=(ArgumentEntry("sequence", 0x78, 32),),
    clock_mhz=187.498,
    requested_clock_mhz=187.5,
    ports={"m_axi_memory_input": "S_AXI_HP1_FPD"},
    tools={"vitis_hls": None, "vivado": None},
    estimated=RESOURCES,
    built=None,
    worst_slack_ns=None,
    files=(FileEntry("systolora.hwh", "0" * 64, 10),),
)
BUILT = replace(
    EMULATED,
    kind="built",
    tools={"vitis_hls": "2024.1", "vivado": "2024.1"},
    built=RESOURCES,
    worst_slack_ns=0.1,
    files=(*EMULATED.files, FileEntry("systolora.bit", "1" * 64, 20, "https://example.org/systolora.bit")),
)


@pytest.mark.parametrize("manifest", [EMULATED, BUILT], ids=["emulated", "built"])
def test_round_trip(manifest: Manifest) -> None:
    assert parse_manifest(render_manifest(manifest), "here") == manifest


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (replace(EMULATED, kind="planned"), "kind 'planned', allowed are emulated and built"),
        (replace(EMULATED, fingerprint="xyz"), "fingerprint 'xyz' is not eight"),
        (replace(EMULATED, files=(FileEntry("../passwd", "0" * 64, 1),)), "no plain name"),
        (replace(EMULATED, files=(FileEntry("a.hwh", "0" * 63, 1),)), "a sha256 is not 64"),
        (replace(EMULATED, files=2 * EMULATED.files), "listed twice"),
        (replace(EMULATED, files=(FileEntry("a", "0" * 64, 1, "file:///etc/passwd"),)), "a url is not https"),
        (replace(EMULATED, clock_mhz=200.0), "the clock is not in"),
        (replace(EMULATED, base=0xA0000004), "base 0xa0000004 is not the first address of a page"),
        (replace(EMULATED, arguments=(ArgumentEntry("a", 18, 32),)), "an argument has no place"),
        (replace(EMULATED, estimated={"lut": 1}), "estimated resources are not"),
        (replace(EMULATED, tools={"vivado": None}), "tools are not"),
        (replace(EMULATED, files=BUILT.files), "kind is emulated, but it has a bitstream"),
        (replace(EMULATED, worst_slack_ns=0.2), "kind is emulated, but it has a bitstream or results"),
        (replace(BUILT, files=EMULATED.files), "systolora.bit, resources, slack or Vivado's version are missing"),
        (replace(BUILT, worst_slack_ns=-0.2), "timing was not met: worst slack -0.2 ns"),
    ],
)
def test_values_that_make_no_sense_are_refused(manifest: Manifest, message: str) -> None:
    with pytest.raises(ManifestError, match=re.escape(message)):
        parse_manifest(render_manifest(manifest), "here")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "here: schema 2, this version reads 1"),
        ({"board": None}, "board: missing or unknown"),
        ({"colour": "red"}, "colour: missing or unknown"),
        ({"files": [{"name": "a"}]}, "missing 2 required positional arguments"),
        ({"files": 3}, "not iterable"),
        ({"fingerprint": 7}, "expected string"),
    ],
)
def test_documents_of_another_form_are_refused(change: dict[str, object], message: str) -> None:
    document = json.loads(render_manifest(EMULATED)) | change
    if "board" in change:
        del document["board"]
    with pytest.raises(ManifestError, match=message):
        parse_manifest(json.dumps(document), "here")
    with pytest.raises(ManifestError, match="here: not JSON"):
        parse_manifest("{", "here")


def test_schema_file_names_what_the_reader_reads() -> None:
    schema = json.loads((PACKAGE / "manifest.schema.json").read_text())
    names = {field.name for field in fields(Manifest)} | {"schema"}
    assert set(schema["properties"]) == set(schema["required"]) == names
    assert set(schema["$defs"]["file"]["properties"]) == {field.name for field in fields(FileEntry)}
    assert set(schema["$defs"]["argument"]["properties"]) == {field.name for field in fields(ArgumentEntry)}


def test_file_entry_by_name() -> None:
    assert BUILT.file("systolora.bit").size == 20
    with pytest.raises(ManifestError, match="kv260: no file systolora.xsa; there are systolora.hwh, systolora.bit"):
        BUILT.file("systolora.xsa")


def test_missing_manifest_is_told(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="No such file or directory; fetch or build the bitstream first"):
        load_manifest(tmp_path)


def test_nothing_in_this_package_claims_to_be_built() -> None:
    """Holds until someone builds one; then README.md has to change with it."""
    manifests = list_folders()
    assert {manifest.board for manifest in manifests} >= {"kv260", "zcu104"}
    if all(manifest.kind == "emulated" for manifest in manifests):
        assert "No bitstream has been built" in (PACKAGE / "README.md").read_text()
    else:
        assert "No bitstream has been built" not in (PACKAGE / "README.md").read_text()
