"""`systolora bitstream build`: generate the project, run the vendor tools if they are here, take the result over."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from systolora.bitstreams.manifest import Manifest
from systolora.bitstreams.store import PACKAGE
from systolora.hls.config import ArrayConfig
from systolora.hls.generate import write_project
from systolora.outputs import PROJECT_MAKER, claim_folder
from systolora.sim.csim.golden import write_golden

from .bitstream_files import BuildError, record_build


def build_bitstream(config: ArrayConfig, project: Path, results: Path | None = None) -> Manifest:
    """Builds the bitstream of a board's preset and records it in the package's folder of that board.

    Args:
        config: a preset. project: folder for the generated project.
        results: what an earlier build left; nothing is built then, only checked and taken over.

    Raises:
        UserError: if the project's folder holds what was not generated.
        BuildError: if a vendor tool is missing, the build fails, or its results do not fit the configuration.
    """
    if results is None:
        _require_tools(config)
        claim_folder(project, PROJECT_MAKER)
        write_project(config, project)
        write_golden(config, project)
        done = subprocess.run(["./build.sh", "all"], cwd=project, check=False)
        if done.returncode:
            raise BuildError(f"{project}/build.sh all ended with code {done.returncode}; its log is above")
        results = project / "bitstreams" / config.board
    return record_build(config, results, PACKAGE / config.board)


def _require_tools(config: ArrayConfig) -> None:
    if not (shutil.which("vitis-run") or shutil.which("vitis_hls")) or not shutil.which("vivado"):
        raise BuildError(
            "Vitis HLS and Vivado are not on PATH: run this where they are, or generate here "
            f"(systolora generate --board {config.board} --out build/{config.board}), build there, and give --results"
        )
