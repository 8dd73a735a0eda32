"""The one place where errors become a line, what is printed of the user's own names, and folders that carry our mark."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import systolora.cli.app as entry
from rich.table import Table
from safetensors.numpy import save_file
from systolora.cli.options import make_console, print_table
from systolora.errors import UserError, describe_error, printable
from systolora.hls.config import ArrayConfig, ConfigError, board_config, fitted_config
from systolora.outputs import MARK, claim_folder, write_output
from systolora.training.adapter import SETTINGS_KEY

from .conftest import Run, snapshot


def _raised(code: str) -> BaseException:
    try:
        exec(code)
    except BaseException as error:
        return error
    raise AssertionError(code)


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("open('/nowhere/x')", "/nowhere/x: No such file or directory"),
        ("raise OSError(28, 'No space left on device', 'a.bin')", "a.bin: No space left on device"),
        ("raise OSError('cannot identify image file')", "cannot identify image file"),
        ("b'gr\\xf6n'.decode()", "text that is not utf-8 near b'gr\\xf6n': save the file as UTF-8"),
        ("'\\udcff'.encode()", "text that cannot be written in this encoding"),
        ("bytearray(10**18)", "not enough memory"),
        ('raise RuntimeError("DefaultCPUAllocator: can\'t allocate memory")', "not enough memory"),
        ("(lambda f: f(f))(lambda f: f(f))", "the input is nested too deeply"),
        ("float(10**400)", "a number in the input is too large"),
    ],
)
def test_what_input_or_machine_caused_is_one_line(code: str, line: str) -> None:
    text = describe_error(_raised(code))
    assert text is not None and text.startswith(line) and "\n" not in text


@pytest.mark.parametrize("code", ["[][0]", "{}['a']", "None.a", "assert False", "1 + 'a'"])
def test_a_fault_of_the_program_keeps_its_traceback(code: str) -> None:
    assert describe_error(_raised(code)) is None


def test_what_a_terminal_would_obey_is_escaped() -> None:
    assert printable("a\x1b[2Jb\nc \udcff") == r"a\x1b[2Jb c \udcff"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [(KeyboardInterrupt(), 130, "systolora: stopped\n"), (BrokenPipeError(errno.EPIPE, "x"), 1, "")],
)
def test_interrupts_and_closed_pipes_end_quietly(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, line: str
) -> None:
    def boom(**_: object) -> None:
        raise error

    monkeypatch.setattr(entry, "app", boom)
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    monkeypatch.setattr(type(sys.stdout), "fileno", lambda _: 1, raising=False)
    ended = run("boards")
    assert ended.code == code and ended.err == line


def test_the_traceback_comes_where_it_is_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYSTOLORA_TRACEBACK", "1")
    monkeypatch.setattr(sys, "argv", ["systolora", "inspect", "nowhere"])
    with pytest.raises(UserError, match="nowhere: there is no such file"):
        entry.main()


def _adapter(path: Path, names: list[str], **trained: str) -> None:
    tensors = {}
    for name in names:
        tensors[f"{name}.lora_A.weight"] = np.zeros((4, 8), np.float32)
        tensors[f"{name}.lora_B.weight"] = np.zeros((8, 4), np.float32)
    settings = {"model": "m", "rank": 4, "alpha": 0.0, **trained}
    save_file(tensors, path, metadata={SETTINGS_KEY: json.dumps(settings)})


def test_inspect_cuts_no_name_and_says_the_alpha_that_counts(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    stem = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attentions_of_a_long_name.attn2"
    names = [f"{stem}.{part}" for part in ("to_q", "to_k", "to_v")]
    path = tmp_path / "[x] [" / "bold] :smile: adapter.safetensors"
    path.parent.mkdir()
    _adapter(path, names)
    ended = run("inspect", str(path))
    assert ended.code == 0 and str(path) in ended.out
    assert all(name in ended.out.split() for name in names)
    assert "rank 4, alpha 4" in ended.out and "alpha 0" not in ended.out


@pytest.mark.parametrize(("precision", "said"), [("int8", True), ("float32", False)])
def test_inspect_says_what_crossed_in_training_where_something_did(
    run: Run, tmp_path: Path, precision: str, said: bool
) -> None:
    _adapter(tmp_path / "a.safetensors", ["x"], precision=precision, transfer_type="bfloat16")
    ended = run("inspect", str(tmp_path / "a.safetensors"))
    assert ended.code == 0 and ("transfer_type bfloat16" in " ".join(ended.out.split())) is said


def test_square_brackets_of_a_path_are_no_markup(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "[/red] [x] [bold]"
    ended = run("generate", "--rows", "8", "--cols", "8", "--out", str(folder))
    assert ended.code == 0 and f"files in {folder}\n" in ended.out
    ended = run("generate", "--rows", "8", "--cols", "8", "--out", str(folder / "Makefile"))
    assert ended.code == 2 and str(folder / "Makefile") in ended.err


def test_a_table_wider_than_the_terminal_is_printed_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    table = Table("[name]", "figure", box=None, title="a title longer than the terminal is")
    table.add_row("[/x] " + "n" * 60, "1" * 30)
    print_table(make_console(), table)
    text = capsys.readouterr().out
    assert "a title longer than the terminal is" in text and "[/x] " + "n" * 60 in text and "1" * 30 in text


def test_a_folder_is_taken_over_only_by_the_command_that_made_it(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert claim_folder(folder, "systolora demo") == folder
    (folder / "result").write_text("ours")
    claim_folder(folder, "systolora demo")
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match="it holds files that 'systolora generate' did not make"):
        claim_folder(folder, "systolora generate")
    for text in ("", "[1]", "\xff", '{"made_by": 3}'):
        (folder / MARK).write_text(text, encoding="latin-1")
        with pytest.raises(UserError, match="did not make"):
            claim_folder(folder, "systolora demo")
    claim_folder(folder / "empty", "systolora demo")
    assert set(before) <= set(snapshot(tmp_path))


def test_generate_goes_over_its_own_project_and_over_no_other(run: Run, tmp_path: Path) -> None:
    out = str(tmp_path / "mine")
    assert run("generate", "--rows", "8", "--cols", "8", "--out", out).code == 0
    assert run("generate", "--rows", "12", "--cols", "8", "--out", out).code == 0
    assert "12 x 8 array" in (tmp_path / "mine" / "README.md").read_text()


@pytest.mark.parametrize("full", [True, False])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool) -> None:
    path = tmp_path / "report"
    write_output(path, b"ours: old", "--html", b"ours")

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if full:
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(UserError, match="--html .*report: it cannot be written: No space left on device"):
            write_output(path, b"ours: new", "--html", b"ours")
    else:
        write_output(path, b"ours: new", "--html", b"ours")
    assert path.read_bytes() == (b"ours: old" if full else b"ours: new")
    assert [file.name for file in tmp_path.iterdir()] == ["report"]


@pytest.mark.parametrize("bus", [4, 8, 16, 32, 64])
def test_memories_that_fit_are_chosen_for_every_array(bus: int) -> None:
    for rows in (4, 5, 7, 16, 48, 63, 100, 255, 256):
        for cols in (4, 7, 48, 129, 256):
            config = fitted_config(ArrayConfig(), {"rows": rows, "cols": cols, "bus_bytes": bus})
            assert (config.rows, config.cols, config.bus_bytes) == (rows, cols, bus)


def test_memories_that_fit_already_or_were_named_stay() -> None:
    preset = board_config("kv260")
    assert fitted_config(preset, {}) == preset and fitted_config(preset, {"cols": 32}) == preset.with_changes(cols=32)
    chosen = fitted_config(ArrayConfig(), {"rows": 5, "input_bytes": 1000})
    assert (chosen.input_bytes, chosen.weight_bytes) == (1000, ArrayConfig.weight_bytes)
    with pytest.raises(ConfigError, match="input_bytes = 100: .*; weight_bytes = 9: .*next larger is"):
        fitted_config(ArrayConfig(), {"input_bytes": 100, "weight_bytes": 9})
    for value in (float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="dram_gbps"):
            ArrayConfig(dram_gbps=value)
