"""Every supported Python that is here renders the same text; the standard library, jinja2 and `hls/` are all it needs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from systolora.hls.config import BOARDS, ArrayConfig
from systolora.hls.generate import render_project

from .interpreters import SUPPORTED, find_python

ROOT = Path(__file__).parents[2]

PROGRAM = """
import hashlib, json
from systolora.hls.config import BOARDS, ArrayConfig
from systolora.hls.generate import render_project
texts = [render_project(config) for config in (ArrayConfig(), *BOARDS.values())]
print(json.dumps([{path: hashlib.sha256(text.encode()).hexdigest() for path, text in one.items()} for one in texts]))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with jinja2 and `systolora.hls`, nothing else: no other Python has this environment's packages."""
    folder = tmp_path_factory.mktemp("library")
    for name in ("jinja2", "markupsafe"):
        spec = find_spec(name)
        assert spec is not None and spec.origin is not None
        (folder / name).symlink_to(Path(spec.origin).parent)
    (folder / "systolora").mkdir()
    (folder / "systolora" / "__init__.py").touch()
    (folder / "systolora" / "hls").symlink_to(ROOT / "hls")
    return folder


@pytest.mark.parametrize("version", [v for v in SUPPORTED if v != f"{sys.version_info[0]}.{sys.version_info[1]}"])
def test_every_python_renders_the_same_text(version: str, library: Path) -> None:
    python = find_python(version)
    if python is None:
        pytest.skip(f"no Python {version} here, neither on PATH nor among pyenv's")
    environment = {**os.environ, "PYTHONPATH": str(library), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [python, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    expected = [
        {path: hashlib.sha256(text.encode()).hexdigest() for path, text in render_project(config).items()}
        for config in (ArrayConfig(), *BOARDS.values())
    ]
    assert json.loads(done.stdout) == expected
