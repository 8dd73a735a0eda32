"""Where a program in flight lies on a board, what one start of the core needs to know, and how long it may take."""

from __future__ import annotations

from dataclasses import dataclass

from systolora.hls.check import STATUS_BYTES, Region
from systolora.hls.isa import INSTRUCTION_BYTES

from .pool import Slot, SlotPool


@dataclass(frozen=True)
class Timing:
    """Times in seconds.

    Attributes:
        program: longest time that a program may take from its start.
        interrupt_check: how long an interrupt is waited for before the registers are looked at as well.
        reset: how long a soft reset may take, and the test program after it.
    """

    program: float = 30.0
    interrupt_check: float = 0.05
    reset: float = 2.0


@dataclass
class Lane:
    """Where one program in flight lies: its instructions and its status block."""

    code: Slot
    status: Slot


@dataclass(frozen=True)
class Start:
    """One start of the core.

    Attributes:
        lane: where the program and its status block lie. count: its length in instructions.
        window: the addresses that it may touch. sequence: by which its status block is recognised.
    """

    lane: Lane
    count: int
    window: Region
    sequence: int


def make_lane(pool: SlotPool, label: str) -> Lane:
    """A lane with room for a short program."""
    return Lane(pool.take(INSTRUCTION_BYTES, f"{label}, program"), pool.take(STATUS_BYTES, f"{label}, status"))


def write_code(lane: Lane, code: bytes) -> None:
    """Copies a program into its lane and makes the accelerator see it."""
    lane.code.bytes[: len(code)] = memoryview(code)
    lane.code.buffer.sync_to_device()
