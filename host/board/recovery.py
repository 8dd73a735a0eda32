"""After a program did not finish: say what the registers show, and get the core to work again, or say that it cannot be had."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from systolora.hls.isa import INSTRUCTION_BYTES, disassemble
from systolora.sim.functional.device import Program

from .handshake import check_clock
from .lane import Start
from .pool import SlotPool

if TYPE_CHECKING:
    from .session import Session


def timeout_report(name: str, program: Program, start: Start, seconds: float, registers: dict[str, int]) -> str:
    """What is known of a program that did not finish, in one line.

    `error_index` shows the instruction that the core is at while it runs.
    """
    count = len(program.code) // INSTRUCTION_BYTES
    index = registers["error_index"]
    where = f"instruction {index} of {count}"
    if index < count:
        word = program.code[index * INSTRUCTION_BYTES : (index + 1) * INSTRUCTION_BYTES]
        label = program.labels.get(index, "")
        where += f" ({label})" if label else ""
        where += f": {disassemble(word)[0].split(maxsplit=1)[1]}"
    shown = ", ".join(
        f"{key} {value:#x}" for key, value in registers.items() if key not in ("fingerprint", "error_index")
    )
    return f"{name}: program {start.sequence} did not finish in {seconds:g} s; it is at {where}; registers: {shown}"


def recover(session: Session, pool: SlotPool, sequence: int) -> str:
    """Makes the core work again: by its soft reset, else by loading the bitstream again. Each is proved by an empty program.

    Loading sets the clock too, pynq 3 by the divisors in the hand-off file: another rate where the image's PLL is not the build's. So it
    is checked again.

    Returns what helped, "" if nothing did. Raises what the connection to the board raises, and BoardOpenError for a clock that is wrong.
    """
    if session.core.soft_reset(session.timing.reset):
        session.core.enable_interrupt()
        if session.probe(pool, sequence):
            return "a soft reset"
    warnings.warn("the core does not answer after a soft reset; loading the bitstream again", stacklevel=2)
    session.load()
    check_clock(session.design.clock_mhz)
    session.attach()
    return "loading the bitstream again" if session.probe(pool, sequence) else ""
