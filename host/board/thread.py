"""The one thread that owns all pynq objects of a board, with an event loop of its own.

pynq registers an interrupt's file with the event loop that is current when the driver object is made, and loses interrupts if
another loop runs later (Xilinx/PYNQ#1505: works in Jupyter, hangs in a script). With an own loop it works in both.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from systolora.sim.functional.device import DeviceError

T = TypeVar("T")


class OwnerThread:
    """Runs functions and coroutines in its own thread, one at a time."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    @property
    def is_current(self) -> bool:
        """Whether the caller runs in this thread."""
        return threading.current_thread() is self._thread

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """The result of a function that is run in the thread; raises what it raises."""
        if self.is_current:
            return function(*arguments)

        async def run() -> T:
            return function(*arguments)

        return self.spawn(run()).result()

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Starts a coroutine on the thread's loop.

        Raises:
            DeviceError: if the thread has ended.
        """
        if not self._thread.is_alive():
            coroutine.close()
            raise DeviceError("the board was closed; open it again")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def close(self) -> None:
        """Ends the loop, cancels what is left on it, and waits for the thread."""
        if not self._thread.is_alive():
            return
        self.spawn(self._cancel_all()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        if not self.is_current:
            self._thread.join()

    async def _cancel_all(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
