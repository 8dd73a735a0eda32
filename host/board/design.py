"""Which bitstream a board gets: found by path or by the board's name, and checked against its manifest before it is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from systolora.bitstreams.manifest import MANIFEST, Manifest, ManifestError, load_manifest
from systolora.bitstreams.store import PACKAGE, verify
from systolora.hls.config import ArrayConfig, ConfigError

from .errors import BoardOpenError

CACHE = Path("~/.cache/systolora/bitstreams")
"""Where `systolora bitstream fetch` puts what it fetched, a folder for each board."""


@dataclass(frozen=True)
class BoardDesign:
    """A bitstream that is ready to be loaded.

    Attributes:
        bitfile: the `.bit` or `.xsa`. config: the accelerator in it. clock_mhz: of its programmable logic.
    """

    bitfile: Path
    config: ArrayConfig
    clock_mhz: float


def find_design(
    bitstream: str | Path | None, board: str | None, device_name: str, config: ArrayConfig | None = None
) -> BoardDesign:
    """The bitstream for a board, checked against its manifest.

    Args:
        bitstream: a `.bit`, an `.xsa` or a folder with a manifest; None searches by the board's name.
        board: preset name; None takes it from the device.
        device_name: as pynq names the board, such as "KV260".
        config: that the bitstream must have been built for; None takes any.

    Raises:
        BoardOpenError: if there is none, or it does not fit, in one line.
    """
    folder, given = _folder_of(bitstream, board or device_name)
    try:
        manifest = load_manifest(folder)
        _check_kind(manifest, folder)
        problems = verify(folder)
    except ManifestError as error:
        raise BoardOpenError("manifest", str(error)) from error
    if problems:
        raise BoardOpenError(
            "manifest", f"{folder}: {'; '.join(problems)}: copy the whole folder again, or systolora bitstream fetch"
        )
    _check_board(manifest, device_name)
    return BoardDesign(given or folder / f"{manifest.design}.bit", _config_of(manifest, config), manifest.clock_mhz)


def _folder_of(bitstream: str | Path | None, name: str) -> tuple[Path, Path | None]:
    if bitstream is not None:
        path = Path(bitstream).expanduser()
        if not path.exists():
            raise BoardOpenError("files", f"{path} is not there: give a .bit, an .xsa or a folder that holds one")
        return (path, None) if path.is_dir() else (path.parent, path)
    wanted = _plain(name)
    for root in (CACHE.expanduser(), PACKAGE):
        for manifest in sorted(root.glob(f"*/{MANIFEST}")):
            if _same_board(manifest.parent.name, wanted):
                return manifest.parent, None
    raise BoardOpenError(
        "files",
        f"no bitstream is known for a board named {name!r}: give its name with --board (systolora bitstream list), or the path of "
        "a bitstream",
    )


def _check_kind(manifest: Manifest, folder: Path) -> None:
    if manifest.kind != "built":
        raise BoardOpenError(
            "manifest",
            f"{folder} describes a design for {manifest.board} that nobody has built yet: build it (systolora bitstream build "
            f"{manifest.board}), fetch it (systolora bitstream fetch {manifest.board} --source ...), or try without a board: "
            f"--emulated-board {manifest.board}",
        )


def _check_board(manifest: Manifest, device_name: str) -> None:
    if _plain(device_name) not in ("", "unknown") and not _same_board(manifest.board, _plain(device_name)):
        raise BoardOpenError(
            "manifest",
            f"the bitstream is for {manifest.board}, and pynq says that this board is a {device_name}: give the one for this "
            "board; another part's bitstream does not load",
        )


def _config_of(manifest: Manifest, wanted: ArrayConfig | None) -> ArrayConfig:
    try:
        config = ArrayConfig(**manifest.config)
    except (TypeError, ConfigError) as error:
        raise BoardOpenError(
            "manifest", f"its configuration cannot be read by this version: {error}; fetch again"
        ) from error
    if config.fingerprint_text != manifest.fingerprint:
        raise BoardOpenError(
            "fingerprint",
            f"the bitstream has fingerprint {manifest.fingerprint}, this version of systolora gives its configuration "
            f"{config.fingerprint_text}: the hardware has changed since; install the version that built it, or build it again: "
            f"systolora bitstream build {manifest.board}",
        )
    if wanted is not None and wanted.fingerprint != config.fingerprint:
        raise BoardOpenError(
            "fingerprint",
            f"the bitstream for {manifest.board} is {config.rows} x {config.cols} (fingerprint {config.fingerprint_text}), this "
            f"run asks for {wanted.rows} x {wanted.cols} ({wanted.fingerprint_text}): leave the configuration away to take the "
            "bitstream's, or build one for it",
        )
    return config


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _same_board(board: str, device: str) -> bool:
    """pynq calls the Ultra96-V2 "Ultra96"; the others have their preset's name, in other letters."""
    return board == device or (board, device) == ("ultra96v2", "ultra96")
