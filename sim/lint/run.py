"""``systolora lint``: checks HLS C++ for what Vitis HLS would refuse, skip, or turn into other hardware.

docs/lint.md lists the rules. Everything is decided on libclang's syntax tree; only the text of ``#pragma HLS``
lines, which no C++ parser keeps, is tokenised here.
"""

from __future__ import annotations

import json as json_text
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .beside import check_beside
from .binding import check_binding
from .bursts import check_bursts
from .calls import check_calls
from .dataflow import check_dataflow
from .interface import check_interface
from .loops import check_loops
from .memories import check_memories
from .placement import check_placement
from .project import Project
from .rules import RULES, Finding
from .state import check_state
from .subset import check_subset
from .tree import LintError, Unit, parse_unit, read_source

DEFAULT_DEFINES = ("SYSTOLORA_NATIVE", "__SYNTHESIS__")
DEFAULT_TOP = "systolora_top"
_SOURCES = frozenset({".cpp", ".cc", ".cxx"})
_HEADERS = frozenset({".hpp", ".hh", ".h"})
_CONFIGURATION = "hls_config.cfg"
_CHECKS: tuple[Callable[[Project], Iterator[Finding]], ...] = (
    check_subset,
    check_calls,
    check_placement,
    check_binding,
    check_loops,
    check_dataflow,
    check_interface,
    check_bursts,
    check_beside,
    check_memories,
    check_state,
)


def lint_folder(path: Path | str) -> list[Finding]:
    """Check the HLS project in a folder.

    The sources and the top function are those of ``syn.file`` and ``syn.top`` in an ``hls_config.cfg`` below
    ``path``; without one, all C++ sources below ``path`` and ``systolora_top``. Files that take no part in the
    top function (a test bench) are left out.

    Args:
        path: the folder.

    Returns:
        Findings sorted by file and line; empty if all is well.

    Raises:
        LintError: there is no such folder, no C++ in it, or no libclang.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise LintError(f"no folder {folder}: give the folder that 'systolora generate --out' wrote")
    top, files = _read_configuration(folder)
    if not files:
        files = _find(folder, _SOURCES) or _find(folder, _HEADERS)
    if not files:
        raise LintError(f"no C++ files in {folder}: give the folder that 'systolora generate --out' wrote")
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        raise LintError(f"{missing} is named in {_CONFIGURATION} but does not exist: generate the project again")
    include = sorted({file.parent for file in _find(folder, _HEADERS)})
    units = [parse_unit(file, folder, DEFAULT_DEFINES, include) for file in files]
    return _lint(units, top or DEFAULT_TOP, wanted=files[0])


def lint_file(
    path: Path | str,
    top: str | None = None,
    defines: Sequence[str] = DEFAULT_DEFINES,
    include: Sequence[Path | str] = (),
) -> list[Finding]:
    """Check one C++ file with the headers beside it.

    Args:
        path: the file.
        top: name of its top function; None if it has none (the rules about interfaces are then left out).
        defines: macros. The open ap_int headers refuse ``__SYNTHESIS__``: leave it out to lint with them;
            simulation-only code between ``#ifndef __SYNTHESIS__`` and ``#endif`` is then checked too.
        include: folders to look for headers in.

    Returns:
        Findings sorted by file and line; empty if all is well.

    Raises:
        LintError: there is no such file, or no libclang.
    """
    file = Path(path)
    if not file.is_file():
        raise LintError(f"no file {file}: give a C++ source")
    unit = parse_unit(file, file.parent, defines, [Path(folder) for folder in include])
    return _lint([unit], top, wanted=file)


def run_lint(path: Path, json: bool) -> int:
    """Print what :func:`lint_folder` finds, as text or as one JSON object; errors go to stderr.

    Returns:
        Exit code: 0 without findings, 1 with findings, 2 if the lint could not run.
    """
    try:
        findings = lint_folder(path)
    except LintError as error:
        print(f"systolora lint: {error}", file=sys.stderr)
        return 2
    if json:
        rows = [{"file": f.file, "line": f.line, "rule": f.rule, "message": f.message} for f in findings]
        print(json_text.dumps({"path": str(path), "count": len(rows), "findings": rows}, indent=2))
    else:
        for finding in findings:
            print(finding)
        amount = {0: "no findings", 1: "1 finding"}.get(len(findings), f"{len(findings)} findings")
        print(f"{path}: {amount} ({len(RULES)} rules, see docs/lint.md)")
    return 1 if findings else 0


def _lint(units: Sequence[Unit], top: str | None, wanted: Path) -> list[Finding]:
    errors = {Finding(e.file, e.line, "SRC01", f"{e.text}; {RULES['SRC01'].allowed}") for u in units for e in u.errors}
    if errors:
        return sorted(errors)
    project = Project(units, top or "")
    findings = set(project.faults)
    if top is not None and project.top is None:
        message = f"no function {top} with a body; {RULES['IFC01'].allowed}"
        findings.add(Finding(str(wanted), 1, "IFC01", message))
    for check in _CHECKS:
        findings.update(check(project))
    return sorted(findings)


def _find(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix in suffixes and file.is_file())


def _read_configuration(folder: Path) -> tuple[str | None, list[Path]]:
    """The top function and the sources that an ``hls_config.cfg`` hands to synthesis."""
    top: str | None = None
    files: list[Path] = []
    for configuration in sorted(folder.rglob(_CONFIGURATION))[:1]:
        for line in read_source(configuration).splitlines():
            key, _, value = (part.strip() for part in line.partition("="))
            if key == "syn.top":
                top = value
            elif key == "syn.file" and Path(value).suffix in _SOURCES:
                files.append(configuration.parent / value)
    return top, files
