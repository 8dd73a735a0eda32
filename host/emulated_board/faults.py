"""What can go wrong with a board, to order: the faults that an emulated board can be told to have."""

from __future__ import annotations

from dataclasses import dataclass, fields

ALWAYS = -1
"""As a count: every time."""


@dataclass
class Faults:
    """Counts say how many programs (or transfers) are still to be hit; `ALWAYS` hits all. Zero, the default, hits none.

    Attributes:
        hang: programs that start and never finish.
        hang_at: with `hang`, the instruction at which they stop; those before it are executed.
        ignore_soft_reset: soft resets that do not stop a hanging program.
        fail_reload: reloads of the bitstream after which the core does not answer any more.
        lost_interrupt: programs whose interrupt never reaches the processor.
        stale_done: programs during which AP_DONE reads as one once, too early.
        decode_error: programs whose first memory access goes to an address that nothing answers; the core then hangs.
        missing_flush: cache flushes that do nothing. missing_invalidate: cache invalidations that do nothing.
        stuck_clock_mhz: the PL clock runs at this rate whatever is written; 0 means that it obeys.
        fingerprint: what the core reports instead of its configuration's fingerprint; 0 means the truth.
        wrong_bits: programs whose results have one bit flipped (a timing violation, a broken memory).
    """

    hang: int = 0
    hang_at: int = 0
    ignore_soft_reset: int = 0
    fail_reload: int = 0
    lost_interrupt: int = 0
    stale_done: int = 0
    decode_error: int = 0
    missing_flush: int = 0
    missing_invalidate: int = 0
    stuck_clock_mhz: float = 0.0
    fingerprint: int = 0
    wrong_bits: int = 0

    def hits(self, name: str) -> bool:
        """Whether the fault strikes now; counts down."""
        left = getattr(self, name)
        if left > 0:
            setattr(self, name, left - 1)
        return left != 0

    def clear(self) -> None:
        """Back to a board without faults."""
        for field in fields(self):
            setattr(self, field.name, field.default)
