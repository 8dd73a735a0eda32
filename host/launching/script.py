"""A Python script or module run as `python SCRIPT ARGS` runs it, in this process: its name, its path, its arguments, its errors."""

from __future__ import annotations

import builtins
import importlib.util
import io
import os
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import CodeType, ModuleType, TracebackType
from typing import Any

from systolora.errors import UserError


@dataclass(frozen=True)
class Script:
    """What is to run.

    Attributes:
        name: as it was given, a file or, with `spec`, a module. path: of the file. arguments: for `sys.argv[1:]`.
        spec: of a module that was found; None for a file.
    """

    name: str
    path: str
    arguments: tuple[str, ...]
    spec: ModuleSpec | None = None

    def run(self, hidden: Collection[str] = ()) -> None:
        """Runs it as `__main__`, and leaves what it raises to the caller, who must not catch it: Python then ends as it would have.

        Args:
            hidden: files whose frames are left out of the traceback of an uncaught error, beside all above the script's.
        """
        module = self._main_module()
        sys.argv[:] = [self.path if self.spec else self.name, *self.arguments]
        if not getattr(sys.flags, "safe_path", False):
            folder = os.getcwd() if self.spec else os.path.dirname(os.path.realpath(self.path))
            sys.path[:1] = [folder]
        code: CodeType | None = None
        try:
            code = self._code()
            exec(code, module.__dict__)
        except SystemExit:
            raise
        except BaseException:
            _hide_frames(code, hidden)
            raise

    def _main_module(self) -> ModuleType:
        module = ModuleType("__main__")
        module.__dict__.update(
            __builtins__=builtins,
            __file__=self.path,
            __cached__=self.spec.cached if self.spec else None,
            __loader__=self.spec.loader if self.spec else SourceFileLoader("__main__", self.path),
            __package__=self.spec.parent if self.spec else None,
            __spec__=self.spec,
        )
        sys.modules["__main__"] = (
            module  # and there it stays, as a script's own does: what it leaves behind may look for it
        )
        return module

    def _code(self) -> CodeType:
        if self.spec:
            loader: Any = self.spec.loader
            return loader.get_code(self.spec.name)
        with io.open_code(self.path) as file:
            return compile(file.read(), self.path, "exec", dont_inherit=True)


def find_script(name: str, arguments: Sequence[str], as_module: bool) -> Script:
    """The script, or with `as_module` the module, or the `__main__` of the package, of that name.

    Raises:
        UserError: if there is none.
    """
    if not as_module:
        if os.path.isdir(name):
            raise UserError(f"{name}: it is a folder; give the script in it, or -m and the name of a module")
        if not os.path.isfile(name):
            raise UserError(f"{name}: there is no such script; give a Python file, or -m and the name of a module")
        return Script(name, os.path.abspath(name), tuple(arguments))
    found = _find_module(name)
    if found is not None and found.submodule_search_locations is not None:
        found = _find_module(f"{name}.__main__")
    if found is None or not found.has_location or not hasattr(found.loader, "get_code"):
        raise UserError(f"-m {name}: there is no such module to run, here or among the installed packages")
    return Script(name, str(found.origin), tuple(arguments), found)


def _find_module(name: str) -> ModuleSpec | None:
    if os.getcwd() not in sys.path:
        sys.path.insert(1, os.getcwd())
    try:
        return importlib.util.find_spec(name)
    except (ModuleNotFoundError, ValueError):
        return None


def _hide_frames(code: CodeType | None, hidden: Collection[str]) -> None:
    """Has an uncaught error be shown with the frames that it would have had without us."""
    show = sys.excepthook

    def show_own(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        own = own_frames(trace, code, hidden)
        show(kind, error.with_traceback(own), own)

    sys.excepthook = show_own


def own_frames(trace: TracebackType | None, code: CodeType | None, hidden: Collection[str]) -> TracebackType | None:
    """A traceback from the frame of `code` on, without those of the hidden files."""
    entries: list[TracebackType] = []
    while trace is not None:
        if entries or trace.tb_frame.f_code is code:
            entries.append(trace)
        trace = trace.tb_next
    kept: TracebackType | None = None
    for entry in reversed(entries):
        if entry.tb_frame.f_code.co_filename not in hidden:
            kept = TracebackType(kept, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return kept
