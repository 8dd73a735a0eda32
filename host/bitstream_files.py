"""Makes the folders of `bitstreams/` from the presets, and turns what Vivado left into a folder with a built bitstream.

`python -m systolora.bitstream_files` brings the folders of the checkout up to date; with --check it only says which are not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

from systolora.bitstreams.manifest import (
    MANIFEST,
    ArgumentEntry,
    FileEntry,
    Manifest,
    ManifestError,
    load_manifest,
    render_manifest,
)
from systolora.bitstreams.store import PACKAGE, digest
from systolora.hls.boards import pl_clock
from systolora.hls.budget import require_fit
from systolora.hls.config import BOARDS, ArrayConfig, ConfigError
from systolora.hls.design import DESIGN, KERNEL_VLNV, MEMORY_PORTS, SLAVES
from systolora.hls.handoff import render_handoff
from systolora.hls.regmap import compare_maps, parse_header, predict_map, render_json

_REGISTERS = "registers.json"
_HANDOFF = f"{DESIGN}.hwh"
_USED = {"lut": "CLB LUTs", "ff": "CLB Registers", "dsp": "DSPs", "bram36": "Block RAM Tile", "uram": "URAM"}


class BuildError(RuntimeError):
    """Results of a build that cannot be taken over; the text says what is missing or differs."""


def render_folder(config: ArrayConfig) -> dict[str, str]:
    """The files of a board's emulated folder: name -> text.

    Raises:
        ConfigError: if the configuration names no board or does not fit it.
    """
    texts = {_HANDOFF: render_handoff(config), _REGISTERS: render_json(predict_map())}
    files = tuple(_described(name, text.encode()) for name, text in texts.items())
    return {MANIFEST: render_manifest(_emulated(config, files)), **texts}


def _emulated(config: ArrayConfig, files: tuple[FileEntry, ...]) -> Manifest:
    fit = require_fit(config)
    if fit is None:
        raise ConfigError(f"a bitstream is built for a board: give --board ({', '.join(sorted(BOARDS))})")
    return Manifest(
        kind="emulated",
        board=config.board,
        part=config.part,
        design=DESIGN,
        vlnv=KERNEL_VLNV,
        fingerprint=config.fingerprint_text,
        config=asdict(config),
        base=SLAVES[0].base,
        arguments=tuple(ArgumentEntry(name, *place) for name, place in predict_map().arguments.items()),
        clock_mhz=pl_clock(config).mhz,
        requested_clock_mhz=config.clock_mhz,
        ports={port.master: port.slave for port in MEMORY_PORTS},
        tools={"vitis_hls": None, "vivado": None},
        estimated=asdict(fit.estimate.total),
        built=None,
        worst_slack_ns=None,
        files=files,
    )


def _described(name: str, data: bytes) -> FileEntry:
    return FileEntry(name, hashlib.sha256(data).hexdigest(), len(data))


def stale_files(root: Path = PACKAGE) -> list[Path]:
    """Files of the presets' folders that are missing or not what `render_folder` gives. Built folders are left out."""
    stale = []
    for config in BOARDS.values():
        folder = root / config.board
        if _is_built(folder):
            continue
        for name, text in render_folder(config).items():
            file = folder / name
            if not file.is_file() or file.read_text(encoding="utf-8") != text:
                stale.append(file)
    return stale


def update_folders(root: Path = PACKAGE) -> list[Path]:
    """Writes the stale files, and returns them."""
    written = stale_files(root)
    for file in written:
        text = render_folder(BOARDS[file.parent.name])[file.name]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8", newline="\n")
    return written


def _is_built(folder: Path) -> bool:
    try:
        return load_manifest(folder).kind == "built"
    except ManifestError:
        return False


def record_build(
    config: ArrayConfig, results: Path, target: Path, hls_version: str, header: Path | None = None
) -> Manifest:
    """Takes what vivado/build.tcl left in `results` over into the folder `target` and writes its manifest.

    Args:
        config: what was built.
        results: with systolora.bit, systolora.hwh, build.json and reports/utilization.rpt.
        target: the folder; made if needed.
        hls_version: of Vitis HLS, as it names itself.
        header: the tool's `xsystolora_top_hw.h`; its register map must be the predicted one.

    Raises:
        BuildError: if a file is missing, the fingerprint or the register map is another, or timing was not met.
        ConfigError: if the configuration names no board or does not fit it.
    """
    texts = render_folder(config)
    names = (f"{DESIGN}.bit", _HANDOFF, "build.json", "reports/utilization.rpt")
    missing = [name for name in names if not (results / name).is_file()]
    if missing:
        raise BuildError(f"{results}: no {', '.join(missing)}; run ./build.sh all in the generated project first")
    build = json.loads((results / "build.json").read_text(encoding="utf-8"))
    if build["fingerprint"] != config.fingerprint_text:
        raise BuildError(
            f"{results}: built for fingerprint {build['fingerprint']}, the configuration has {config.fingerprint_text}; "
            "generate the project again and build that"
        )
    if build["wns_ns"] < 0:
        raise BuildError(f"{results}: timing was not met, worst slack {build['wns_ns']} ns")
    if header is not None:
        differences = compare_maps(predict_map(), parse_header(header.read_text(encoding="utf-8")))
        if differences:
            raise BuildError(f"{header}: the tool's register map differs: {'; '.join(differences)}")
    target.mkdir(parents=True, exist_ok=True)
    if results.resolve() != target.resolve():
        for name in (f"{DESIGN}.bit", _HANDOFF):
            shutil.copyfile(results / name, target / name)
    (target / _REGISTERS).write_text(texts[_REGISTERS], encoding="utf-8", newline="\n")
    return _write_built(config, build, hls_version, target, (results / names[-1]).read_text(encoding="utf-8"))


def _write_built(
    config: ArrayConfig, build: dict[str, object], hls_version: str, target: Path, report: str
) -> Manifest:
    files = [target / name for name in (f"{DESIGN}.bit", _HANDOFF, _REGISTERS)]
    entries = tuple(FileEntry(file.name, digest(file), file.stat().st_size) for file in files)
    slack = build["wns_ns"]
    assert isinstance(slack, int | float), "it was compared with 0"
    manifest = replace(
        _emulated(config, entries),
        kind="built",
        tools={"vitis_hls": hls_version, "vivado": str(build["vivado"])},
        built=parse_utilization(report),
        worst_slack_ns=float(slack),
    )
    (target / MANIFEST).write_text(render_manifest(manifest), encoding="utf-8", newline="\n")
    return load_manifest(target)


def parse_utilization(text: str) -> dict[str, int]:
    """Used resources in Vivado's `report_utilization`, by kind. A block RAM tile is a BRAM36; half ones are rounded up.

    Raises:
        BuildError: if a row is missing.
    """
    used = {}
    for kind, row in _USED.items():
        found = re.search(rf"^\|\s*{re.escape(row)}\*?\s*\|\s*([\d.]+)\s*\|", text, re.MULTILINE)
        if found is None:
            raise BuildError(f"the utilization report has no row {row!r}")
        used[kind] = int(-(-float(found.group(1)) // 1))
    return used


def main(arguments: list[str] | None = None) -> int:
    """Brings the folders up to date, or with --check only tells; the exit status is 1 if --check finds stale files."""
    parser = argparse.ArgumentParser(prog="python -m systolora.bitstream_files", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is not up to date")
    check = parser.parse_args(arguments).check
    files = stale_files() if check else update_folders()
    for file in files:
        print(f"{'stale' if check else 'written'}: {file.relative_to(PACKAGE.parent)}")
    return int(check and bool(files))


if __name__ == "__main__":
    sys.exit(main())
