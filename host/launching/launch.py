"""One launch from its first line to its last: the hook, the script, the report, the exit code."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from systolora.errors import UserError, printable
from systolora.outputs import check_file, write_output

from . import hooks
from .hooks import OptimizerHook
from .script import Script, find_script
from .settings import LaunchSettings
from .summary import MADE_BY, Summary, say

_MARK = f'"made_by": "{MADE_BY}"'.encode()


@dataclass
class Launch:
    """A script that is found and settings that are allowed: ready to run, once."""

    settings: LaunchSettings
    script: Script
    _offloads: Any = field(default=None, repr=False)

    def run(self) -> None:
        """Runs the script, then says what ran where. What the script raises comes out as it is.

        Raises:
            SystemExit: with code 1, if the script ended well but the report cannot be written, or the settings require an offload and
                nothing ran on the device.
        """
        process = os.getpid()
        report = Path(self.settings.report).absolute() if self.settings.report else None
        hook = OptimizerHook(self._take)
        hook.install()
        good = False
        try:
            self.script.run(hidden=(hooks.__file__,))
            good = True
        except SystemExit as ended:
            good = ended.code in (None, 0)
            raise
        finally:
            if os.getpid() == process:  # and not a fork of the script's that ended by coming here
                hook.remove()
                self._end(report, good)

    def _take(self, optimizer: Any) -> None:
        if self._offloads is None:
            from .offloads import Offloads

            self._offloads = Offloads(self.settings)
        self._offloads.take(optimizer)

    def _end(self, report: Path | None, good: bool) -> None:
        summary = self._offloads.summary() if self._offloads else Summary((), (), 0)
        if self._offloads:
            self._offloads.undo()
        say(str(summary))
        written = report is None or os.environ.get("RANK", "0") != "0" or self._write(report, summary)
        if good and (not written or (self.settings.require and not summary.ran)):
            raise SystemExit(1)

    def _write(self, report: Path, summary: Summary) -> bool:
        """Whether that went well; an error here would hide one of the script's."""
        data = json.dumps({**summary.as_dict(), "script": self.script.name}, indent=1)
        try:
            write_output(report, f"{data}\n".encode(), "--report", _MARK)
        except UserError as error:
            say(printable(str(error)))
            return False
        return True


def prepare_launch(settings: LaunchSettings, name: str, arguments: Sequence[str], as_module: bool) -> Launch:
    """Looks for the script and for a place for the report, before anything runs.

    Raises:
        UserError: if there is none.
    """
    script = find_script(name, arguments, as_module)
    if settings.report:
        check_file(Path(settings.report), "--report", _MARK)
    return Launch(settings, script)
