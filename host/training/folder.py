"""The output folder of a run: locked, tried out before the work, and never at the cost of a file that is not ours."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from systolora.errors import UserError
from systolora.intlora.file import HEADER_KEY
from systolora.outputs import try_writing

from .adapter import ADAPTER_FILE, AVERAGE_FILE, INTLORA_FILE, PEFT_FILE, SETTINGS_KEY
from .checkpoint import FOLDER, list_checkpoints, refuse_old
from .modifier import TOKEN_FILES
from .run_page import PAGE_FILE, PAGE_MARK
from .run_record import LOCK_FILE, LOG_FILE, RUN_FILE, SETTINGS_FILE, read_run

_MARKS = {
    **dict.fromkeys((ADAPTER_FILE, AVERAGE_FILE, PEFT_FILE, *TOKEN_FILES.values()), SETTINGS_KEY),
    INTLORA_FILE: HEADER_KEY,
}
"""Files that a run puts in place, and the entry of their headers by which ours are known."""

ADAPTERS = "adapters"
"""Folder of the adapters that are kept on the way."""

_SETTINGS_MARK = "# All settings of this run"
_PARTIAL = re.compile(r"\.(.+)\.\d+\.partial")
_LOG_KEYS = {"step", "loss"}


class RunFolder:
    """One run's output folder; one process holds it at a time.

    Args:
        resume: whether the run goes on from its checkpoints. checkpoints: whether it will write any.

    Raises:
        UserError: if it cannot be written, another run holds it, or it has files that must not be overwritten.
    """

    def __init__(self, path: Path, resume: bool, checkpoints: bool) -> None:
        self.path = path
        self._lock: int | None = None
        self._made: list[Path] = []
        try:
            with explained(path):
                self._make(path)
                self._take()
                self._remove_partial_files()
                if checkpoints:
                    self._make(path / FOLDER)
                self._try_out()
            self._check_files(resume)
        except BaseException:
            self.close()
            raise

    def _make(self, folder: Path) -> None:
        missing = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        self._made = missing + self._made

    def _take(self) -> None:
        """Locks the folder for this process; the system takes the lock back when the process ends, however it ends."""
        place = self.path / LOCK_FILE
        while self._lock is None:
            handle = os.open(place, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(handle, 32).decode("ascii", "replace").strip()
                os.close(handle)
                raise UserError(
                    f"--output {self.path}: another run is writing there (process {holder or 'unknown'}); "
                    "wait for its end, or give another --output"
                ) from None
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                    os.close(handle)
                    raise
                self._lock = handle  # a file system without locks: the best that can be had there
            else:
                if _is_at(handle, place):  # else its holder removed it just then
                    self._lock = handle
                else:
                    os.close(handle)
        os.truncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)

    def _remove_partial_files(self) -> None:
        """What a killed run was writing; no other run can be writing now."""
        for folder in (self.path, self.path / FOLDER):
            for path in folder.glob(".*.partial"):
                if (match := _PARTIAL.fullmatch(path.name)) and _is_ours(match[1]):
                    path.unlink(missing_ok=True)

    def _try_out(self) -> None:
        for folder in (self.path, self.path / FOLDER):
            if folder.exists():
                try_writing(folder)

    def _check_files(self, resume: bool) -> None:
        for name, mark in _MARKS.items():
            path = self.path / name
            if os.path.lexists(path) and not _has_mark(path, mark):
                raise UserError(
                    f"--output {self.path}: {name} in it was not written by systolora train and is not overwritten; give another --output"
                )
        log = self.path / LOG_FILE
        if os.path.lexists(log) and not _is_log(log):
            raise UserError(f"--output {self.path}: {LOG_FILE} in it is not the log of a run; give another --output")
        if os.path.lexists(self.path / RUN_FILE) and read_run(self.path) is None:
            raise UserError(f"--output {self.path}: {RUN_FILE} in it is not of a run; give another --output")
        for name, text in ((SETTINGS_FILE, _SETTINGS_MARK), (PAGE_FILE, PAGE_MARK)):
            path = self.path / name
            if os.path.lexists(path) and not _holds(path, text):
                raise UserError(
                    f"--output {self.path}: {name} in it was not written by systolora train and is not overwritten; give another --output"
                )
        found = list_checkpoints(self.path)
        older = next((self.path / ADAPTERS).glob("step-*"), None)
        if older and not found and not resume:
            raise UserError(
                f"--output {self.path}: it holds adapters of an older run in {ADAPTERS}/; move them away, or give another --output"
            )
        if found and not resume:
            raise UserError(
                f"--output {self.path}: it holds checkpoints of a run, up to step {found[-1][0]}; "
                f"go on with --resume, or give another --output (or move its {FOLDER}/ away)"
            )
        if not found:
            refuse_old(self.path)

    def check_space(self, needed: int) -> None:
        """Reserves and frees `needed` bytes.

        Raises:
            UserError: if there is no room for them.
        """
        with explained(self.path), tempfile.TemporaryFile(dir=self.path) as file:
            try:
                os.posix_fallocate(file.fileno(), 0, max(1, needed))
            except OSError as error:
                if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    return  # this file system cannot reserve
                reason = f"{error.strerror}; {needed / 2**20:,.1f} MiB are needed for checkpoints and adapter"
                raise OSError(error.errno, reason) from None

    def close(self) -> None:
        """Gives the folder free, and takes away what was made here if it is empty; a second call does nothing."""
        lock, self._lock = self._lock, None
        with contextlib.suppress(OSError):
            if lock is not None and _is_at(lock, self.path / LOCK_FILE):
                (self.path / LOCK_FILE).unlink()
        if lock is not None:
            os.close(lock)
        with contextlib.suppress(OSError):
            while self._made:
                self._made.pop(0).rmdir()

    def __del__(self) -> None:
        self.close()


def rescue(write: Callable[[Path], Path], folder: Path) -> Path:
    """Calls `write` with the folder; if that cannot be written any more, with another one.

    Raises:
        UserError: if the folder could not be written; its text says where the file is instead.
    """
    try:
        return write(folder)
    except OSError as error:
        reason = error.strerror or str(error)
    for place in (tempfile.gettempdir(), os.getcwd(), os.path.expanduser("~")):
        with contextlib.suppress(OSError):
            kept = write(Path(tempfile.mkdtemp(prefix="systolora-adapter-", dir=place)))
            raise UserError(f"--output {folder}: the adapter cannot be written there ({reason}); it is in {kept}")
    raise UserError(f"--output {folder}: the adapter cannot be written there ({reason}), nor anywhere else")


@contextlib.contextmanager
def explained(output: Path) -> Iterator[None]:
    """Turns an OSError into one line about `--output`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--output {output}: it cannot be written: {error.strerror or error}; give a folder that can"
        ) from None


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file is the one that the path leads to."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(handle), there)


def _is_ours(name: str) -> bool:
    return (
        name in (*_MARKS, LOG_FILE, RUN_FILE, SETTINGS_FILE, PAGE_FILE)
        or re.fullmatch(r"step-\d+\.(safetensors|pt)", name) is not None
    )


def _has_mark(path: Path, mark: str) -> bool:
    try:
        with safe_open(str(path), framework="pt") as file:
            return mark in (file.metadata() or {})
    except (SafetensorError, OSError, ValueError):
        return False


def _holds(path: Path, text: str) -> bool:
    """Whether a text stands at the beginning of a file."""
    try:
        with path.open("rb") as file:
            return text.encode() in file.read(1 << 12)
    except OSError:
        return False


def _is_log(path: Path) -> bool:
    """Whether the first line is a row of a run, or the file is empty."""
    try:
        with path.open("rb") as file:
            line = file.readline(1 << 16)
        return not line or set(json.loads(line)) >= _LOG_KEYS
    except (OSError, ValueError, TypeError):
        return False
