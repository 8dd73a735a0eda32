"""Signals that ask a run to stop: noted when they come, acted upon between two steps."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
_SHOW_CURSOR = "\033[?25h"


class Stopped(KeyboardInterrupt):
    """A run that was asked to stop and did, between two steps. Its text says after which step and how it goes on.

    Attributes:
        signum: of the signal; 0 where another process of the run got it.
    """

    def __init__(self, text: str, signum: int) -> None:
        super().__init__(text)
        self.signum = signum


class StopFlag:
    """While it is entered, the first signal is noted in `signum` and no more; one too many has its usual effect at once.

    Signals that are ignored (`nohup`, background jobs of a shell) stay so. Outside the main thread, where Python allows no handlers,
    nothing is noted.

    Args:
        patience: how many signals are noted. A launcher of several processes passes on what the terminal sends to them as well.
    """

    def __init__(self, patience: int = 1) -> None:
        self.signum = 0
        self.patience = patience
        self._left = patience
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopFlag:
        self.signum, self._left = 0, self.patience
        self._before = _install(self._note)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _restore(self._before)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._left -= 1
        if self._left >= 0:
            self.signum = self.signum or signum
            return
        _restore(self._before)
        signal.raise_signal(signum)


class EndAtOnce:
    """While it is entered, a signal ends the process at once with one line, whatever it is in the middle of.

    For the command line, around everything that is not between two steps: an exception that a signal raises inside a library may be
    swallowed there, or leave its files half read.

    Attributes:
        text: what the line says after the signal's name; None prints nothing.
    """

    def __init__(self, text: str | None) -> None:
        self.text = text
        self._before: dict[int, Any] = {}

    def __enter__(self) -> EndAtOnce:
        self._before = _install(self._end)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _restore(self._before)

    def _end(self, signum: int, frame: FrameType | None) -> None:
        if self.text is not None:
            line = f"systolora: stopped by {signal_name(signum)}{self.text}\n"
            # A progress bar hides the cursor and stands on the line.
            os.write(2, (f"{_SHOW_CURSOR}\n{line}" if os.isatty(2) else line).encode())
        os._exit(exit_code(signum))


def signal_name(signum: int) -> str:
    """SIGINT and the like; "another process" for 0."""
    return signal.Signals(signum).name if signum else "another process"


def exit_code(signum: int) -> int:
    """The exit code that shells give a process that ended by a signal."""
    return 128 + (signum or signal.SIGINT)


def _install(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Takes the signals over; returns the handlers that they had."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    numbers = [int(getattr(signal, name)) for name in SIGNALS if hasattr(signal, name)]
    # None: a handler that was not made by Python and could not be put back.
    taken = [number for number in numbers if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    return {number: signal.signal(number, handler) for number in taken}


def _restore(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
    handlers.clear()
