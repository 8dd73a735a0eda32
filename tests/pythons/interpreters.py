"""Finds the Pythons that this project supports: on PATH, or among pyenv's. Needs the standard library alone."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SUPPORTED = ("3.10", "3.11", "3.12", "3.13")


def find_python(version: str) -> str | None:
    """The path of a Python of this version ("3.10") that runs and can make environments; None if there is none."""
    named = shutil.which(f"python{version}")
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [*([named] if named else []), *map(str, sorted(pyenv.glob(f"{version}.*/bin/python{version}")))]
    return next((candidate for candidate in candidates if _runs(candidate, version)), None)


def _runs(candidate: str, version: str) -> bool:
    # A shim of pyenv is on PATH for every version that is installed, but starts the chosen ones only.
    code = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([candidate, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    except OSError:
        return False
    return done.returncode == 0 and done.stdout.strip() == version
