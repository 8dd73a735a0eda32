"""The notebook that pynq delivers to a board's Jupyter runs from top to bottom, here on an emulated board."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from systolora.hls.config import board_config

nbclient = pytest.importorskip(
    "nbclient", reason="the notebook needs Jupyter's nbclient; the environment of pynq 4 has it"
)
import nbformat  # noqa: E402

NAME = "systolora_notebooks"
NOTEBOOK = "on_a_board.ipynb"


@pytest.fixture
def delivered(tmp_path: Path) -> Path:
    """The notebook, delivered by pynq's own command from the entry point."""
    program = "from pynq._cli.get_notebooks import main; main()"
    command = [sys.executable, "-W", "ignore", "-c", program, NAME, "--ignore-overlays", "--path", str(tmp_path)]
    # Elsewhere than in the checkout, whose own egg-info would be found first.
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return tmp_path / NAME / NOTEBOOK


def test_the_notebook_runs(delivered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYSTOLORA_EMULATED_BOARD", "ultra96v2")
    monkeypatch.setenv("SYSTOLORA_NOTEBOOK_STEPS", "3")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notebook = nbformat.read(delivered, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(delivered.parent)}}).execute()
    text = "".join(
        output.get("text", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.get("name") == "stdout"
    )
    config = board_config("ultra96v2")
    assert f"board ULTRA96V2: {config.rows} x {config.cols} array at {config.clock_mhz:g} MHz" in text
    assert "77 x 320: " in text and "step 3: loss " in text
    assert "pytorch_lora_weights.safetensors" in text
