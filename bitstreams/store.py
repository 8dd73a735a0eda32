"""Folders with bitstreams: those of this package, those that were fetched; listing, verifying, fetching."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import IO

from .manifest import MANIFEST, FileEntry, Manifest, ManifestError, load_manifest, parse_manifest

PACKAGE = Path(__file__).resolve().parent
"""Folders that come with the package: one for each board, emulated until a bitstream was built."""

_TIMEOUT_SECONDS = 60
_LARGEST_MANIFEST = 1 << 20
_CHUNK = 1 << 20


class FetchError(RuntimeError):
    """A bitstream that could not be had; the text says what was tried, what came back and what to do."""


def list_folders(root: Path = PACKAGE) -> list[Manifest]:
    """The manifests of all folders below `root`, by board.

    Raises:
        ManifestError: if one is not valid.
    """
    return [load_manifest(file.parent) for file in sorted(root.glob(f"*/{MANIFEST}"))]


def verify(folder: Path) -> list[str]:
    """One line per file of the folder that is missing, has another size or another SHA-256; empty if all are as listed.

    Raises:
        ManifestError: if the manifest is missing or not valid.
    """
    problems = []
    for entry in load_manifest(folder).files:
        file = folder / entry.name
        if not file.is_file():
            problems.append(f"{entry.name}: missing")
        else:
            problems += _differences(file, entry)
    return problems


def digest(file: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    hashed = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            hashed.update(chunk)
    return hashed.hexdigest()


def _differences(file: Path, entry: FileEntry) -> list[str]:
    size = file.stat().st_size
    if size != entry.size:
        return [f"{entry.name}: {size} bytes, the manifest says {entry.size}"]
    found = digest(file)
    if found != entry.sha256:
        return [f"{entry.name}: SHA-256 is {found}, the manifest says {entry.sha256}"]
    return []


def fetch(board: str, source: str, cache: Path, fingerprint: str = "") -> Path:
    """Copies a board's built bitstream into the cache and returns its folder, `cache/board`.

    Every file is checked against the manifest before the folder is put in place; a folder that was there stays as it was
    until then, and stays if anything fails.

    Args:
        board: preset name.
        source: an https address or a folder, in which `board/manifest.json` lies.
        cache: made if needed.
        fingerprint: that the bitstream must have, if given.

    Raises:
        FetchError: if something is missing, differs from the manifest, or was never built; if the cache cannot be written, or holds
            under the board's name anything but a bitstream's files.
        ManifestError: if the manifest is not valid.
    """
    _require_ours(cache / board)
    with tempfile.TemporaryDirectory(prefix=f".{board}-", dir=_made(cache)) as temporary:
        folder = Path(temporary) / board
        folder.mkdir()
        manifest_file = folder / MANIFEST
        _copy(_place(source, board, MANIFEST), manifest_file, _LARGEST_MANIFEST)
        manifest = parse_manifest(manifest_file.read_text(encoding="utf-8"), f"{source}: {board}/{MANIFEST}")
        _require(manifest, board, source, fingerprint)
        for entry in manifest.files:
            file = folder / entry.name
            _copy(entry.url or _place(source, board, entry.name), file, entry.size)
            wrong = _differences(file, entry)
            if wrong:
                raise FetchError(f"{source}: {wrong[0]}; nothing was installed, try again or ask whoever published it")
        _put_in_place(folder, cache / board, Path(temporary) / "old")
    return cache / board


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FetchError(f"{folder}: it cannot be written: {error.strerror or error}; give another --cache") from None
    return folder


def _require_ours(folder: Path) -> None:
    """Raises FetchError for a folder that holds anything but a manifest and the files that it lists: it would be replaced."""
    if not os.path.lexists(folder):
        return
    listed = set()
    if folder.is_dir() and not folder.is_symlink():
        try:
            listed = {MANIFEST, *(entry.name for entry in load_manifest(folder).files)}
        except ManifestError:  # missing, or not ours
            listed = set()
        if all(file.relative_to(folder).as_posix() in listed for file in folder.rglob("*") if not file.is_dir()):
            return
    raise FetchError(f"{folder}: it holds files of no bitstream, and they are not touched; give another --cache")


def _require(manifest: Manifest, board: str, source: str, fingerprint: str) -> None:
    if manifest.board != board:
        raise FetchError(f"{source}: the folder {board} holds a manifest for {manifest.board}")
    if manifest.kind != "built":
        raise FetchError(
            f"{source}: nobody has built a bitstream for {board} there (kind {manifest.kind}); "
            f"build one: systolora generate --board {board}, then ./build.sh all"
        )
    if fingerprint and manifest.fingerprint != fingerprint:
        raise FetchError(
            f"{source}: the bitstream for {board} has fingerprint {manifest.fingerprint}, this configuration has "
            f"{fingerprint}; fetch the one that belongs to this version, or build it"
        )


def _place(source: str, board: str, name: str) -> str:
    if "://" in source:
        return f"{source.rstrip('/')}/{board}/{urllib.parse.quote(name)}"
    return str(Path(source) / board / name)


def _copy(place: str, target: Path, largest: int) -> None:
    """Copies at most `largest` bytes and one more, so that a longer file is noticed but never fills the disk."""
    address = urllib.parse.urlsplit(place)
    if address.scheme == "http" and address.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise FetchError(f"{place}: plain http can be changed on its way; give an https address or a folder")
    try:
        if address.scheme in ("http", "https"):
            with urllib.request.urlopen(place, timeout=_TIMEOUT_SECONDS) as stream, target.open("wb") as out:
                _pour(stream, out, largest + 1)
        elif "://" in place:
            raise FetchError(f"{place}: {address.scheme} is not understood; give an https address or a folder")
        else:
            with open(place, "rb") as stream, target.open("wb") as out:
                _pour(stream, out, largest + 1)
    except urllib.error.URLError as error:
        raise FetchError(f"{place}: {error.reason}; check the address, or give a folder with the files") from None
    except OSError as error:
        raise FetchError(f"{place}: {error.strerror or error}; check the place, or give another --source") from None


def _pour(stream: IO[bytes], out: IO[bytes], most: int) -> None:
    while most > 0:
        chunk = stream.read(min(_CHUNK, most))
        if not chunk:
            return
        out.write(chunk)
        most -= len(chunk)


def _put_in_place(folder: Path, target: Path, old: Path) -> None:
    """Two renames on one file system; the old folder goes back if the second fails."""
    if target.exists():
        os.replace(target, old)
    try:
        os.replace(folder, target)
    except OSError:
        if old.exists():
            os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)
