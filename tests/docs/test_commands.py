"""Every command of README and docs: run where that takes seconds; the others are taken apart by the command line that they are for."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from systolora.assets import pipeline_folder
from systolora.cli.app import app
from typer.testing import CliRunner

from .commands import ROOT, Command, find_block, find_code, find_commands, find_names, find_paths, find_printed

COMMANDS = find_commands()

SHORT = "--steps 2 --checkpoint-every 0 --threads 1 --model MODEL --data PICTURES"

RUN = {
    "systolora doctor": "",
    "systolora boards": "",
    "systolora bitstream list": "",
    "systolora train --help": "",
    "systolora generate --help": "",
    "systolora generate --rows 32 --cols 32 --out build/mine": "",
    "make -C build/mine csim": "",
    "systolora lint build/mine": "",
    "systolora csim --rows 64 --cols 64 --m 77 --n 320 --k 768 --dataflow ws": "",
    "systolora simulate --workload sd15 --targets kv": "",
    "systolora simulate --compat scalesim": "",
    "systolora simulate --workload sd15 --targets kv --csv costs.csv --html report.html": "",
    "systolora simulate --gemms layers.csv --csv costs.csv": "",
    "systolora simulate --gemms layers.csv --sweep rows=16,32,64 --sweep bus_bytes=16,32 --csv sweep.csv --plot sweep.svg --html sweep.html": "",
    "systolora simulate --gemms layers.csv --sweep dataflow=ws,os,auto --sweep input_bytes=65536,524288 --json": "",
    "systolora simulate --gemms layers.csv --energy energy.yaml": "",
    "systolora simulate --gemms layers.csv --trace trace.json --trace-events 100000": "",
    "systolora train --model FOLDER --data FOLDER --output runs/one --rank 4 --targets kv --steps 1000": SHORT,
    "systolora convert runs/one/pytorch_lora_weights.safetensors --to kohya --out for_comfyui.safetensors": "",
    "systolora train ... --init-from for_comfyui.safetensors": f"{SHORT} --output runs/two",
    "systolora launch my_training.py --steps 2": "",
    "systolora launch --targets linear --report report.json my_training.py --steps 2": "",
    "systolora launch -m my_training --steps 2": "",
    "systolora train ... --method intlora-mul --bits 4": f"{SHORT} --output run",
    "systolora runs runs": "",
    "systolora merge run/intlora_adapter.safetensors --model MODEL --out merged.safetensors": "",
    "systolora inspect merged.safetensors": "",
    "systolora export merged.safetensors --model MODEL --out FOLDER": "",
    "python draw.py": "",
    "systolora train --model host/data/sprite_pipeline --data my-pictures --output runs/hourglass --targets attention --rank 8 --batch 8"
    " --learning-rate 6e-3 --schedule cosine --warmup 20 --steps 250": "--steps 2 --warmup 1 --threads 1",
    "python use.py": "",
    "systolora simulate --workload host/data/sprite_pipeline --targets attention --rank 8 --batch 8 --board kv260": "",
    "systolora generate --board zcu104 --out build/zcu104": "",
}
"""What runs here, in this order and in one folder, and what is added to it."""

NOT_RUN = {
    "systolora simulate --workload sd15 --targets all": "a minute; tests/host/cost/test_simulate.py runs the workload",
    "systolora demo": "minutes; tests/host/demo/test_run.py",
    "systolora bench": "minutes; tests/host/bench",
    "systolora experiment": "hours; tests/host/experiments",
    "systolora train --backend board": "needs pynq; tests/pynq",
    "systolora bitstream build": "needs Vivado; tests/host/board/test_bitstream_files.py",
    "systolora bitstream fetch": "needs a built bitstream; tests/bitstreams/test_store.py",
    "systolora launch SCRIPT.py": "a placeholder; the commands above",
    "systolora convert": "a bare name",
    "systolora lint DIR": "the same with a placeholder",
    "systolora simulate --host FILE": "a placeholder; tests/host/cost/test_host.py",
    "systolora export ... --form term": "tests/host/intlora/test_files.py",
}
"""What is only taken apart here, and why."""


SHORTENED = {" 250": " 2"}
"""What the additions of RUN change in what the tutorial shows."""


@pytest.fixture(scope="module")
def printed() -> dict[str, str]:
    """What the commands printed, by their text; filled as they run."""
    return {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands run: four pictures with captions, the files that pages show, and the model where a clone has it."""
    place = tmp_path_factory.mktemp("reader")
    pictures = place / "pictures"
    pictures.mkdir()
    for index in range(4):
        Image.new("RGB", (64, 64), (40 * index, 90, 200 - 30 * index)).save(pictures / f"{index}.png")
        (pictures / f"{index}.txt").write_text("a big red star")
    for name, first in (("layers.csv", "name,m,n,k,count,flags"), ("energy.yaml", "name: my 22 nm library")):
        (place / name).write_text(find_block("simulate.md", first))
    (place / "my_training.py").write_text(find_block("launch.md", "import argparse", blank=True))
    for name, first in (("draw.py", "from pathlib import Path"), ("use.py", "import torch")):
        (place / name).write_text(find_block("tutorial.md", first, blank=True))
    (place / "host").symlink_to(ROOT / "host")
    return place


@pytest.mark.parametrize("text", RUN)
def test_a_command_works_as_it_is_written(
    text: str, folder: Path, printed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert text in {command.text for command in COMMANDS}, "no page has this command any more"
    monkeypatch.chdir(folder)
    line = f"{text.replace(' ...', '')} {RUN[text]}".replace("MODEL", str(pipeline_folder())).replace(
        "PICTURES", "pictures"
    )
    words = [str(folder / "exported") if word == "FOLDER" else word for word in shlex.split(line)]
    if words[:2] == ["systolora", "launch"]:  # the script is run as `__main__`
        words = [sys.executable, "-m", *words]
    if words[0] == "systolora":
        done = CliRunner().invoke(app, words[1:], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        printed[text] = done.output
        return
    words = [sys.executable if word == "python" else word for word in words]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    printed[text] = ran.stdout


@pytest.mark.parametrize(
    ("text", "lines"), find_printed("tutorial.md"), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_command_prints_what_the_tutorial_shows(text: str, lines: list[str], printed: dict[str, str]) -> None:
    """Behind the test above, which runs the commands."""
    if text not in printed:
        pytest.skip("the command did not run in this session: give the whole file to pytest")
    seen = " ".join(printed[text].split())
    for line in lines:
        for long, short in SHORTENED.items():
            line = line.replace(long, short)
        assert " ".join(line.split()) in seen, printed[text]


def test_every_command_of_the_command_line_is_run_or_has_a_reason_not_to_be() -> None:
    for command in COMMANDS:
        if command.words[0] == "systolora" and len(command.words) > 2 and command.text not in RUN:
            assert any(command.text.startswith(start) for start in NOT_RUN), f"{command.page}: {command.text}"
    texts = [command.text for command in COMMANDS]
    assert all(any(text.startswith(start) for text in texts) for start in NOT_RUN), "a reason without its command"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.page}: {command.text}"[:90])
def test_a_command_can_be_taken_apart(command: Command) -> None:
    words = command.words
    if "systolora" in words:  # alone, or behind torchrun and accelerate
        take_apart(words[words.index("systolora") + 1 :])
    elif words[0] == "make" and "-C" not in words:
        done = subprocess.run([*words, "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    elif words[0] in ("pytest", "python") or words[0].startswith("tests/"):
        for word in words:
            assert not word.startswith(("tests/", "benchmarks/")) or (ROOT / word).exists(), word
        if words[:2] == ["python", "-m"] and words[2].startswith("systolora"):
            assert importlib.util.find_spec(words[2]) is not None
        if words[:2] == ["python", "-c"]:
            subprocess.run([sys.executable, *words[1:]], check=True, capture_output=True)
    elif words[:2] == ["pip", "install"]:
        check_installation(words[2:])
    else:
        assert words[:3] == ["make", "-C", "build/mine"], f"{command.page}: no test knows `{command.text}`"


def take_apart(words: list[str]) -> None:
    """Options and arguments as the command line reads them. Required ones may be missing from a bare name, and where there is an ellipsis."""
    command: Any = typer.main.get_command(app)
    name, context = "systolora", None
    while hasattr(command, "get_command"):
        if not words:
            return
        if words[0].startswith("-"):
            assert any(words[0] in option.opts for option in command.params), f"systolora has no option {words[0]}"
            return
        name, words = words[0], words[1:]
        command = command.get_command(context, name)
        assert command is not None, f"there is no command {name}"
    partial = not words or not {"...", "--help"}.isdisjoint(words)
    try:
        command.make_context(name, [word for word in words if word not in ("--help", "...")], parent=context)
    except Exception as error:
        if not (partial and type(error).__name__ == "MissingParameter"):
            raise


def check_installation(words: list[str]) -> None:
    """The pins are there, the extras exist, and a package that is named has the version of pyproject.toml or constraints.txt."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    pinned = project + (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for before, word in zip(["", *words], words, strict=False):
        if before == "-c":
            assert (ROOT / word).is_file(), word
        elif before == "-e":
            extras = re.fullmatch(r"\.\[([\w,]+)\]", word)
            assert extras is not None, word
            assert all(f"\n{extra} = [" in project for extra in extras[1].split(",")), word
        elif not word.startswith("-"):
            assert word in pinned, f"{word} is not what the project pins"


def test_what_make_demo_installs_is_enough_for_the_commands() -> None:
    """A newcomer's environment is that of `make demo`; `systolora lint` needs libclang, which is an extra of its own."""
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("$(ENV)/.main: ")[2].partition("\n\n")[0]
    assert "'.[train,lint]'" in recipe
    assert "-e '.[train,lint]'" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "line",
    [
        "bitstream build kv260",
        "bitstream fetch kv260 --source /media/usb",
        "train --learning-rates 1",
        "training",
        "csim --m x",
    ],
)
def test_a_wrong_command_would_be_found(line: str) -> None:
    with pytest.raises(Exception, match="board|No such option|there is no command|valid integer"):
        take_apart(line.split())


@pytest.mark.parametrize(("page", "source"), find_code(), ids=lambda text: text if text.endswith(".md") else "")
def test_python_on_a_page_compiles_and_what_it_imports_is_there(page: str, source: str) -> None:
    tree = ast.parse(source, page)
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), page, "exec"), {})


@pytest.mark.parametrize(("page", "name"), sorted(set(find_names())))
def test_a_name_on_a_page_exists(page: str, name: str) -> None:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return
    raise AssertionError(f"{page}: {name}")


@pytest.mark.parametrize(("page", "path"), sorted(set(find_paths())))
def test_a_path_on_a_page_exists(page: str, path: str) -> None:
    assert (ROOT / path).exists(), page


@pytest.mark.parametrize("launcher", ["torchrun --nproc-per-node 2", "accelerate launch --multi_gpu --num_processes 2"])
def test_a_launcher_starts_as_many_processes_as_the_page_says(launcher: str, folder: Path) -> None:
    assert any(command.text.startswith(f"{launcher} -m systolora train") for command in COMMANDS)
    (folder / "place.py").write_text("import os; open(os.environ['RANK'] + os.environ['WORLD_SIZE'], 'x').close()")
    modules = {"torchrun": ["torch.distributed.run"], "accelerate": ["accelerate.commands.launch"]}
    words = launcher.split()
    here = folder / words[0]
    here.mkdir()
    arguments = words[2:] if words[0] == "accelerate" else words[1:]
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *modules[words[0]], *arguments, "-m", "place"],
        cwd=here, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in here.iterdir()) == ["02", "12"]
