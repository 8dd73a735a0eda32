"""Waiting for another thread, with no lock that an interrupt could leave held.

Python raises KeyboardInterrupt in the main thread when any call returns, also one that has just taken a lock. `with lock` on a lock
of the interpreter is safe: between taking it and the body nothing can be raised. Condition, Event and Semaphore are not: they take
their lock in a function of their own, and an interrupt as that function returns leaves it locked for ever. So is `Future`, which
waits on a Condition; the thread that owns the board would then wait for a thread that has long gone on.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from operator import attrgetter

from systolora.hls.registers import Status


class Completion:
    """Something that happens once, in another thread; any number of threads may wait for it.

    Each waits on a lock of its own, which nobody else needs. One that is interrupted leaves its lock behind, and no harm is done.

    Attributes:
        done: whether it has happened.
    """

    def __init__(self) -> None:
        self.done = False
        self._waiters: deque[threading.Lock] = deque()

    def finish(self) -> None:
        """It has happened. Only once."""
        self.done = True
        while self._waiters:
            self._waiters.popleft().release()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until it has happened, or for `timeout` seconds; whether it has."""
        waiter = threading.Lock()
        waiter.acquire()
        self._waiters.append(waiter)
        # After the append: either `finish` sees the waiter, or it has set `done` before.
        return self.done or waiter.acquire(timeout=-1 if timeout is None else max(0.0, timeout)) or self.done


class _Condition(threading.Condition):
    """A condition whose `with` takes and frees the lock without a function in between that could be interrupted."""

    __enter__ = property(attrgetter("_lock.__enter__"))  # type: ignore[assignment]
    __exit__ = property(attrgetter("_lock.__exit__"))  # type: ignore[assignment]


class ProgramFuture(Future[Status]):
    """The future of a program; an interrupt of a thread that waits for it harms nobody else."""

    def __init__(self) -> None:
        super().__init__()
        self._condition = _Condition()
        self._ended = Completion()
        self.add_done_callback(lambda future: future._ended.finish())  # type: ignore[attr-defined]

    def result(self, timeout: float | None = None) -> Status:
        """See `Future.result`."""
        self._wait(timeout)
        return super().result()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """See `Future.exception`."""
        self._wait(timeout)
        return super().exception()

    def _wait(self, timeout: float | None) -> None:
        if not self._ended.wait(timeout):
            raise FutureTimeoutError
