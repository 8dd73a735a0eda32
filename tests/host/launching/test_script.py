"""`systolora launch SCRIPT` beside `python SCRIPT`: the same output, errors and exit code, but for our own lines at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from systolora.errors import UserError
from systolora.launching.script import find_script
from systolora.launching.settings import launch_settings

OURS = "systolora launch: "


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: list[str]


def end_of(command: list[str], folder: Path, **environment: str) -> Ended:
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )  # fmt: skip
    return Ended(done.returncode, done.stdout, done.stderr.splitlines())


def launched(command: list[str], folder: Path, options: tuple[str, ...] = (), **environment: str) -> Ended:
    """With our own lines left out, of which there must be one."""
    ended = end_of(["-m", "systolora", "launch", *options, *command], folder, **environment)
    assert any(line.startswith(f"{OURS}NOTHING WAS OFFLOADED") for line in ended.err), ended
    return Ended(ended.code, ended.out, [line for line in ended.err if not line.startswith(OURS)])


SCRIPTS = {
    "arguments": "import sys; print(sys.argv, __name__, __file__, __spec__, __package__, sys.path[0], sys.modules['__main__'].__dict__ is globals())",
    "imports from its folder": "import beside; print(beside.VALUE)",
    "exit code": "raise SystemExit(5)",
    "exit text": "import sys; sys.exit('so it ends')",
    "error": "def inner():\n    raise ValueError('bad')\ndef outer():\n    inner()\nouter()",
    "error from another": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise RuntimeError('worse') from e",
    "error in an import": "import broken",
    "syntax": "def f(:\n    pass",
    "interrupt": "raise KeyboardInterrupt",
    "its own excepthook": "import sys\nsys.excepthook = lambda k, v, t: print('mine', k.__name__, v, t.tb_frame.f_code.co_name, t.tb_lineno)\nraise ValueError('bad')",
    "at exit": "import atexit; value = [1]; atexit.register(lambda: print('at exit', value))",
    "a thread that outlives it": "import threading, time\ndef late():\n    threading.main_thread().join(); import __main__; print(__main__.x)\nx = 3\nthreading.Thread(target=late).start()",
    "environment": "import os; print([os.environ.get(n) for n in ('HF_HUB_OFFLINE', 'TRANSFORMERS_VERBOSITY', 'DIFFUSERS_VERBOSITY')])",
    "nothing of torch is loaded before it": "import sys; print([n for n in ('torch', 'numpy', 'diffusers', 'peft', 'accelerate') if n in sys.modules and n != 'numpy'])",
    "a pickle of its own class": "import pickle\nclass A:\n    pass\nprint(type(pickle.loads(pickle.dumps(A()))).__module__)",
    "spawned processes": "import multiprocessing as m\ndef f(x):\n    print(__name__, x, flush=True)\nif __name__ == '__main__':\n    p = m.get_context('spawn').Process(target=f, args=(3,)); p.start(); p.join(); print(p.exitcode)",
    "a fork that exits": "import os, sys\npid = os.fork()\nif not pid:\n    sys.exit(3)\nprint(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))",
    "errors of its streams": "import sys; print(sys.stdout.errors, sys.stderr.errors)",
    "future": "import ast; print([n for n in globals() if n == 'annotations'])",
    "encoding": "# -*- coding: latin-1 -*-\nprint(len('\u00e9'))",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "beside.py").write_text("VALUE = 7\n")
    (tmp_path / "lib" / "broken.py").write_text("def f():\n    raise OSError('broken')\nf()\n")
    return tmp_path


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_ends_as_under_python(folder: Path, name: str) -> None:
    (folder / "lib" / "script.py").write_bytes(SCRIPTS[name].encode("latin-1"))
    command = [os.path.join("lib", "script.py"), "--targets", "nothing", "--", "-m", "--report=x", "--help", ""]
    plain = end_of(command, folder)
    assert launched(command, folder) == plain
    assert name != "error" or (plain.code == 1 and plain.err)


def test_a_module_runs_as_under_python(folder: Path) -> None:
    (folder / "package").mkdir()
    (folder / "package" / "__init__.py").write_text("")
    (folder / "package" / "__main__.py").write_text(
        "import sys; from . import other; print(sys.argv, __name__, __package__, __spec__.name, sys.path[0])"
    )
    (folder / "package" / "other.py").write_text(
        "import sys; print(__name__, sys.argv[0][-8:])\nif len(sys.argv) > 2: 1 / 0"
    )
    for name in ("package", "package.other"):
        for words in (["--steps"], ["-m", "--require"]):
            plain = end_of(["-m", name, *words], folder)
            ours = launched(["-m", name, *words], folder)
            assert (ours.code, ours.out) == (plain.code, plain.out)
            # runpy's own frames, which stand above the module's, are not there.
            assert ours.err == [line for line in plain.err if "frozen runpy" not in line]


def test_what_stands_before_the_script_is_ours_and_two_dashes_may_divide(folder: Path) -> None:
    (folder / "script.py").write_text("import sys; print(sys.argv)")
    options = ("--targets", "kv", "--report", "out.json", "--")
    assert launched(["script.py", "--targets", "--"], folder, options).out == "['script.py', '--targets', '--']\n"
    assert (folder / "out.json").exists()


def test_ctrl_c_ends_it_by_the_signal_with_the_report(folder: Path) -> None:
    (folder / "script.py").write_text("import time; print('here', flush=True); time.sleep(600)")
    process = subprocess.Popen(
        [sys.executable, "-m", "systolora", "launch", "script.py"], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == -signal.SIGINT
    assert OURS in err and err.endswith("KeyboardInterrupt\n") and "launching" not in err


def test_a_signal_that_it_does_not_handle_ends_it_at_once(folder: Path) -> None:
    (folder / "script.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    assert end_of(["-m", "systolora", "launch", "script.py"], folder) == Ended(-signal.SIGTERM, "", [])


def test_only_the_first_process_of_a_run_speaks(folder: Path) -> None:
    (folder / "script.py").write_text("print('here')")
    ended = end_of(["-m", "systolora", "launch", "--report", "r.json", "script.py"], folder, RANK="1", WORLD_SIZE="2")
    assert ended == Ended(0, "here\n", []) and not (folder / "r.json").exists()
    first = end_of(["-m", "systolora", "launch", "script.py"], folder, RANK="0", WORLD_SIZE="2")
    assert first.err[-1] == f"{OURS}these are the counts of the first of 2 processes"


def test_require_is_code_1_unless_the_script_has_its_own(folder: Path) -> None:
    for text, code in (("", 1), ("raise SystemExit", 1), ("raise SystemExit(4)", 4)):
        (folder / "script.py").write_text(text)
        assert launched(["script.py"], folder, ("--require",)).code == code


def test_a_report_that_cannot_be_written_at_the_end_does_not_hide_the_script_s_error(folder: Path) -> None:
    (folder / "script.py").write_text(
        "import os, pathlib; pathlib.Path('r.json').write_text('mine')\nif len(os.sys.argv) > 1: 1 / 0"
    )
    assert launched(["script.py"], folder, ("--report", "r.json")).code == 1
    (folder / "r.json").unlink()
    assert launched(["script.py", "x"], folder, ("--report", "r.json")).err[-1].startswith("ZeroDivisionError")
    assert (folder / "r.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "module", "text"),
    [
        ("nowhere.py", False, "there is no such script"),
        (".", False, "it is a folder"),
        ("nowhere.at.all", True, "there is no such module"),
        ("", True, "there is no such module"),
        ("sys", True, "there is no such module to run"),
    ],
)
def test_a_script_that_is_not_there_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: bool, text: str
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(UserError, match=text):
        find_script(name, (), module)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"targets": "everything"}, "--targets 'everything': allowed are kv"),
        ({"backend": "gpu"}, "--backend 'gpu': allowed are emulator"),
        ({"emulated_board": "kv260"}, "goes with --backend board"),
        ({"backend": "board", "board": "zcu104", "emulated_board": "kv260"}, "they name two arrays"),
        ({"rounding": "up"}, "--rounding 'up'"),
        ({"seed": -1}, "--seed -1"),
    ],
)
def test_settings_that_are_not_allowed_are_refused_before_anything_runs(given: dict[str, object], text: str) -> None:
    with pytest.raises(UserError, match=text):
        launch_settings(given)


def test_a_report_in_the_place_of_the_user_s_file_is_refused_before_the_script_runs(folder: Path) -> None:
    (folder / "mine.json").write_text("{}")
    (folder / "script.py").write_text("print('ran')")
    ended = end_of(["-m", "systolora", "launch", "--report", "mine.json", "script.py"], folder)
    assert ended.code == 2 and ended.out == "" and "systolora did not write that file" in ended.err[0]


def test_a_script_without_a_name_is_one_line(folder: Path) -> None:
    ended = end_of(["-m", "systolora", "launch", "--targets", "kv"], folder)
    assert ended.code == 2 and len(ended.err) == 1 and "SCRIPT" in ended.err[0]
