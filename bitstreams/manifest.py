"""What is said about a bitstream: `manifest.json` beside it, read and checked.

manifest.schema.json says the same for other programs. Only the standard library is needed.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SCHEMA = 1
MANIFEST = "manifest.json"
KINDS = ("emulated", "built")
RESOURCES = ("lut", "ff", "dsp", "bram36", "uram")

_HEX8 = re.compile(r"[0-9a-f]{8}")
_HEX64 = re.compile(r"[0-9a-f]{64}")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class ManifestError(ValueError):
    """A manifest that cannot be used; the text says where it lies, what is wrong and what to do."""


@dataclass(frozen=True)
class FileEntry:
    """A file of the folder: its name, the SHA-256 of its bytes, its size, and where it can be had ("" if only here)."""

    name: str
    sha256: str
    size: int
    url: str = ""


@dataclass(frozen=True)
class ArgumentEntry:
    """An argument of the core: offset of its first register in bytes, and its width."""

    name: str
    offset: int
    bits: int


@dataclass(frozen=True)
class Manifest:
    """A bitstream, or the description of one that nobody has built yet.

    Attributes:
        kind: "built" by Vivado, or "emulated": only the hand-off file and the register map exist, and both are predicted.
        board, part: preset name and part number.
        design: stem of the files.
        vlnv: name under which the driver finds the core.
        fingerprint: of the configuration, eight hexadecimal digits.
        config: the configuration itself, by attribute of `ArrayConfig`.
        base: address of the core's registers.
        arguments: its registers.
        clock_mhz: what the processor gives; requested_clock_mhz: what was asked for.
        ports: core's master -> processor's port.
        tools: "vitis_hls" and "vivado" -> version, or None where none was run.
        estimated, built: resources by kind; built is None until there is a report.
        worst_slack_ns: of the timing report, None until there is one.
        files: what lies in the folder, the manifest aside.
    """

    kind: str
    board: str
    part: str
    design: str
    vlnv: str
    fingerprint: str
    config: dict[str, Any]
    base: int
    arguments: tuple[ArgumentEntry, ...]
    clock_mhz: float
    requested_clock_mhz: float
    ports: dict[str, str]
    tools: dict[str, str | None]
    estimated: dict[str, int]
    built: dict[str, int] | None
    worst_slack_ns: float | None
    files: tuple[FileEntry, ...]

    def file(self, name: str) -> FileEntry:
        """The entry of a file.

        Raises:
            ManifestError: if the manifest has no such file.
        """
        for entry in self.files:
            if entry.name == name:
                return entry
        raise ManifestError(f"{self.board}: no file {name}; there are {', '.join(entry.name for entry in self.files)}")


def render_manifest(manifest: Manifest) -> str:
    """The text of `manifest.json`."""
    return json.dumps({"schema": SCHEMA, **asdict(manifest)}, indent=1) + "\n"


def load_manifest(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises:
        ManifestError: if there is none, or it is not valid.
    """
    file = folder / MANIFEST
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ManifestError(f"{file}: {error.strerror}; fetch or build the bitstream first") from None
    except UnicodeDecodeError:
        raise ManifestError(f"{file}: it is no UTF-8 text; fetch or build the bitstream again") from None
    return parse_manifest(text, str(file))


def parse_manifest(text: str, source: str) -> Manifest:
    """The manifest in a text; `source` names it in errors.

    Raises:
        ManifestError: if it is not valid.
    """
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ManifestError(f"{source}: not JSON: {error}") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        found = document.get("schema") if isinstance(document, dict) else None
        raise ManifestError(f"{source}: schema {found!r}, this version reads {SCHEMA}; update systolora or fetch again")
    names = set(Manifest.__dataclass_fields__)
    wrong = sorted(names ^ (document.keys() - {"schema"}))
    if wrong:
        raise ManifestError(f"{source}: {', '.join(wrong)}: missing or unknown; fetch again")
    try:
        values = {name: document[name] for name in names}
        values["arguments"] = tuple(ArgumentEntry(**entry) for entry in document["arguments"])
        values["files"] = tuple(FileEntry(**entry) for entry in document["files"])
        manifest = Manifest(**values)
        problem = _problem(manifest)
    except (TypeError, AttributeError) as error:
        raise ManifestError(f"{source}: {error}; fetch again") from None
    if problem:
        raise ManifestError(f"{source}: {problem}")
    return manifest


def _problem(manifest: Manifest) -> str:
    """What is wrong with the values, or ""."""
    checks = (
        (manifest.kind in KINDS, f"kind {manifest.kind!r}, allowed are {' and '.join(KINDS)}"),
        (
            _HEX8.fullmatch(manifest.fingerprint),
            f"fingerprint {manifest.fingerprint!r} is not eight hexadecimal digits",
        ),
        (all(_FILE_NAME.fullmatch(entry.name) for entry in manifest.files), "a file name is no plain name"),
        (all(_HEX64.fullmatch(entry.sha256) for entry in manifest.files), "a sha256 is not 64 hexadecimal digits"),
        (all(entry.url.startswith("https://") for entry in manifest.files if entry.url), "a url is not https"),
        (len({entry.name for entry in manifest.files}) == len(manifest.files), "a file is listed twice"),
        (all(entry.offset % 4 == 0 and entry.bits > 0 for entry in manifest.arguments), "an argument has no place"),
        (manifest.base % 4096 == 0, f"base {manifest.base:#x} is not the first address of a page"),
        (0 < manifest.clock_mhz <= manifest.requested_clock_mhz * 1.001, "the clock is not in (0, requested]"),
        (set(manifest.estimated) == set(RESOURCES), f"estimated resources are not {', '.join(RESOURCES)}"),
        (set(manifest.tools) == {"vitis_hls", "vivado"}, "tools are not vitis_hls and vivado"),
    )
    for passed, text in checks:
        if not passed:
            return text
    return _kind_problem(manifest)


def _kind_problem(manifest: Manifest) -> str:
    """A built folder has a bitstream that met timing; an emulated one claims nothing that no tool has said."""
    bitstream = any(entry.name == f"{manifest.design}.bit" for entry in manifest.files)
    said = [manifest.built, manifest.worst_slack_ns, manifest.tools["vivado"]]
    if manifest.kind == "emulated":
        if bitstream or any(value is not None for value in said):
            return "kind is emulated, but it has a bitstream or results of a tool"
        return ""
    if not bitstream or any(value is None for value in said):
        return f"kind is built, but {manifest.design}.bit, resources, slack or Vivado's version are missing"
    if manifest.worst_slack_ns is not None and manifest.worst_slack_ns < 0:
        return f"timing was not met: worst slack {manifest.worst_slack_ns} ns; build again with a lower clock"
    return ""
