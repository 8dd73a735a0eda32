"""What a run says of itself in `run.json`: settings, versions, data, state; and what may be believed of that file later."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from systolora.files import write_atomically

RUN_FILE = "run.json"
SETTINGS_FILE = "settings.yaml"
LOG_FILE = "log.jsonl"
LOCK_FILE = ".systolora.lock"
MARK = "systolora_run"
_VERSION = 1
_PACKAGES = ("systolora", "torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "numpy", "pillow")

RUNNING, FINISHED, INTERRUPTED, FAILED, KILLED = "running", "finished", "interrupted", "failed", "killed"
"""Outcomes of a run. A run that says it is running while no process holds its folder was killed."""


def versions() -> dict[str, str]:
    """Of Python and of the packages that a run's bits depend on, those that are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def digest_of(contents: Mapping[str, str]) -> str:
    """One SHA-256 of a fingerprint by files."""
    return hashlib.sha256(json.dumps(dict(contents), sort_keys=True).encode()).hexdigest()


def now() -> str:
    """The time of this moment, for people and in the order of time."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def write_run(output: Path, facts: Mapping[str, Any]) -> None:
    """Writes `run.json` whole or not at all.

    Raises:
        OSError: if it cannot be written.
    """
    write_atomically(output / RUN_FILE, (json.dumps({MARK: _VERSION, **facts}, indent=1) + "\n").encode())


def write_settings(output: Path, settings: Mapping[str, Any]) -> None:
    """Writes the settings as a YAML file that `--config` takes, without the folders of this computer.

    Raises:
        OSError: if it cannot be written.
    """
    import yaml

    text = (
        f"# All settings of this run but its folders: systolora train --config {SETTINGS_FILE} --model FOLDER --data FOLDER --output FOLDER\n"
        "# repeats it.\n"
    )
    text += yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)
    write_atomically(output / SETTINGS_FILE, text.encode())


def read_run(output: Path) -> dict[str, Any] | None:
    """What `run.json` says; None if there is none of ours, or it cannot be read."""
    try:
        content = json.loads((output / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and content.get(MARK) == _VERSION else None


def read_log(output: Path) -> list[dict[str, Any]]:
    """The rows of the log, one a step; a line that was being written when the run was killed is left out."""
    rows = []
    try:
        lines = (output / LOG_FILE).read_bytes().splitlines(keepends=True)
    except OSError:
        return []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if line.endswith(b"\n") and isinstance(row, dict):
            rows.append(row)
    return rows


@dataclass(frozen=True)
class RunSummary:
    """One run folder, as `systolora runs` tells it; loss is of the last step, NaN before the first."""

    folder: Path
    outcome: str
    step: int
    steps: int
    loss: float
    started: str
    message: str


def summarize(output: Path) -> RunSummary | None:
    """What became of the run of a folder; None if it is no run's."""
    facts = read_run(output)
    if facts is None:
        return None
    rows = read_log(output)
    outcome = str(facts.get("state", ""))
    if outcome == RUNNING and not is_held(output):
        outcome = KILLED
    last = rows[-1] if rows else {}
    return RunSummary(
        output,
        outcome,
        int(last.get("step", 0)),
        int(facts.get("settings", {}).get("steps", 0)),
        float(last.get("loss", "nan")),
        str(facts.get("started", "")),
        str(facts.get("message", "")),
    )


def find_runs(folder: Path) -> list[RunSummary]:
    """The runs of a folder and of those inside it, by the time that they started."""
    places = {path.parent for path in folder.rglob(RUN_FILE)}
    found = [summary for place in places if (summary := summarize(place))]
    return sorted(found, key=lambda summary: (summary.started, str(summary.folder)))


def is_held(output: Path) -> bool:
    """Whether a process holds a run's folder; it is asked for no longer than the answer takes."""
    try:
        handle = os.open(output / LOCK_FILE, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False
