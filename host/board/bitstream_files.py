"""Makes the folders of `bitstreams/` from the presets, and turns what Vivado left into a folder with a built bitstream.

`python -m systolora.board.bitstream_files` brings the folders of the checkout up to date; with --check it only says which are not.
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
from typing import Any

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
from systolora.hls.design import DESIGN, KERNEL_VLNV, SLAVES, memory_ports
from systolora.hls.handoff import render_handoff
from systolora.hls.regmap import TOP, compare_maps, parse_header, predict_map, render_json

_REGISTERS = "registers.json"
_HANDOFF = f"{DESIGN}.hwh"
_HEADER = f"x{TOP}_hw.h"
_BUILD = "build.json"
_UTILIZATION = "reports/utilization.rpt"
_BUILT_FILES = (f"{DESIGN}.bit", _HANDOFF)
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
        ports={port.master: port.slave for port in memory_ports(config.output_ports)},
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


def record_build(config: ArrayConfig, results: Path, target: Path) -> Manifest:
    """Takes what vivado/build.tcl left in `results` over into the folder `target` and writes its manifest.

    Args:
        config: what was built.
        results: with systolora.bit, systolora.hwh, xsystolora_top_hw.h, build.json and reports/utilization.rpt.
        target: the folder; made if needed.

    Raises:
        BuildError: if a file is missing, the fingerprint or the register map is another, or timing was not met.
        ConfigError: if the configuration names no board or does not fit it.
    """
    texts = render_folder(config)
    missing = [name for name in (*_BUILT_FILES, _HEADER, _BUILD, _UTILIZATION) if not (results / name).is_file()]
    if missing:
        raise BuildError(f"{results}: no {', '.join(missing)}; run ./build.sh all in the generated project first")
    build = json.loads((results / _BUILD).read_text(encoding="utf-8"))
    header = (results / _HEADER).read_text(encoding="utf-8")
    _require_same(config, results, build, header)
    built = parse_utilization((results / _UTILIZATION).read_text(encoding="utf-8"))
    target.mkdir(parents=True, exist_ok=True)
    if results.resolve() != target.resolve():
        for name in _BUILT_FILES:
            shutil.copyfile(results / name, target / name)
    (target / _REGISTERS).write_text(texts[_REGISTERS], encoding="utf-8", newline="\n")
    files = [target / name for name in (*_BUILT_FILES, _REGISTERS)]
    manifest = replace(
        _emulated(config, tuple(FileEntry(file.name, digest(file), file.stat().st_size) for file in files)),
        kind="built",
        tools={"vitis_hls": _hls_version(header), "vivado": str(build["vivado"])},
        built=built,
        worst_slack_ns=float(build["wns_ns"]),
    )
    (target / MANIFEST).write_text(render_manifest(manifest), encoding="utf-8", newline="\n")
    return load_manifest(target)


def _require_same(config: ArrayConfig, results: Path, build: dict[str, Any], header: str) -> None:
    """Raises BuildError if what was built is not what the configuration describes, or did not meet timing."""
    if build["fingerprint"] != config.fingerprint_text:
        raise BuildError(
            f"{results}: built for fingerprint {build['fingerprint']}, the configuration has {config.fingerprint_text}; "
            "generate the project again and build that"
        )
    if build["wns_ns"] < 0:
        raise BuildError(f"{results}: timing was not met, worst slack {build['wns_ns']} ns")
    differences = compare_maps(predict_map(), parse_header(header))
    if differences:
        raise BuildError(f"{results / _HEADER}: the tool's register map is not the driver's: {'; '.join(differences)}")


def _hls_version(header: str) -> str:
    """From the first lines of the tool's header: "Vitis HLS - ... v2024.1 (64-bit)"."""
    found = re.search(r"Vitis HLS.*?v(20\d\d\.\d+)", header)
    return found.group(1) if found else "unknown"


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
    parser = argparse.ArgumentParser(prog="python -m systolora.board.bitstream_files", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is not up to date")
    check = parser.parse_args(arguments).check
    files = stale_files() if check else update_folders()
    for file in files:
        print(f"{'stale' if check else 'written'}: {file.relative_to(PACKAGE.parent)}")
    return int(check and bool(files))


if __name__ == "__main__":
    sys.exit(main())
