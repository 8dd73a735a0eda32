from __future__ import annotations

import functools
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from systolora.bitstreams.manifest import FileEntry, Manifest, render_manifest
from systolora.bitstreams.store import PACKAGE, FetchError, fetch, list_folders, verify

CONTENT = {"systolora.bit": b"bits" * 1000, "systolora.hwh": b"handoff", "registers.json": b"{}"}


def publish(root: Path, **changes: object) -> Manifest:
    """A folder `root/kv260` with a built bitstream."""
    folder = root / "kv260"
    folder.mkdir(parents=True)
    for name, data in CONTENT.items():
        (folder / name).write_bytes(data)
    base = next(manifest for manifest in list_folders() if manifest.board == "kv260")
    manifest = replace(
        base,
        kind="built",
        tools={"vitis_hls": "2024.1", "vivado": "2024.1"},
        built=base.estimated,
        worst_slack_ns=0.02,
        files=tuple(FileEntry(name, hashlib.sha256(data).hexdigest(), len(data)) for name, data in CONTENT.items()),
    )
    manifest = replace(manifest, **changes)  # type: ignore[arg-type]
    (folder / "manifest.json").write_text(render_manifest(manifest))
    return manifest


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "www").mkdir()
    handler = functools.partial(Quiet, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as service:
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{service.server_address[1]}"
        service.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "folder", sorted(file.parent for file in PACKAGE.glob("*/manifest.json")), ids=lambda path: path.name
)
def test_folders_of_the_package_verify(folder: Path) -> None:
    assert verify(folder) == []


def test_verify_names_each_difference(tmp_path: Path) -> None:
    publish(tmp_path)
    (tmp_path / "kv260/systolora.hwh").unlink()
    (tmp_path / "kv260/systolora.bit").write_bytes(b"x" + CONTENT["systolora.bit"][1:])
    (tmp_path / "kv260/registers.json").write_bytes(b"{ }")
    lines = verify(tmp_path / "kv260")
    assert lines[0].startswith("systolora.bit: SHA-256 is ")
    assert lines[1] == "systolora.hwh: missing"
    assert lines[2] == "registers.json: 3 bytes, the manifest says 2"


def test_fetch_from_a_folder(tmp_path: Path) -> None:
    manifest = publish(tmp_path / "away")
    folder = fetch("kv260", str(tmp_path / "away"), tmp_path / "cache", manifest.fingerprint)
    assert folder == tmp_path / "cache/kv260"
    assert verify(folder) == []
    assert {file.name for file in folder.iterdir()} == {*CONTENT, "manifest.json"}
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["kv260"], "nothing temporary is left"


def test_fetch_over_http_replaces_an_older_one(tmp_path: Path, server: str) -> None:
    publish(tmp_path / "www")
    old = tmp_path / "cache/kv260"
    listed = publish(tmp_path / "cache")
    stale = FileEntry("stale.bit", hashlib.sha256(b"old").hexdigest(), 3)
    (old / "manifest.json").write_text(render_manifest(replace(listed, files=(*listed.files, stale))))
    (old / "stale.bit").write_bytes(b"old")
    assert verify(fetch("kv260", server, tmp_path / "cache")) == []
    assert not (old / "stale.bit").exists()


@pytest.mark.parametrize("kept", ["kv260/notes.txt", "kv260", "kv260/sub/thesis.txt"])
@pytest.mark.parametrize("fetched_before", [True, False])
def test_what_no_fetch_made_is_never_replaced(tmp_path: Path, kept: str, fetched_before: bool) -> None:
    if fetched_before and kept != "kv260":
        publish(tmp_path / "cache")
    file = tmp_path / "cache" / kept
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("mine")
    publish(tmp_path / "away")
    with pytest.raises(FetchError, match="kv260: it holds files of no bitstream.*give another --cache"):
        fetch("kv260", str(tmp_path / "away"), tmp_path / "cache")
    assert file.read_text() == "mine"


def test_a_cache_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    publish(tmp_path / "away")
    (tmp_path / "file").write_text("")
    with pytest.raises(FetchError, match="file/cache: it cannot be written: Not a directory; give another --cache"):
        fetch("kv260", str(tmp_path / "away"), tmp_path / "file" / "cache")


def test_a_failed_fetch_leaves_the_old_folder(tmp_path: Path) -> None:
    publish(tmp_path / "good")
    fetch("kv260", str(tmp_path / "good"), tmp_path / "cache")
    publish(tmp_path / "bad")
    (tmp_path / "bad/kv260/systolora.bit").write_bytes(b"y" + CONTENT["systolora.bit"][1:])
    with pytest.raises(FetchError, match="systolora.bit: SHA-256 is .* nothing was installed"):
        fetch("kv260", str(tmp_path / "bad"), tmp_path / "cache")
    assert verify(tmp_path / "cache/kv260") == []
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["kv260"]


def test_a_longer_file_is_noticed_without_being_read_whole(tmp_path: Path) -> None:
    publish(tmp_path / "away")
    with (tmp_path / "away/kv260/systolora.bit").open("ab") as file:
        file.write(b"z" * 50_000_000)
    with pytest.raises(FetchError, match="systolora.bit: 4001 bytes, the manifest says 4000"):
        fetch("kv260", str(tmp_path / "away"), tmp_path / "cache")


def test_missing_things_are_told(tmp_path: Path, server: str) -> None:
    with pytest.raises(FetchError, match="kv260/manifest.json: No such file or directory; check the place"):
        fetch("kv260", str(tmp_path / "nowhere"), tmp_path / "cache")
    with pytest.raises(FetchError, match="kv260/manifest.json: Not Found|HTTP Error 404|File not found"):
        fetch("kv260", server, tmp_path / "cache")
    publish(tmp_path / "away")
    (tmp_path / "away/kv260/systolora.hwh").unlink()
    with pytest.raises(FetchError, match="systolora.hwh: No such file"):
        fetch("kv260", str(tmp_path / "away"), tmp_path / "cache")


def test_other_fingerprint_names_both(tmp_path: Path) -> None:
    publish(tmp_path, fingerprint="11111111")
    with pytest.raises(FetchError, match="has fingerprint 11111111, this configuration has 22222222"):
        fetch("kv260", str(tmp_path), tmp_path / "cache", "22222222")


def test_an_emulated_folder_is_no_bitstream(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="nobody has built a bitstream for kv260 there"):
        fetch("kv260", str(PACKAGE), tmp_path / "cache")


def test_manifest_of_another_board(tmp_path: Path) -> None:
    publish(tmp_path, board="zcu104")
    with pytest.raises(FetchError, match="the folder kv260 holds a manifest for zcu104"):
        fetch("kv260", str(tmp_path), tmp_path / "cache")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("http://example.org/x", "plain http can be changed on its way"),
        ("ftp://example.org/x", "ftp is not understood"),
    ],
)
def test_sources_that_are_not_taken(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(FetchError, match=message):
        fetch("kv260", source, tmp_path / "cache")


def test_urls_of_the_manifest_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = publish(tmp_path / "away")
    entries = [replace(entry, url=f"https://example.org/{entry.name}") for entry in manifest.files]
    document = json.loads(render_manifest(replace(manifest, files=tuple(entries))))
    (tmp_path / "away/kv260/manifest.json").write_text(json.dumps(document))
    asked = []

    def answer(place: str, timeout: float) -> object:
        asked.append(place)
        return (tmp_path / "away/kv260" / place.rsplit("/", 1)[1]).open("rb")

    monkeypatch.setattr("urllib.request.urlopen", answer)
    assert verify(fetch("kv260", str(tmp_path / "away"), tmp_path / "cache")) == []
    assert asked == [f"https://example.org/{name}" for name in CONTENT]
