"""The notebooks run from top to bottom as a reader runs them, and are kept as ruff and this test leave them: without outputs."""

from __future__ import annotations

import json
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def run(path: Path, folder: Path) -> tuple[str, int]:
    """What a notebook prints, and how many pictures it draws."""
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "".join(output.get("text", "") for output in outputs if output.get("name") == "stdout")
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
    return text, sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps of training, no hub, and no board that somebody's shell names."""
    monkeypatch.setenv("SYSTOLORA_NOTEBOOK_STEPS", "3")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("SYSTOLORA_EMULATED_BOARD", raising=False)


def test_these_are_the_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["inside_the_hardware", "on_a_board", "train_in_emulation"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_clean(path: Path) -> None:
    """No outputs, no counts, no names of somebody's kernel: a change is a change of its text."""
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    nbformat.validate(notebook)
    assert text == json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert notebook["metadata"] == {"kernelspec": kernel, "language_info": {"name": "python"}}
    assert [cell["id"] for cell in notebook["cells"]] == [f"cell-{number}" for number in range(len(notebook["cells"]))]
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None


def test_training_in_emulation(short: None, tmp_path: Path) -> None:
    text, pictures = run(ROOT / "notebooks" / "train_in_emulation.ipynb", tmp_path)
    assert pictures == 4  # the data, before, the losses, after
    assert "3 steps" in text and "offloaded to emulator: 56 adapted" in text
    assert "the judge sees a heart in" in text and "pytorch_lora_weights.safetensors" in text
    assert "kv260: " in text


def test_a_look_inside_the_hardware(short: None, tmp_path: Path) -> None:
    """The notebook itself asserts that the array's products are exact and its clocks those of the closed formulas."""
    text, pictures = run(ROOT / "notebooks" / "inside_the_hardware.ipynb", tmp_path)
    assert pictures == 4  # units of a GEMM, PEs over clocks, dataflows, roofline
    assert "forward_up" in text and "GEMM m=24 n=32 k=64" in text
    assert "weight_stationary: 62 clocks, as the closed formula says" in text
    assert "output_stationary: 66 clocks, as the closed formula says" in text
    assert "#pragma HLS UNROLL" in text


def test_the_board_notebook_says_what_it_ran_on(short: None, tmp_path: Path) -> None:
    """With pynq, tests/pynq/test_notebook.py runs it on an emulated board."""
    text, _ = run(ROOT / "notebooks" / "on_a_board.ipynb", tmp_path)
    assert "a board\n" not in text
    assert text.count("NO BOARD AND NO PYNQ: the emulator") == 3
    assert "77 x 320: " in text and "step 3: loss " in text


@pytest.mark.slow
def test_training_in_emulation_shows_hearts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    text, _ = run(ROOT / "notebooks" / "train_in_emulation.ipynb", tmp_path)
    sentence = text.partition("the judge sees a heart in ")[2].partition("\n")[0]
    before, after = (float(word.rstrip("%")) for word in sentence.split() if word.endswith("%"))
    assert before <= 7 and after >= 15, sentence
