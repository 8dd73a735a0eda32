"""Interrupts at chosen places of a thread: KeyboardInterrupt where Python itself could raise it.

CPython looks for signals when a call returns, when a function begins and when a loop jumps back, and nowhere else (bpo-29988, from
3.10 on). So it cannot come between `with lock` and its body, but between a call that took a lock and the line that notes it.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable
from functools import cache
from types import CodeType, FrameType
from typing import Any

_TOLD_OF_SIGNALS = ("CALL", "RESUME", "JUMP_BACKWARD", "JUMP_ABSOLUTE")

LIBRARIES = ("threading", "concurrent.futures._base", "asyncio.base_events", "weakref", "contextlib")
"""Modules of the standard library in which the driver's callers may be interrupted."""


@cache
def check_points(code: CodeType) -> frozenset[int]:
    """Offsets of the instructions right after one at which signals are looked for.

    Where the two have different handlers the place is left out: raised at the second, the exception would go elsewhere.
    """
    instructions = list(dis.get_instructions(code))
    handler = _handlers(code)
    found = set()
    for before, after in zip(instructions, instructions[1:], strict=False):
        told = before.opname.startswith(_TOLD_OF_SIGNALS) and before.opname != "CALL_INTRINSIC_1"
        if told and handler(before.offset) == handler(after.offset):
            found.add(after.offset)
    return frozenset(found)


def _handlers(code: CodeType) -> Callable[[int], int]:
    if sys.version_info < (3, 11):
        return lambda offset: 0
    entries = dis._parse_exception_table(code)  # type: ignore[attr-defined]
    return lambda offset: next((entry.target for entry in entries if entry.start <= offset < entry.end), -1)


class Interrupts:
    """Counts the check points that a function passes, and raises KeyboardInterrupt at one of them.

    Attributes:
        passed: check points that were passed in the last `run`.
        place: where the interrupt was raised, for messages.
    """

    def __init__(self, modules: tuple[str, ...]) -> None:
        self._modules = modules
        self.passed = 0
        self.place = ""
        self._at = -1

    def run(self, function: Callable[[], Any], at: int = -1) -> Any:
        """The function's result; None if it was interrupted at check point number `at`, counted from zero."""
        self.passed, self._at, self.place = 0, at, ""
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            return function()
        except KeyboardInterrupt:
            return None
        finally:
            sys.settrace(before)

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_globals.get("__name__", "").startswith(self._modules):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._step

    def _step(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode" and frame.f_lasti in check_points(frame.f_code):
            number, self.passed = self.passed, self.passed + 1
            if number == self._at:
                self.place = f"{frame.f_code.co_qualname if sys.version_info >= (3, 11) else frame.f_code.co_name}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self._step
