"""What the tests of C-simulation share."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from systolora.sim.csim.build import CsimBuildError, cache_folder, find_ap_headers

_WHEEL = "hls4ml==1.3.0"
_INSIDE = "hls4ml/templates/vivado/ap_types/"


@pytest.fixture(scope="session")
def ap_headers() -> Path:
    """The folder with Xilinx's open ap_int.h: of an installed hls4ml, or out of its wheel, fetched once."""
    try:
        return find_ap_headers()
    except CsimBuildError:
        pass
    folder = cache_folder() / "ap_types"
    headers = folder / _INSIDE
    if not (headers / "ap_int.h").exists():
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), _WHEEL]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = sorted(folder.glob("hls4ml-*.whl"))
        if not wheels:
            pytest.skip(
                f"no ap_int.h: {_WHEEL} is not installed and cannot be downloaded: {done.stderr.strip()[-200:]}"
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            wheel.extractall(folder, [name for name in wheel.namelist() if name.startswith(_INSIDE)])
    return headers
