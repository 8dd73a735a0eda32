"""The thread that owns a board, and waiting for it: what was handed over is done, whatever becomes of the one who waits."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
from systolora.board.completion import Completion, ProgramFuture
from systolora.board.thread import OwnerThread
from systolora.hls.registers import Counters, Status
from systolora.sim.functional.device import DeviceError


@pytest.fixture
def owner() -> Iterator[OwnerThread]:
    thread = OwnerThread("test-owner")
    thread.start()
    yield thread
    thread.close(lambda: None)


def interrupt_the_next_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    wait = Completion.wait

    def interrupted(self: Completion, timeout: float | None = None) -> bool:
        monkeypatch.setattr(Completion, "wait", wait)
        raise KeyboardInterrupt

    monkeypatch.setattr(Completion, "wait", interrupted)


def test_calls_return_and_raise_what_the_function_does(owner: OwnerThread) -> None:
    assert owner.call(divmod, 7, 2) == (3, 1)
    assert owner.call(lambda: threading.current_thread().name) == "test-owner"
    assert owner.call(lambda: owner.call(lambda: owner.is_current)), "a call inside of a call is an ordinary one"
    with pytest.raises(ZeroDivisionError):
        owner.call(divmod, 7, 0)


def test_an_interrupted_call_is_done_before_the_next(owner: OwnerThread, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    gate = Completion()
    owner.post(gate.wait)
    interrupt_the_next_wait(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        owner.call(done.append, 1)
    assert done == []
    gate.finish()
    owner.settle()
    assert done == [1]
    owner.call(done.append, 2)
    assert done == [1, 2]


def test_a_call_that_nobody_woke_the_thread_for_is_done_with_the_next(
    owner: OwnerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    owner.call(lambda: None)
    with monkeypatch.context() as patch:
        patch.setattr(owner, "_loop", None)  # the interrupt came right after the task had been put into the queue
        owner.post(done.append, 1)
    owner.call(done.append, 2)
    assert done == [1, 2]


def test_after_its_end_everything_is_refused(owner: OwnerThread) -> None:
    owner.post(owner.stop)
    for _ in range(2):
        with pytest.raises(DeviceError, match="the board was closed; open it again"):
            owner.call(lambda: None)
        owner.join()
    owner.settle()


def test_a_thread_whose_start_was_interrupted_ends_when_it_begins() -> None:
    thread = OwnerThread("test-owner")
    thread.close(lambda: None)
    thread.start()
    assert thread.ended.wait(60)


def test_a_forked_process_does_not_wait_for_a_thread_that_it_has_not(owner: OwnerThread) -> None:
    process = os.fork()
    if process == 0:
        try:
            owner.close(lambda: None)
            owner.call(lambda: None)
        except DeviceError:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


def test_a_completion_wakes_all_that_wait() -> None:
    completion = Completion()
    assert not completion.wait(0)
    seen: list[bool] = []
    threads = [threading.Thread(target=lambda: seen.append(completion.wait())) for _ in range(3)]
    for thread in threads:
        thread.start()
    completion.finish()
    for thread in threads:
        thread.join()
    assert seen == [True] * 3 and completion.wait() and completion.wait(0)


def status() -> Status:
    return Status(0, 0, 1, 1, 0, Counters())  # type: ignore[arg-type]


def test_a_program_future_is_a_future() -> None:
    future = ProgramFuture()
    seen: list[Any] = []
    future.add_done_callback(lambda ended: seen.append(ended.result().sequence))
    assert future.set_running_or_notify_cancel() and not future.cancel()
    with pytest.raises(TimeoutError if sys.version_info >= (3, 11) else Exception):
        future.result(0)
    future.set_result(status())
    assert future.result() == future.result(0) == status() and future.exception() is None and future.done()
    assert seen == [1]
    failed = ProgramFuture()
    failed.set_exception(DeviceError("no"))
    with pytest.raises(DeviceError, match="no"):
        failed.result()
    assert isinstance(failed.exception(), DeviceError)


def test_no_function_runs_between_a_future_and_its_lock() -> None:
    """In one, an interrupt would leave the lock taken: it is raised when a call returns."""
    future = ProgramFuture()
    future.set_result(status())
    entered: list[str] = []

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if frame.f_globals.get("__name__") == "threading":
            entered.append(frame.f_code.co_name)

    before = sys.gettrace()
    sys.settrace(note)
    try:
        future.done()
        future.result()
    finally:
        sys.settrace(before)
    assert entered == []
