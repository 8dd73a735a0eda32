"""A signal is noted and nothing else; the next one has its usual effect; around it the command line ends at once with a line."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from systolora.training.interrupts import EndAtOnce, StopFlag, exit_code, signal_name

ALL = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("signum", ALL)
def test_the_first_signal_is_noted_and_handlers_come_back(signum: signal.Signals) -> None:
    before = [signal.getsignal(number) for number in ALL]
    with StopFlag() as flag:
        assert flag.signum == 0
        signal.raise_signal(signum)
        assert flag.signum == signum
    assert [signal.getsignal(number) for number in ALL] == before


def test_the_second_one_has_its_usual_effect() -> None:
    with pytest.raises(KeyboardInterrupt), StopFlag() as flag:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert flag.signum == signal.SIGTERM and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_with_more_patience_the_echo_of_a_launcher_is_noted_too() -> None:
    with StopFlag(patience=2) as flag:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    assert flag.signum == signal.SIGINT


def test_signals_that_are_ignored_stay_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with StopFlag() as flag:
            signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert flag.signum == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_nothing_is_taken_over() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work() -> None:
        with StopFlag():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.parametrize("signum", ALL)
@pytest.mark.parametrize("text", [" early", None])
def test_the_command_line_ends_at_once_with_one_line(signum: signal.Signals, text: str | None) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writing, 2)
        with EndAtOnce(text):
            signal.raise_signal(signum)
        os._exit(1)
    os.close(writing)
    said = b"".join(iter(lambda: os.read(reading, 1000), b"")).decode()
    os.close(reading)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == exit_code(signum) == 128 + signum
    assert said == (f"systolora: stopped by {signal_name(signum)} early\n" if text else "")
