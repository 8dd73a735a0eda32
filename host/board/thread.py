"""The one thread that owns all pynq objects of a board, with an event loop of its own.

pynq registers an interrupt's file with the event loop that is current when the driver object is made, and loses interrupts if
another loop runs later (Xilinx/PYNQ#1505: works in Jupyter, hangs in a script). With an own loop it works in both.

It also gets no KeyboardInterrupt: Python raises that in the main thread only. So all that must not stop half-way is done here, and
is handed over in one step, an append to a queue: before it nothing has happened, after it everything will.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from systolora.sim.functional.device import DeviceError

from .completion import Completion

T = TypeVar("T")

_STARTING = 1.0
"""Seconds that a thread may take to start, or be taken for one that never did."""


class _Task(Generic[T]):
    """A function on its way to the thread, and what became of it."""

    def __init__(self, function: Callable[..., T], arguments: tuple[Any, ...]) -> None:
        self._function, self._arguments = function, arguments
        self._values: list[T] = []
        self._error: BaseException | None = None
        self.ended = Completion()

    def run(self) -> None:
        try:
            self._values.append(self._function(*self._arguments))
        except BaseException as error:
            self._error = error

    def fail(self, error: BaseException) -> None:
        self._error = error
        self.ended.finish()

    def result(self) -> T:
        self.ended.wait()
        try:
            if self._error is not None:
                raise self._error
            return self._values[0]
        finally:
            del (
                self
            )  # an error refers to this frame: without this the task would live until the next garbage collection


class OwnerThread:
    """Runs functions in its own thread, one at a time, in the order in which they were handed over; once it is started.

    Attributes:
        ended: the thread has ended, and so has everything that was handed over.
    """

    def __init__(self, name: str) -> None:
        self.ended = Completion()
        self._tasks: deque[_Task[Any]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = self._closed = False
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)

    def start(self) -> None:
        """Starts the thread. If that is interrupted, `close` ends what has become of it."""
        self._thread.start()

    def _main(self) -> None:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        self._loop = loop
        try:
            loop.call_soon(self._drain)
            loop.run_forever()
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        finally:
            self._closed = True
            self._refuse()
            loop.close()
            self.ended.finish()

    def _drain(self) -> None:
        while self._tasks and not self._stopping:
            task = self._tasks[0]
            task.run()
            # Only now does it leave the queue: while anything is in there, `settle` has something to wait for.
            self._tasks.popleft()
            task.ended.finish()

    def _refuse(self) -> None:
        while self._tasks:
            try:
                self._tasks.popleft().fail(_closed())
            except IndexError:
                return  # the other thread has done it

    @property
    def is_current(self) -> bool:
        """Whether the caller runs in this thread."""
        return threading.current_thread() is self._thread

    @property
    def is_elsewhere(self) -> bool:
        """Whether this is a forked process, which has no such thread."""
        return os.getpid() != self._process

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """The result of a function that is run in the thread; raises what it raises. If the wait is interrupted, the function runs
        none the less, before anything that is handed over later.

        Raises:
            DeviceError: if the thread has ended.
        """
        if self.is_current:
            return function(*arguments)
        return self._hand_over(function, arguments).result()

    def post(self, function: Callable[..., object], *arguments: Any) -> None:
        """Has the thread run a function, without waiting for it. What it raises is lost.

        Raises:
            DeviceError: in a forked process.
        """
        self._hand_over(function, arguments)

    def _hand_over(self, function: Callable[..., T], arguments: tuple[Any, ...]) -> _Task[T]:
        if self.is_elsewhere:
            raise _closed()
        task = _Task(function, arguments)
        self._tasks.append(task)
        loop = self._loop
        if self._closed:
            self._refuse()
        elif loop is not None:
            try:
                loop.call_soon_threadsafe(self._drain)
            except RuntimeError:
                self._refuse()  # the loop was closed a moment ago
        return task

    def settle(self) -> None:
        """Waits until all that was handed over has been run: something is left only if the thread that wanted it was interrupted, or
        if another thread is at it."""
        if self._tasks and not self.is_current:
            self.call(_nothing)

    def close(self, last: Callable[[], object]) -> None:
        """Calls a function in the thread, ends the thread and waits for it. Does nothing the second time."""
        if self._closed or self.is_elsewhere:
            return
        self.post(last)
        self.post(self.stop)
        if self._loop is None and not self.ended.wait(_STARTING):
            return  # its start was interrupted: whenever it begins, it finds that it is to end
        self.join()

    def stop(self) -> None:
        """Ends the loop, and cancels what is left on it. Only in the thread itself."""
        self._stopping = True
        asyncio.get_running_loop().stop()

    def join(self) -> None:
        """Waits for the end of the thread, unless it is the caller's."""
        if not self.is_current:
            self.ended.wait()
            self._thread.join()


def _closed() -> DeviceError:
    return DeviceError("the board was closed; open it again")


def _nothing() -> None:
    """What is handed over in order to wait for all before it."""
