"""Bad input of every kind over all commands: exit code not 0, one line, no traceback, nothing written or deleted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Run, snapshot

TRAIN = "train --model pipeline --data data --output run"
LONG = "n" * 300
DIGITS = "9" * 23

# Each line is a command and what its one line must hold.
CASES = """
train --learning-rate nan                        | --learning-rate nan: it must be a finite number
train --learning-rate inf                        | --learning-rate inf: it must be a finite number
train --learning-rate 0                          | --learning-rate 0.0: it must be larger than 0
train --learning-rate 1e300                      | --learning-rate 1e+300: it must be at most 1000
train --learning-rate fast                       | Invalid value for '--learning-rate'
train --weight-decay nan                         | --weight-decay nan: it must be a finite number
train --weight-decay -1                          | --weight-decay -1.0: it must not be negative
train --max-grad-norm nan                        | --max-grad-norm nan: it must be a finite number
train --max-grad-norm inf                        | --max-grad-norm inf: it must be a finite number
train --seed DIGITS                              | --seed 99999999999999999999999: it must be at most 4294967295
train --seed -1                                  | --seed -1: it must not be negative
train --rank 0                                   | --rank 0: it must be larger than 0
train --rank 1e9                                 | --rank
train --rank 1000000000                          | --rank 1000000000: it must be at most 8192
train --alpha nan                                | --alpha nan
train --alpha -1                                 | --alpha -1.0
train --steps 0                                  | --steps 0
train --steps DIGITS                             | --steps
train --batch 1000000000                         | --batch 1000000000
train --accumulation 0                           | --accumulation 0
train --warmup -1                                | --warmup -1
train --resolution 1000000000                    | --resolution 1000000000: it must be at most 16384
train --snr-gamma inf                            | --snr-gamma inf
train --noise-offset nan                         | --noise-offset nan
train --caption-dropout nan                      | --caption-dropout nan
train --caption-dropout 1.5                      | --caption-dropout 1.5: it is a share
train --bits 9                                   | --bits 9: it must be at most 8
train --intlora-spread nan                       | --intlora-spread nan
train --intlora-exponent inf                     | --intlora-exponent inf
train --intlora-headroom nan                     | --intlora-headroom nan
train --intlora-refresh -1                       | --intlora-refresh -1
train --threads 1000000000                       | --threads 1000000000
train --checkpoint-every -1                      | --checkpoint-every -1
train --keep-checkpoints 0                       | --keep-checkpoints 0
train --targets kq                               | --targets 'kq': allowed are kv, attention, linear, all
train --adapt nothing                            | --adapt 'nothing': allowed are kv, attention
train --precision fp8                            | --precision 'fp8'
train --backend gpu                              | --backend 'gpu': allowed are emulator, csim, board
train --schedule never                           | --schedule 'never': allowed are constant, linear, cosine
train --weight-scales row                        | --weight-scales 'row': allowed are tensor, channel
train --rounding up                              | --rounding 'up'
train --method dora                              | --method 'dora'
train --intlora-ratio x                          | --intlora-ratio 'x'
train --method intlora-mul --remedies x          | there is no 'x'
train --method intlora-mul --targets all --adapt kv | leave --targets out
train --board nowhere                            | no board 'nowhere'
train --emulated-board kv260                     | goes with --backend board
train --backend board --emulated-board kv260 --board zcu104 | they name two arrays
train --rnk 4                                    | --rank
train --model [/x] --output [x]                  | --model [/x]: there is no such folder
train --model file                               | file
train extra                                      | extra
train --data nowhere                             | nowhere
runs nowhere                                     | nowhere: there is no such folder
launch nowhere.py                                | nowhere.py
convert nowhere.safetensors --to kohya --out out.safetensors | nowhere.safetensors: there is no such file
demo --out foreign                               | --out foreign: the folder is not empty: it holds files that 'systolora demo' did not make
demo --out .                                     | --out .: the folder is not empty
demo --out file                                  | --out file: it is a file; give a folder
demo --out file/below                            | --out file/below: it cannot be written
demo --out LONG                                  | it cannot be written: File name too long
demo --steps -1                                  | --steps -1: it must not be negative
demo --steps DIGITS                              | --steps
demo --seed -1                                   | --seed -1
demo --backend gpu                               | --backend 'gpu'
demo --concept cat                               | --concept 'cat': allowed are heart
demo --targets kq                                | --targets 'kq'
demo --emulated-board kv260                      | goes with --backend board
simulate --dram-gbps nan                         | --dram-gbps nan: it must be a finite number
simulate --dram-gbps inf                         | --dram-gbps inf: it must be a finite number
simulate --latency-ns inf                        | --latency-ns inf: it must be a finite number
simulate --latency-ns -5                         | --latency-ns -5.0: it must not be negative
simulate --clock-mhz nan                         | --clock-mhz nan
simulate --rows 1000                             | --rows 1000: it must be at most 256
simulate --rows 3                                | rows = 3: allowed are 4 to 256
simulate --bus-bytes 7                           | bus_bytes = 7
simulate --rank 0                                | --rank 0: it must be at least 1
simulate --batch DIGITS                          | --batch
simulate --in-flight 0                           | --in-flight 0: it must be at least 1
simulate --trace-events 0                        | --trace-events 0
simulate --technology steam                      | --technology 'steam': allowed are
simulate --result int4                           | --result 'int4': allowed are float32, bfloat16
simulate --workload nowhere                      | nowhere
simulate --workload model                        | model
simulate --board nowhere                         | no board 'nowhere'
simulate --compat scalesim --trace t.json        | --trace with --compat
simulate --html foreign                          | --html foreign: it is a folder; give a file
simulate --html foreign/index.html               | systolora did not write that file
simulate --html file/below/x.html                | --html file/below/x.html: it cannot be written
simulate --html /dev/null                        | --html /dev/null: it is no ordinary file
simulate --html LONG                             | it cannot be written: File name too long
simulate --trace file                            | --trace file: systolora did not write that file
simulate --csv file                              | --csv file: systolora did not write that file
simulate --csv foreign                           | --csv foreign: it is a folder; give a file
simulate --csv /proc/nowhere/x                   | --csv /proc/nowhere/x: it cannot be written
simulate --csv same --html same                  | --html and --csv are both same: give two names
simulate --plot p.svg                            | --plot goes with --sweep
simulate --jobs 2                                | --jobs goes with --sweep
simulate --jobs 0                                | --jobs
simulate --input-bytes 7                         | input_bytes = 7: two halves of whole words
simulate --output-bytes DIGITS                   | --output-bytes
simulate --max-instructions -1                   | --max-instructions -1: it must not be negative
simulate --packed-dsp maybe                      | --packed-dsp 'maybe': allowed are on, off
simulate --dram-gbps 1e-300                      | --dram-gbps 1e-300: it must be at least 0.001
simulate --dataflow is                           | --dataflow 'is': allowed are auto, ws, os
simulate --energy nowhere                        | --energy nowhere: cannot be read as YAML
simulate --energy file                           | --energy file: there is no setting 'mine'
simulate --gemms nowhere                         | --gemms nowhere: cannot be read
simulate --gemms file                            | --gemms file, line 1: column 'mine: file'
simulate --gemms foreign                         | --gemms foreign: cannot be read: Is a directory
simulate --gemms file --rank 8                   | --gemms with --rank
simulate --sweep rows                            | --sweep rows: give values with commas
simulate --sweep row=4                           | did you mean rows?
simulate --sweep rows=4,3                        | --sweep, at rows 3: rows = 3: allowed are 4 to 256
simulate --sweep rows=4,nan                      | rows = 'nan': expected a whole number
simulate --sweep clock_mhz=100,nan               | --clock-mhz nan: it must be a finite number
simulate --sweep rows=4 --rows 8                 | --sweep rows and --rows name the same setting
simulate --sweep rows=4 --trace t.json           | --trace with --sweep
simulate --sweep rows=4 --plot p.jpg             | --plot p.jpg: the name must end in .svg or .png
simulate --sweep rows=4 --plot file/below.svg    | --plot file/below.svg: it cannot be written
simulate --sweep rows=4 --csv /proc/nowhere/x    | --csv /proc/nowhere/x: it cannot be written
simulate --trace /proc/nowhere/x                 | --trace /proc/nowhere/x: it cannot be written
generate                                         | Missing option '--out'
generate --out foreign                           | 'systolora generate' did not make
generate --out .                                 | --out .: the folder is not empty
generate --out file                              | --out file: it is a file
generate --out file/below                        | --out file/below: it cannot be written
generate --out /proc/nowhere                     | --out /proc/nowhere: it cannot be written
generate --out new --rows 3                      | --rows 3: it must be at least 4
generate --out new --rows 1e9                    | --rows
generate --out new --clock-mhz nan               | --clock-mhz nan: it must be a finite number
generate --out new --bus-bytes 7                 | bus_bytes = 7: allowed are
generate --out new --input-bytes 7 --output-bytes 7 | output_bytes = 7
generate --out new --board nowhere               | no board 'nowhere'
generate --out new --board kv260 --rows 256 --cols 256 | does not fit
csim --m 0                                       | --m
csim --m DIGITS                                  | --m
csim --m 1048576 --n 1048576 --k 1048576         | bytes of matrices
csim --dataflow sideways                         | --dataflow 'sideways': allowed are ws, os, auto
csim --dataflow os --dataflows ws                | --dataflow os: this hardware is built for ws alone
csim --seed DIGITS                               | --seed
csim --clock-mhz inf                             | --clock-mhz inf
lint nowhere                                     | no folder nowhere
lint empty                                       | no C++ files in empty
boards extra                                     | extra
bitstream verify                                 | give --board or --folder
bitstream verify --board nowhere                 | no board 'nowhere'
bitstream verify --folder empty                  | manifest.json
bitstream verify --folder manifest               | manifest.json: it is no UTF-8 text
bitstream fetch --board kv260 --source nowhere   | nowhere/kv260/manifest.json
bitstream fetch --board kv260 --source http://example.org | plain http
bitstream fetch --board kv260 --source manifest --cache file | file: it cannot be written
bitstream fetch --board kv260 --source manifest --cache /proc/nowhere | /proc/nowhere: it cannot be written
bitstream build --board kv260 --results empty    | no systolora.bit
merge nowhere --out new                          | nowhere: there is no such file
merge broken.safetensors --out new               | broken.safetensors: the file is damaged
merge broken.safetensors --out foreign           | --out foreign: it is a folder
merge broken.safetensors --out file              | --out file: the file there is not replaced
merge broken.safetensors --out broken.safetensors | --out broken.safetensors: it is the file that is read
merge broken.safetensors --out /dev/null         | --out /dev/null: the file there is not replaced
export broken.safetensors --model pipeline --form x --out new | --form 'x': allowed are term, diffusers
export broken.safetensors --model pipeline --form term --out foreign | --out foreign: it is a folder
export broken.safetensors --model pipeline --form term --out file | --out file: the file there is not replaced
export broken.safetensors --model pipeline --out foreign | --out foreign: the folder is not empty
export broken.safetensors --model pipeline --out file | --out file: it is a file
inspect nowhere                                  | nowhere: there is no such file
inspect broken.safetensors                       | broken.safetensors: it is no readable safetensors file
inspect foreign                                  | foreign
inspect [/x]                                     | [/x]: there is no such file
bench emulator --shape 1x1                       | --shape '1x1': expected MxNxK
bench emulator --shape 999999999x999999999x1     | its matrices are larger than
bench emulator --repeats 0                       | --repeats
bench step --rank DIGITS                         | --rank
bench step --threads -1                          | --threads
experiment intlora --seeds 0                     | --seeds
experiment intlora --out foreign                 | --out foreign: the folder is not empty: it holds files
experiment intlora --page nowhere                | --page nowhere: there is no such file
experiment intlora --workers 1000000             | --workers
trian                                            | Did you mean 'train'?
"""

YAML = [
    (b"learning_rate: true\n", "learning_rate = True: expected a number"),
    (b"rank: yes\n", "rank = True: expected a whole number"),
    (b"seed: no\n", "seed = False: expected a whole number"),
    (b"rank: 2.5\n", "rank = 2.5: expected a whole number"),
    (b"rank: .inf\n", "rank = inf: expected a whole number"),
    (b"learning_rate: .nan\n", "--learning-rate nan: it must be a finite number"),
    (b"alpha: -.inf\n", "--alpha -inf: it must be a finite number"),
    (b"rank: 4\nsteps: 5\nrank: 8\n", "line 3: rank is given a second time, after line 1"),
    (b"batch-size: 4\nbatch_size: 5\n", "line 2: batch_size is given a second time"),
    (b"rnk: 4\n", "did you mean 'rank'?"),
    (b"random_flip: 1\n", "random_flip = 1: expected true or false"),
    (b"prompt: 2020-01-01\n", "prompt = datetime.date(2020, 1, 1): expected text: put it in quotes"),
    (b"data: 007\n", "data = 7: expected text: put it in quotes"),
    (b"output: on\n", "output = True: expected text: put it in quotes"),
    (b"rank: [4]\n", "line 1: a list or a mapping; expected 'name: value'"),
    (b"- rank\n", "expected lines of 'name: value', found list"),
    (b"[" * 20_000, "a list or a mapping"),
    (b"{a: " * 20_000, "a list or a mapping"),
    (b"rank: " + b"9" * 5000 + b"\n", "cannot be read as YAML"),
    (b"rank: 0x" + b"f" * 5000 + b"\n", "rank = (a number of 20000 bits): expected a whole number"),
    (b"learning_rate: 0x" + b"f" * 500 + b"\n", "expected a number"),
    (b"seed: 2020-13-45\n", "cannot be read as YAML"),
    (b"a: &a [*a, *a]\n", "a list or a mapping"),
    (b"&a prompt: *a\nmodel: {}\n", "a list or a mapping"),
    (b"rank: !!python/object/apply:os.system [id]\n", "a list or a mapping"),
    (b"rank: !!python/name:os.system\n", "cannot be read as YAML"),
    (b"rank: 4\n---\nrank: 5\n", "cannot be read as YAML"),
    (b"prompt: gr\xf6n\n", "it is not UTF-8 (byte 11)"),
    (b"prompt: \x00\n", "cannot be read as YAML"),
    (b"# " + b"x" * (1 << 20), "larger than 1 MiB"),
]


def _cases() -> list[tuple[list[str], str]]:
    found = []
    for line in filter(None, CASES.splitlines()):
        command, _, message = (part.strip() for part in line.partition(" | "))
        words = command.replace("DIGITS", DIGITS).replace("LONG", LONG).split()
        if words[0] == "train":
            words = TRAIN.split() + words[1:]
        found.append((words, message))
    return found


def _require_refused(run: Run, place: Path, arguments: list[str], message: str) -> None:
    before = snapshot(place)
    ended = run(*arguments)
    assert ended.code not in (0, None)
    lines = ended.err.splitlines()
    assert len(lines) == 1 and message in lines[0], ended.err
    assert "Traceback" not in ended.out + ended.err
    assert snapshot(place) == before, "nothing written, nothing deleted"


@pytest.mark.parametrize(("arguments", "message"), _cases(), ids=[" ".join(words)[-60:] for words, _ in _cases()])
def test_bad_input_gets_one_line_and_changes_nothing(run: Run, place: Path, arguments: list[str], message: str) -> None:
    _require_refused(run, place, arguments, message)


@pytest.mark.parametrize(("text", "message"), YAML, ids=[repr(text[:24]) for text, _ in YAML])
def test_a_bad_settings_file_gets_one_line_and_changes_nothing(
    run: Run, place: Path, text: bytes, message: str
) -> None:
    (place / "run.yaml").write_bytes(text)
    _require_refused(run, place, [*TRAIN.split(), "--config", "run.yaml"], message)


@pytest.mark.parametrize(("path", "message"), [("nowhere", "No such file"), ("empty", "Is a directory")])
def test_a_settings_file_that_is_none_is_named(run: Run, place: Path, path: str, message: str) -> None:
    _require_refused(
        run, place, [*TRAIN.split(), "--config", path], f"--config {path}: cannot be read as YAML: {message}"
    )


def test_there_are_more_than_ninety_kinds_and_no_command_is_left_out() -> None:
    from systolora.cli.app import app
    from typer.main import get_command

    assert len(_cases()) + len(YAML) >= 90
    commands = {words[0] for words, _ in _cases()}
    assert commands >= set(get_command(app).commands) - {"doctor"}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train --model pipeline --data data --output run --learning-rate nan", "--learning-rate nan"),
        ("demo --out foreign", "did not make"),
        ("generate --out file/below", "cannot be written"),
    ],
)
def test_the_installed_command_does_the_same(place: Path, arguments: str, message: str) -> None:
    before = snapshot(place)
    command = [sys.executable, "-m", "systolora", *arguments.split()]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}, check=False)
    assert ended.returncode == 2 and ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1 and message in ended.stderr
    assert snapshot(place) == before
