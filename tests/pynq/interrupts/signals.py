"""Interrupts at random instants, as the keyboard sends them."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class RandomInterrupts:
    """Sends SIGINT to the main thread while a function runs there.

    Attributes:
        sent: interrupts that reached the function.
    """

    def __init__(self, seed: int, longest: float) -> None:
        """`longest`: seconds from the start of the function after which an interrupt comes at the latest."""
        self._random, self._longest = random.Random(seed), longest
        self._armed = False
        self.sent = 0

    def run(self, function: Callable[[], Any]) -> bool:
        """Whether the function was interrupted."""
        stop = threading.Event()
        thread = threading.Thread(target=self._send, args=(stop, self._random.uniform(0, self._longest)))
        before = signal.signal(signal.SIGINT, self._interrupt)
        interrupted = False
        thread.start()
        try:
            self._armed = True
            function()
            self._armed = False
        except KeyboardInterrupt:
            interrupted = True
        finally:
            self._armed = False
            stop.set()
            thread.join()
            signal.signal(signal.SIGINT, before)
        self.sent += interrupted
        return interrupted

    def _send(self, stop: threading.Event, seconds: float) -> None:
        if not stop.wait(seconds):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._armed:
            self._armed = False
            raise KeyboardInterrupt
