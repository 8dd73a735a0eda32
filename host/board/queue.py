"""Programs on their way through a board: two in flight, in order, one running while the next one already lies in memory.

All of it happens in the thread that owns the board. A caller hands its program over in one step and then waits; if that wait is
interrupted, the program runs to its end, and whoever gets its buffers next waits for that.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from systolora.hls.config import ArrayConfig
from systolora.hls.isa import INSTRUCTION_BYTES
from systolora.hls.registers import Counters, Status
from systolora.programs.check import ProgramRegions
from systolora.sim.functional.device import DeviceError, OutOfDeviceMemory, Program

from .buffers import BoardBuffer, BoardMemory
from .completion import Completion, ProgramFuture
from .errors import BoardTimeout, describe
from .lane import Lane, Start, make_lane, write_code
from .recovery import recover, timeout_report

if TYPE_CHECKING:
    from .session import Session

IN_FLIGHT = 2


@dataclass(frozen=True, eq=False)
class Job:
    """A program that was submitted.

    Attributes:
        future: for the caller. placed: it lies in a lane, or was refused. ended: it no longer needs its buffers.
        refused: why it got no lane.
    """

    program: Program
    reads: tuple[BoardBuffer, ...]
    writes: tuple[BoardBuffer, ...]
    future: ProgramFuture = field(default_factory=ProgramFuture)
    placed: Completion = field(default_factory=Completion)
    ended: Completion = field(default_factory=Completion)
    refused: list[Exception] = field(default_factory=list)

    @property
    def buffers(self) -> tuple[BoardBuffer, ...]:
        """What it reads and writes, each once."""
        return tuple(dict.fromkeys((*self.reads, *self.writes)))


class ProgramQueue:
    """Runs programs one after the other.

    Attributes:
        counters: sum of the counters of all programs that ended.
        retries: programs that were run again after the core hung.
    """

    def __init__(self, config: ArrayConfig, session: Session, memory: BoardMemory, regions: ProgramRegions) -> None:
        self._config, self._session, self._memory, self._regions = config, session, memory, regions
        self._health, self._name = memory.health, memory.health.name
        self.counters = Counters()
        self.retries = 0
        self._sequence = 0
        self._closing = False
        self._accepted: deque[Job] = deque()
        self._lanes: deque[Lane] = deque()
        memory.call(self._begin)

    def _begin(self) -> None:
        self._lanes.extend(make_lane(self._memory.pool, "queue") for _ in range(IN_FLIGHT))
        self._placed: asyncio.Queue[tuple[Job, Start] | None] = asyncio.Queue()
        self._worker = asyncio.get_running_loop().create_task(self._work())

    def submit(self, job: Job) -> ProgramFuture:
        """Queues a program; waits while two are in flight.

        Raises:
            BoardLost: if the board is lost.
            OutOfDeviceMemory: if there is no room for its instructions.
            DeviceError: if it is called from a callback of a program while two are in flight.
        """
        owner = self._memory.owner
        if owner.is_current and not self._lanes:
            raise DeviceError(f"{self._name}: two programs are in flight; submit outside of their callbacks")
        with self._memory.exclusive():
            self._memory.call(self._accept, job)
        if not owner.is_current:
            job.placed.wait()
        if job.refused:
            raise job.refused[0]
        return job.future

    def _accept(self, job: Job) -> None:
        self._health.require()
        if self._closing:
            raise DeviceError(f"{self._name}: the device is closed; open it again")
        for buffer in job.buffers:
            buffer.require(
                self._memory
            )  # once more: the caller may have been interrupted, and have freed it, before this began
        job.future.set_running_or_notify_cancel()
        try:
            for buffer in job.buffers:
                buffer.hand_over(job.ended, buffer in job.writes)
        except BaseException:
            job.ended.finish()
            raise
        self._accepted.append(job)
        self._place()

    def _place(self) -> None:
        """Puts programs into the lanes that are free."""
        while self._accepted and self._lanes:
            job, lane = self._accepted.popleft(), self._lanes.popleft()
            try:
                self._fit(lane, len(job.program.code))
                write_code(lane, job.program.code)
            except Exception as error:
                self._lanes.append(lane)
                known = isinstance(error, OutOfDeviceMemory)
                job.refused.append(error if known else self._health.lose(describe(error), error))
                self._end(job, job.refused[0])
            else:
                count = len(job.program.code) // INSTRUCTION_BYTES
                start = Start(lane, count, self._memory.pool.span, self._next_sequence())
                self._placed.put_nowait((job, start))
            job.placed.finish()

    def _fit(self, lane: Lane, nbytes: int) -> None:
        if nbytes > lane.code.size:
            bigger = self._memory.pool.take(nbytes, "queue, program")
            self._memory.pool.give(lane.code)
            lane.code = bigger

    def _next_sequence(self) -> int:
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        return self._sequence

    async def _work(self) -> None:
        while True:
            queued = await self._placed.get()
            if queued is None:
                if self._placed.empty():
                    return
                self._placed.put_nowait(None)  # others came before the queue was closed, and got a lane after it
                continue
            job, start = queued
            outcome: Status | BaseException
            try:
                outcome = await self._run(job, start)
            except DeviceError as error:
                outcome = error
            except Exception as error:
                outcome = self._health.lose(describe(error), error)
            self._lanes.append(start.lane)
            self._end(job, outcome)
            self._place()

    def _end(self, job: Job, outcome: Status | BaseException) -> None:
        job.ended.finish()
        if isinstance(outcome, BaseException):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome)

    async def _run(self, job: Job, start: Start) -> Status:
        self._health.require()
        status = await self._complete(start)
        if status is None:
            status = await self._again(job, start)
        self.counters = self.counters + status.counters
        if status.fingerprint != self._config.fingerprint:
            raise self._health.lose(
                f"the core has fingerprint {status.fingerprint:08x}, the driver {self._config.fingerprint_text}: another "
                "program has loaded another bitstream"
            )
        if status.error:
            raise DeviceError.from_status(self._name, status, job.program.labels)
        return status

    async def _complete(self, start: Start) -> Status | None:
        return await self._session.finish(start) if self._session.begin(start) else None

    async def _again(self, job: Job, start: Start) -> Status:
        """After a program that did not finish: recovers, and runs it a second time if that gives the same result."""
        session, program = self._session, job.program
        for last in (not self._regions.replayable(program.code), True):
            registers = session.core.snapshot()
            report = timeout_report(self._name, program, start, session.timing.program, registers)
            helped = recover(session, self._memory.pool, self._next_sequence())
            if not helped:
                raise self._health.lose(f"{report}; neither a soft reset nor loading the bitstream again helped")
            if last:
                break
            self.retries += 1
            write_code(start.lane, program.code)
            start = replace(start, sequence=self._next_sequence())
            status = await self._complete(start)
            if status is not None:
                return status
        for buffer in job.writes:
            buffer.lose()
        index = registers["error_index"]
        text = f"{report}; {helped} made the board work again, but what the program should have written is lost"
        raise BoardTimeout(text, registers, index, program.labels.get(index, ""))

    async def close(self) -> None:
        """Accepts no more programs, and waits for those in flight. In the thread that owns the board."""
        self._closing = True
        self._placed.put_nowait(None)
        await self._worker
        self._lanes.clear()
